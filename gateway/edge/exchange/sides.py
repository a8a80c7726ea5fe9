"""The two sides of an exchange: what is sent, what waits for a socket to take more, and what epoll watches."""

from __future__ import annotations

from errno import EAGAIN, EINTR
from select import EPOLLET, EPOLLOUT, EPOLLRDHUP
from typing import TYPE_CHECKING, Protocol

from gateway.tunnels.table.layout import NEVER, READING

if TYPE_CHECKING:
    from gateway.edge.exchange.shared import Exchanges
    from gateway.edge.pool import BackendConnection
    from gateway.edge.refused import Refused
    from gateway.edge.request import Request
    from gateway.edge.wire import Wire
    from gateway.protocol.bodies import Framer

NOT_NOW = (EAGAIN, EINTR)
RECEIVE_BYTES = 64 * 1024
CLIENT, BACKEND, GATEWAY = "client", "backend", "gateway"
"""Who cut an exchange short."""

# What epoll watches of a side, and who is called.
UNWATCHED, HEAD, BODY, SENDING = range(4)


class Downstream(Protocol):
    """The client's connection, as its exchange sees it (``edge/client.py``)."""

    fd: int
    wire: Wire
    deadline_ns: int
    ahead: bytes
    """what it sent behind the request"""
    is_full: bool
    """whether it is not read any more, as too much came ahead"""
    is_last: bool
    """whether no further request is served on it"""
    pinned: BackendConnection | None
    """a backend's connection that serves this client alone"""

    def read(self, data: bytes | int) -> None:
        """Take what came ahead of the next request: the poller's reader."""

    def watch(self) -> None:
        """Have the poller call :meth:`read` again."""

    def finished(self, keep: bool) -> None:
        """The exchange is over. :param keep: whether another request may follow"""

    def gone(self) -> None:
        """The exchange is over, as the client went away."""

    def cut(self, reset: bool) -> None:
        """The answer broke off: close the connection. :param reset: so that it does not look like the answer's end"""

    def answer(self, refused: Refused, keep: bool) -> None:
        """Answer for the gateway itself. :param keep: whether another request may follow"""

    def abandon(self) -> None:
        """Something failed: close the connection, and whatever is under way on it."""


