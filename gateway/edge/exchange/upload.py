"""The request's body on its way to the backend, in the framing in which it came."""

from __future__ import annotations

from select import EPOLLIN, EPOLLOUT
from typing import TYPE_CHECKING

from gateway.edge.exchange.sides import CLIENT, HEAD, NOT_NOW, RECEIVE_BYTES, Sides
from gateway.edge.refused import Refused
from gateway.protocol.bodies import BadBody

if TYPE_CHECKING:
    from gateway.edge.exchange.shared import Exchanges
    from gateway.edge.exchange.sides import Downstream
    from gateway.edge.request import Request

READABLE = ~EPOLLOUT


class Upload(Sides):
    """Relays the request's body."""

    __slots__ = ("_request_bytes", "_unwanted")

    def __init__(self, shared: Exchanges, client: Downstream, request: Request) -> None:
        super().__init__(shared, client, request)
        self._request_bytes = 0
        self._unwanted = False
        """whether the backend takes no more of the body: the rest of it is read and dropped"""

    def _refuse(self, refused: Refused) -> None:
        raise NotImplementedError

    def _cut(self, initiator: str, cause: str) -> None:
        """End an exchange whose answer has begun and cannot be completed."""
        raise NotImplementedError

    def _answers(self) -> bool:
        """Whether the client was sent something of the answer."""
        raise NotImplementedError

    def _begin_upload(self, early: bytes) -> bytes:
        """Look at what came behind the request's head.

        :returns: what of it is of the body; the rest is the client's next request
        :raises BadBody: the body's framing is malformed
        """
        upload = self._upload
        if upload is None:
            self._client.ahead = early
            return b""
        end = upload.scan(early, 0, len(early))
        self._request_bytes += end
        self._client.ahead = early[end:]
        if upload.complete:
            self._upload = None
        return early[:end]

    def _client_ready(self, mask: int) -> None:
        """The poller: something can be done with the client's connection, that of a body or of one that is slow."""
        if mask & EPOLLOUT:
            self._flush_client()
            if self._over:
                return
        if not mask & READABLE:
            return
        if self._upload is not None:
            self._read_body(mask)
        elif self._client.is_full:
            self._client_failed(0)  # nothing else is watched then
        elif self._client_mode != HEAD:  # else its own reader has it
            self._read_ahead(mask)

    def _read_ahead(self, mask: int) -> None:
        """The client sent something behind its request, or went away, while the answer waits for it to take more."""
        client = self._client
        data = client.wire.receive(client.fd, RECEIVE_BYTES)
        got = len(data) if isinstance(data, bytes) else 0
        if mask & READABLE != EPOLLIN or client.wire.is_full(got, RECEIVE_BYTES):
            self._shared.poller.ask_again(client.fd, self._client_events())
        client.read(data)
        if client.is_full and not self._over:
            # It has epoll watch for the client's end alone now; what waits to be sent has to go on all the same.
            self._shared.poller.rewatch(client.fd, self._client_events(), self._client_ready)

    def _read_body(self, mask: int) -> None:
        if (self._to_backend or self._backend is None) and not self._unwanted:
            self._client_waits = True
            return
        shared = self._shared
        client = self._client
        got = client.wire.read(client.fd)
        if got <= 0:
            if -got not in NOT_NOW:
                self._client_failed(-got)
            return
        if mask & READABLE != EPOLLIN or client.wire.is_full(got, shared.kernel.receive_bytes):
            shared.poller.ask_again(client.fd, self._client_events())
        upload = self._upload
        assert upload is not None
        try:
            end = upload.scan(shared.kernel.buffer, 0, got)
        except BadBody as error:
            if self._answers():
                self._cut(CLIENT, "protocol_error")
            else:
                self._refuse(Refused(400, str(error), "bad_request"))
            return
        self._request_bytes += end
        if upload.complete:
            self._upload = None
            client.ahead += bytes(shared.kernel.buffer[end:got])
        if not self._unwanted:
            self._send_backend(0, end)
            if self._over:
                return
        self._touch()
        if self._upload is None:
            self._watch_client()
            self._upload_done()

    def _upload_done(self) -> None:
        """The whole body has been read."""
        raise NotImplementedError
