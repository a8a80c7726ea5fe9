"""The answer on its way to the client: interim ones as they come, then the final one in the framing it came in."""

from __future__ import annotations

from functools import partial
from select import EPOLLIN, EPOLLOUT
from typing import TYPE_CHECKING

from gateway.edge.exchange.sides import BACKEND, NOT_NOW
from gateway.edge.exchange.upload import Upload
from gateway.edge.known_answers import KnownAnswer
from gateway.edge.refused import Refused
from gateway.edge.stickiness import with_cookie
from gateway.protocol.answers import ResponseReader
from gateway.protocol.bodies import BadBody, Chunked, Dechunker, UntilClose
from gateway.protocol.heads import BadResponse
from gateway.protocol.trailers import Trailers

if TYPE_CHECKING:
    from gateway.edge.exchange.shared import Exchanges
    from gateway.edge.exchange.sides import Downstream
    from gateway.edge.request import Request
    from gateway.protocol.bodies import Framer

HEAD_END = b"\r\n\r\n"


class Answer(Upload):
    """Relays the answer."""

    __slots__ = (
        "_answer_bytes",
        "_body",
        "_broke",
        "_complete",
        "_declined",
        "_first_byte_ns",
        "_head_bytes_came",
        "_keeps_client",
        "_known",
        "_out",
        "_reader",
        "_status",
        "_trailers",
    )

    def __init__(self, shared: Exchanges, client: Downstream, request: Request) -> None:
        super().__init__(shared, client, request)
        self._reader: ResponseReader | None = None
        self._known: KnownAnswer | None = None
        """what is known of the final answer, once its head is there"""
        self._body: Framer | None = None
        """of the answer, until it is complete"""
        self._broke = 0
        """the error of the backend's connection, where sending has met it: who receives is then told of an end"""
        self._status = 0
        """of the answer that the client was sent; 0 before"""
        self._keeps_client = False
        self._complete = False
        """whether the backend has said all of its answer"""
        self._head_bytes_came = False
        self._declined = False
        """whether this is the answer to a handshake, which was counted and logged as one"""
        self._first_byte_ns = 0
        self._answer_bytes = 0
        self._trailers: Trailers | None = None
        """of the answer, where the configuration changes some of its fields"""
        self._out = b""

    def _backend_failed(self, error: int) -> None:
        """The backend's connection ended before its answer did. :param error: an errno; 0 for its end"""
        raise NotImplementedError

    def _release_backend(self, reusable: bool) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        raise NotImplementedError

    def _answers(self) -> bool:
        return self._status != 0

    def _reads_body(self) -> bool:
        return self._known is not None

    # --- the head -----------------------------------------------------------------------------------------------------

    def _answer_came(self, data: bytes | int) -> None:
        """The backend sent something of its answer's head, or of its body in the same turn. The poller's reader."""
        if isinstance(data, int):
            if data not in NOT_NOW:
                self._backend_failed(data)
            return
        if self._known is not None:
            self._body_came(data)
            return
        if not data:
            self._backend_failed(0)
            return
        self._head_bytes_came = True
        shared = self._shared
        request = self._request
        is_head = request.head.method == b"HEAD"
        if self._reader is None and not is_head:
            end = data.find(HEAD_END) + 4
            known = shared.known_answers.find(data[:end]) if end > 4 else None
            if known is not None:
                self._begin(known, data, end)
                return
        reader = self._reader
        try:
            if reader is None:
                reader = self._reader = ResponseReader(shared.config.max_answer_head, shared.config.max_answer_fields)
            head = reader.feed(data)
            while head is not None and head.status < 200 and head.status != 101:
                if request.head.http11:
                    self._write_client(shared.interim(head))
                    if self._over:
                        return
                self._touch()
                head = reader.feed(b"")
            if head is None:
                return
            if head.status == 101:
                raise BadResponse("a switch of protocols that nobody asked for")
            known = KnownAnswer.of(head, request.head.method)
        except BadResponse as error:
            self._count_failure()
            self._refuse(Refused(502, f"the backend's answer is {error}", "refused_by_backend"))
            return
        if not is_head:
            shared.known_answers.remember(head, known)
        rest = reader.received
        self._reader = None
        self._begin(known, rest, 0)

    def _begin(self, known: KnownAnswer, data: bytes, at: int) -> None:
        """The final answer's head is there. :param data: has the body's first bytes from ``at`` on"""
        shared = self._shared
        request = self._request
        self._known = known
        self._status = known.status
        self._first_byte_ns = shared.clock()
        if known.status >= 500:
            self._count_failure()
        body = self._body = known.framer()
        end = at
        if body is not None:
            changes = request.route.answer_changes
            if known.is_chunked and not request.head.http11:
                body = self._body = Dechunker(padded=True)
            elif changes is not None and isinstance(body, Chunked):
                self._trailers = Trailers(body, changes.names)
            try:
                end = body.scan(data, at, len(data))
            except BadBody:
                self._status = self._first_byte_ns = 0
                self._count_failure()
                self._refuse(
                    Refused(502, "the backend's answer is malformed: its body's framing", "refused_by_backend")
                )
                return
            self._answer_bytes = end - at
        complete = body is None or body.complete
        framed = known.is_framed and not isinstance(body, Dechunker)
        keeps = self._keeps_client = (
            not self._declined
            and request.facts.keep_alive
            and framed
            and self._upload is None
            and not shared.config.draining
            and not self._client.is_last
        )
        changes = request.route.answer_changes
        sticky = request.upstream.sticky is not None
        if keeps and request.head.http11 and known.is_plain and at and not sticky and changes is None:
            out = data if end == len(data) else data[:end]
        else:
            payload = data[at:end] if not isinstance(body, Dechunker) else b"".join(data[a:b] for a, b in body.slices)
            if self._trailers is not None:
                payload = self._trailers.relayed(data, at, end)
            head = known.head_for(request.head.http11, keeps, changes)
            if sticky:
                assert self._backend is not None
                head = with_cookie(head, request, self._backend.target)
            out = head + payload
        if complete:
            self._body = None
            self._complete = True
            self._release_backend(known.keeps_backend and end == len(data))
            if not self._to_client:
                self._out = out
                shared.poller.defer(partial(self._client.wire.write, self._client.fd, out), self._whole_answer_written)
                return
            self._write_client(out)
            return
        self._write_client(out)
        if not self._over:
            self._touch()
            self._watch_backend(body=True)

    def _count_failure(self) -> None:
        """The backend has failed the request, which may eject it."""
        if self._backend is not None:
            self._shared.backends.failed(self._backend.target)

    def _whole_answer_written(self, sent: int) -> None:
        """:param sent: what the client's socket took of an answer that came whole, or a negative errno"""
        if self._over:
            return
        out, self._out = self._out, b""
        self._written_to_client(sent, out)
        if not self._over and not self._to_client:
            self._finish()

    # --- the body -----------------------------------------------------------------------------------------------------

    def _backend_ready(self, mask: int) -> None:
        """The poller: something can be done with the backend's connection."""
        if mask & EPOLLOUT:
            self._flush_backend()
            if self._over:
                return
        if not mask & ~EPOLLOUT or self._backend is None:
            return
        if self._known is None:
            self._read_head(mask)
        elif self._to_client:
            self._backend_waits = True
        else:
            self._read_answer(mask)

    def _read_head(self, mask: int) -> None:
        """As the poller reads for :meth:`_answer_came`, while the request is still being sent."""
        backend = self._backend
        assert backend is not None
        most = self._shared.kernel.receive_bytes
        data = backend.wire.receive(backend.fd, most)
        if mask & ~EPOLLOUT != EPOLLIN or backend.wire.is_full(len(data) if isinstance(data, bytes) else 0, most):
            self._ask_backend_again()
        self._answer_came(data)

    def _read_answer(self, mask: int) -> None:
        backend = self._backend
        assert backend is not None
        shared = self._shared
        got = backend.wire.read(backend.fd)
        if got <= 0:
            if -got not in NOT_NOW:
                self._body_ended(-got)
            return
        if mask & ~EPOLLOUT != EPOLLIN or backend.wire.is_full(got, shared.kernel.receive_bytes):
            self._ask_backend_again()
        body = self._body
        assert body is not None
        if body.__class__ is Dechunker or self._trailers is not None:
            self._body_came(bytes(shared.kernel.buffer[:got]))
            return
        try:
            end = body.scan(shared.kernel.buffer, 0, got)
        except BadBody:
            self._cut(BACKEND, "protocol_error")
            return
        self._answer_bytes += end
        self._send_client(0, end)
        self._after_piece(end < got)

    def _body_came(self, data: bytes) -> None:
        """Bytes of the body that were received apart from the worker's buffer."""
        body = self._body
        if body is None:
            return
        if not data:
            self._body_ended(0)
            return
        try:
            end = body.scan(data, 0, len(data))
        except BadBody:
            self._cut(BACKEND, "protocol_error")
            return
        self._answer_bytes += end
        if isinstance(body, Dechunker):
            self._write_client(b"".join(data[a:b] for a, b in body.slices))
        elif self._trailers is not None:
            self._write_client(self._trailers.relayed(data, 0, end))
        else:
            self._write_client(data[:end])
        self._after_piece(end < len(data))

    def _after_piece(self, excess: bool) -> None:
        """A piece of the body was sent. :param excess: whether the backend sent more than its answer"""
        if self._over:
            return
        self._touch()
        body = self._body
        if body is not None and body.complete:
            assert self._known is not None
            self._body = None
            self._complete = True
            self._release_backend(self._known.keeps_backend and not excess)
            if not self._to_client:
                self._finish()

    def _body_ended(self, error: int) -> None:
        """The backend's connection ended. :param error: an errno; 0 for its end"""
        error = error or self._broke
        backend = self._backend
        truncated = backend is not None and backend.wire.is_truncated(backend.fd)
        if error == 0 and isinstance(self._body, UntilClose) and not truncated:
            self._body = None
            self._complete = True
            self._release_backend(False)
            if not self._to_client:
                self._finish()
            return
        self._backend_failed(error)

    def _client_flushed(self) -> None:
        if self._complete:
            self._finish()
        elif self._backend_waits:
            self._backend_waits = False
            self._ask_backend_again()