class Sides:
    """The sockets of one exchange."""

    __slots__ = (
        "_backend",
        "_backend_mode",
        "_backend_waits",
        "_client",
        "_client_mode",
        "_client_waits",
        "_over",
        "_request",
        "_shared",
        "_to_backend",
        "_to_client",
        "_upload",
    )

    def __init__(self, shared: Exchanges, client: Downstream, request: Request) -> None:
        self._shared = shared
        self._client = client
        self._request = request
        self._backend: BackendConnection | None = None
        self._upload: Framer | None = None
        """of the request's body, until that has been read to its end"""
        self._to_client = b""
        self._to_backend = b""
        self._client_mode = HEAD
        self._backend_mode = UNWATCHED
        self._client_waits = False
        """whether something came of the client that was not read yet, as the backend takes no more"""
        self._backend_waits = False
        self._over = False

    # What the files above this one do.

    def _client_ready(self, mask: int) -> None:
        raise NotImplementedError

    def _backend_ready(self, mask: int) -> None:
        raise NotImplementedError

    def _answer_came(self, data: bytes | int) -> None:
        raise NotImplementedError

    def _client_failed(self, error: int) -> None:
        """The client's connection failed. :param error: an errno; 0 for its end"""
        raise NotImplementedError

    def _backend_takes_no_more(self, error: int) -> None:
        """The backend's connection does not take the request. :param error: an errno"""
        raise NotImplementedError

    def _client_flushed(self) -> None:
        """Nothing waits for the client any more."""
        raise NotImplementedError

    # --- time ---------------------------------------------------------------------------------------------------------

    def _touch(self) -> None:
        """Something moved: set the next deadline."""
        limits = self._request.route.limits
        if self._to_client or self._to_backend:
            wait_ns = limits.write_stall_ns
        elif self._upload is not None:
            wait_ns = limits.request_body_ns
        else:
            wait_ns = limits.response_ns
        self._client.deadline_ns = NEVER if wait_ns >= NEVER else self._shared.relay.now + wait_ns

    # --- to the client ------------------------------------------------------------------------------------------------

    def _send_client(self, start: int, end: int) -> None:
        """Send the client ``kernel.buffer[start:end]``."""
        if self._to_client:
            self._to_client += bytes(self._shared.kernel.buffer[start:end])
            return
        sent = self._client.wire.send(self._client.fd, start, end)
        if sent != end - start:
            self._keep_for_client(sent, bytes(self._shared.kernel.buffer[start:end]))

    def _write_client(self, data: bytes) -> None:
        if self._to_client:
            self._to_client += data
        elif data:
            self._written_to_client(self._client.wire.write(self._client.fd, data), data)

    def _written_to_client(self, sent: int, data: bytes) -> None:
        """:param sent: what the client's socket took of ``data``, or a negative errno"""
        if sent != len(data):
            self._keep_for_client(sent, data)

    def _keep_for_client(self, sent: int, data: bytes) -> None:
        """Keep what the client's socket did not take; until it is gone, the backend is not read."""
        if sent < 0:
            if -sent not in NOT_NOW:
                self._client_failed(-sent)
                return
            sent = 0
        self._to_client = data[sent:]
        self._touch()
        self._watch_client()

    def _flush_client(self) -> None:
        data = self._to_client
        if not data:
            return
        sent = self._client.wire.write(self._client.fd, data)
        if sent < 0:
            if -sent not in NOT_NOW:
                self._client_failed(-sent)
            return
        self._to_client = data[sent:]
        self._touch()
        if not self._to_client:
            self._watch_client()
            self._client_flushed()

    def _watch_client(self) -> None:
        """Have epoll watch the client for what can be done with it now."""
        client = self._client
        poller = self._shared.poller
        mode = SENDING if self._to_client else HEAD if self._upload is None else BODY
        if mode == self._client_mode:
            return
        before, self._client_mode = self._client_mode, mode
        if mode == HEAD:
            client.watch()
            return
        if mode == BODY and before == HEAD:
            received = poller.callback_on(client.fd, self._client_ready)
        else:
            received = poller.rewatch(client.fd, self._client_events(), self._client_ready)
        if isinstance(received, bytes) and received:
            assert self._upload is None, "a piece of the body was read as if it were the next request"
            client.ahead += received
        elif received is not None and mode == BODY:
            poller.ask_again(client.fd)

    def _client_events(self) -> int:
        if self._client_mode != SENDING:
            return READING
        return EPOLLRDHUP | EPOLLET | EPOLLOUT if self._client.is_full else READING | EPOLLOUT

    # --- to the backend -----------------------------------------------------------------------------------------------

    def _send_backend(self, start: int, end: int) -> None:
        """Send the backend ``kernel.buffer[start:end]``."""
        backend = self._backend
        assert backend is not None
        sent = backend.wire.send(backend.fd, start, end)
        if sent != end - start:
            self._written_to_backend(sent, bytes(self._shared.kernel.buffer[start:end]))

    def _written_to_backend(self, sent: int, data: bytes) -> None:
        """Keep what the backend's socket did not take; until it is gone, the client's body is not read.

        :param sent: what it took of ``data``, or a negative errno
        """
        if sent < 0:
            if -sent not in NOT_NOW:
                self._backend_takes_no_more(-sent)
                return
            sent = 0
        self._to_backend = data[sent:]
        if self._to_backend:
            self._touch()
            self._watch_backend()

    def _flush_backend(self) -> None:
        backend = self._backend
        if not self._to_backend or backend is None:
            return
        data = self._to_backend
        sent = backend.wire.write(backend.fd, data)
        if sent < 0:
            if -sent not in NOT_NOW:
                self._backend_takes_no_more(-sent)
            return
        self._to_backend = data[sent:]
        self._touch()
        if not self._to_backend:
            self._watch_backend()
            self._resume_client()

    def _resume_client(self) -> None:
        """The backend takes more: read on what the client sent meanwhile."""
        if self._client_waits and not self._over:
            self._client_waits = False
            self._shared.poller.ask_again(self._client.fd, self._client_events())

    def _watch_backend(self, body: bool = False) -> None:
        """Have epoll watch the backend for what can be done with it now.

        :param body: whether the answer's head is there: from now on its body is read into the worker's buffer
        """
        backend = self._backend
        assert backend is not None
        poller = self._shared.poller
        if self._to_backend:
            mode = SENDING
        elif body or self._backend_mode == BODY or (self._backend_mode == SENDING and self._reads_body()):
            mode = BODY
        else:
            mode = HEAD
        if mode == self._backend_mode:
            return
        before, self._backend_mode = self._backend_mode, mode
        if mode == HEAD:
            poller.read(backend.fd, self._answer_came, known=True)
            return
        if mode == BODY and before == HEAD:
            received = poller.callback_on(backend.fd, self._backend_ready)
        else:
            events = READING | EPOLLOUT if mode == SENDING else READING
            received = poller.rewatch(backend.fd, events, self._backend_ready)
        if received is not None:
            # It came in this turn, before the backend was given another reader; there is only one place for it.
            self._answer_came(received)

    def _reads_body(self) -> bool:
        """Whether the answer's head is there."""
        raise NotImplementedError

    def _ask_backend_again(self) -> None:
        backend = self._backend
        assert backend is not None
        events = READING | EPOLLOUT if self._backend_mode == SENDING else READING
        self._shared.poller.ask_again(backend.fd, events)
