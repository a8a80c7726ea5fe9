"""aiohttp's server as a proxy needs it: heads read as strictly as anywhere, answers with the fields that they came with."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict

from gateway.edge.forwarding import fields_to_client
from gateway.edge.refusal import refusal_bytes
from gateway.edge.request import Peer, Refused
from gateway.protocol.http import MAX_FIELDS, MAX_HEAD_BYTES, RequestHead, ResponseHead
from gateway.tunnels.layout import NEVER

if TYPE_CHECKING:
    from gateway.edge.plain import PlainHTTP

KEEPALIVE_SECONDS = 75.0
CHUNK_BYTES = 64 * 1024


class Connection(RequestHandler):
    """A client's connection as aiohttp serves it."""

    __slots__ = ("_plain", "_received", "peer")

    def __init__(self, plain: PlainHTTP, peer: Peer, received: bytes, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            plain.server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # means none, as web.Server documents it
            auto_decompress=False,
            keepalive_timeout=KEEPALIVE_SECONDS,
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            max_headers=MAX_FIELDS,
            read_bufsize=CHUNK_BYTES,
            tcp_keepalive=False,  # the listening socket has it, and so has this one
        )
        self._plain = plain
        self._received = received
        self.peer = peer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is aiohttp's now: begin with what was read of it before."""
        super().connection_made(transport)
        received, self._received = self._received, b""
        self.data_received(received)

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
        if status == 500:
            self.log_exception("a request from %s failed", self.peer, exc_info=exc)
            reason = "the gateway failed"
        else:
            reason = " ".join((message or "malformed request").split())
        refused = Refused(status, reason, "bad_request")
        return self._plain._refuse(request, RequestHead(), refused, 0)


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
    head = ResponseHead()
    for name, value in answer.raw_headers:
        head.on_header(name, value)
    return head


def decoded(fields: list[tuple[bytes, bytes]]) -> CIMultiDict[str]:
    """Fields as aiohttp takes them."""
    return CIMultiDict((name.decode("latin-1"), value.decode("utf-8", "surrogateescape")) for name, value in fields)
