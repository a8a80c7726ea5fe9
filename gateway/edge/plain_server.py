"""aiohttp's server as a proxy needs it: heads read as strictly as a first one, answers with just their own fields."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from gateway.edge.forwarding import fields_to_client
from gateway.edge.plain_fields import decoded
from gateway.edge.refusal import refusal_bytes
from gateway.edge.request import Peer, Refused
from gateway.protocol.http import MAX_FIELDS, MAX_HEAD_BYTES, RequestHead, ResponseHead
from gateway.tunnels.table.layout import NEVER

if TYPE_CHECKING:
    from gateway.edge.plain import PlainHTTP

KEEPALIVE_SECONDS = 75.0
CHUNK_BYTES = 64 * 1024


class Connection(RequestHandler):
    """A client's connection as aiohttp serves it."""

    __slots__ = ("_plain", "_received", "deadline_ns", "peer")

    def __init__(self, plain: PlainHTTP, peer: Peer, received: bytes, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            plain.server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # means none, as web.Server documents it
            auto_decompress=False,
            keepalive_timeout=KEEPALIVE_SECONDS,
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            max_headers=2 * MAX_FIELDS,  # what is over MAX_FIELDS is refused with 431, and not with aiohttp's 400
            read_bufsize=CHUNK_BYTES,
            tcp_keepalive=False,  # the listening socket has it, and so has this one
        )
        self._plain = plain
        self._received = received
        self.peer = peer
        self.deadline_ns = NEVER

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is aiohttp's now: begin with what was read of it before."""
        super().connection_made(transport)
        received, self._received = self._received, b""
        self.data_received(received)

    def data_received(self, data: bytes) -> None:
        """Bytes came. Where they begin a head and do not end it, the rest of it is due."""
        super().data_received(data)
        if self._waiter is None or self._waiter.done():
            self._plain.forget(self)
        elif self.deadline_ns == NEVER:
            self._plain.expect_head(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is gone."""
        self._plain.forget(self)
        super().connection_lost(exc)

    def close_if_idle(self) -> None:
        """Close the connection if aiohttp serves it no more, as after ``close()``, unless a head has begun to come."""
        task = self._task_handler
        if (task is None or task.done()) and self.deadline_ns == NEVER:
            self.force_close()

    def late(self) -> None:
        """The head did not come in time."""
        refused = Refused(408, "the request's head did not come in time", "timeout")
        self._plain.refused_late(self, refused)
        if self.transport is not None:
            self.transport.write(refusal_bytes(refused.status, refused.reason))
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what aiohttp could not parse, and what went wrong in here."""
        if request.writer.output_size > 0:
            raise ConnectionResetError("an answer has begun already")
        if isinstance(exc, LineTooLong):
            status, reason = 431, f"a request line or a header field over {MAX_HEAD_BYTES} bytes"
        elif status == 500:
            self.log_exception("a request from %s failed", self.peer, exc_info=exc)
            reason = "the gateway failed"
        else:
            reason = " ".join((message or "malformed request").split())
        refused = Refused(status, reason, "bad_request")
        return self._plain._refuse(request, RequestHead(), refused, 0)


class Refusal(web.Response):
    """An answer of the gateway's own: it names no server, as those that do not pass through aiohttp."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        for name in ("Date", "Server"):
            self.headers.popall(name, None)


class RelayedResponse(web.StreamResponse):
    """A backend's answer on its way to the client: its fields and no others."""

    def __init__(self, answer: Any) -> None:
        fields = fields_to_client(_response_head(answer))
        super().__init__(status=answer.status, reason=answer.reason, headers=decoded(fields))
        self._ours = [name for name in ("Content-Type", "Date", "Server") if name not in self.headers]
        self.is_empty = False

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        for name in self._ours:
            self.headers.popall(name, None)
        self.is_empty = bool(self._must_be_empty_body)


class Nothing(web.StreamResponse):
    """The response to a request whose connection has left aiohttp."""

    def __init__(self) -> None:
        super().__init__()
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class Tail:
    """Takes the bytes that aiohttp has read behind an upgrade."""

    def __init__(self) -> None:
        self.received = bytearray()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.received += data
        return False, b""

    def feed_eof(self) -> None:
        pass


def _response_head(answer: Any) -> ResponseHead:
    return ResponseHead(answer.raw_headers)
