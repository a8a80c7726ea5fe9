"""One client's connection to the admin address: reads its requests one after another, and sends the answers.

The heads and bodies of requests are read as strictly as those of the gateway's own clients (``protocol/``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping

from gateway.admin.messages import Handler, Request, Response, text
from gateway.protocol.bodies import BadBody, Dechunker, Length
from gateway.protocol.framing import request_body
from gateway.protocol.heads import BadHead, RequestHead
from gateway.protocol.requests import RequestReader

IDLE_SECONDS = 75.0
"""For the next request: until its head is complete."""

BODY_SECONDS = 30.0
SEND_SECONDS = 60.0
"""For an answer, until the client has received it."""

LINGER_SECONDS = 1.0
"""For what a client still sends when it has been refused. A reset could overtake the answer (RFC 9112 section 9.6)."""

MAX_BODY_BYTES = 64 * 1024
READ_BYTES = 64 * 1024

log = logging.getLogger("gateway")


class Connection:
    """A connection. ``idle_since``: on the loop's clock, when its last answer was sent; None during a request."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        handler: Handler,
        common: Mapping[str, str],
    ) -> None:
        """
        :param handler: answers all requests
        :param common: fields that every answer has
        """
        self._reader = reader
        self._writer = writer
        self._handler = handler
        self._common = common
        self._ahead = b""
        self._loop = asyncio.get_running_loop()
        self.idle_since: float | None = self._loop.time()
        self.closing = False
        """no request is read any more"""

    async def serve(self) -> None:
        """Serve the client until one of both ends the connection, which is then for the caller to abort."""
        self._writer.transport.set_write_buffer_limits(0)  # so that drain() waits for all
        try:
            while await self._serve_one():
                self.idle_since = self._loop.time()
        except BadHead as error:
            await self._refuse(error.status, str(error))
        except BadBody as error:
            await self._refuse(400, f"malformed request body: {error}")
        except (OSError, TimeoutError, EOFError):
            pass  # the client has left, or has been too slow

    def abort(self) -> None:
        """Close the connection; what has been sent still arrives."""
        self._writer.transport.abort()

    async def _serve_one(self) -> bool:
        """Serve one request; return whether there may be another."""
        head = await self._read_head()
        if head is None:
            return False
        self.idle_since = None
        async with asyncio.timeout(BODY_SECONDS):
            body = await self._read_body(head)
        request = Request.of(head, body, self._writer.get_extra_info("socket"))
        try:
            response = await self._handler(request)
        except Exception:
            log.exception("admin: no answer to %s %s", request.method, request.path)
            response = text("500: Internal Server Error", 500)
        keep = head.http11 and not self.closing and b"close" not in head.tokens(b"connection")
        await self._send(response, head, keep)
        return keep

    async def _read_head(self) -> RequestHead | None:
        """Return the next request's head, None if there is none. :raises BadHead: it is malformed"""
        reader = RequestReader()
        data = self._ahead
        async with asyncio.timeout(IDLE_SECONDS):
            while data := data or await self._reader.read(READ_BYTES):
                if (head := reader.feed(data)) is not None:
                    self._ahead = reader.received[head.size :]
                    return head
                data = b""
        return None

    async def _read_body(self, head: RequestHead) -> bytes:
        """Return a request's body. :raises BadBody: it is malformed :raises BadHead: it is too long (413)"""
        framer = request_body(head)
        if framer is None:
            return b""
        if not isinstance(framer, Length):
            framer = Dechunker()
        body = bytearray()
        if framer.remaining <= MAX_BODY_BYTES and not self._ahead and b"100-continue" in head.tokens(b"expect"):
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while framer.remaining + len(body) <= MAX_BODY_BYTES:
            data = self._ahead or await self._reader.read(READ_BYTES)
            if not data:
                raise EOFError
            end = framer.scan(data, 0, len(data))
            for first, last in framer.slices if isinstance(framer, Dechunker) else [(0, end)]:
                body += data[first:last]
            self._ahead = data[end:]
            if framer.complete and len(body) <= MAX_BODY_BYTES:
                return bytes(body)
        raise BadHead(413, f"request body over {MAX_BODY_BYTES} bytes")

    async def _send(self, response: Response, head: RequestHead | None, keep: bool) -> None:
        """:param head: of the request, if that was understood"""
        data = response.head(head is None or head.http11, keep, self._common)
        if head is None or head.method != b"HEAD":
            data += response.body
        async with asyncio.timeout(SEND_SECONDS):
            self._writer.write(data)
            await self._writer.drain()

    async def _refuse(self, status: int, reason: str) -> None:
        """Answer what could not be read, and close the connection."""
        with contextlib.suppress(OSError, TimeoutError):
            await self._send(text(f"{status}: {reason}\n", status), None, keep=False)
            async with asyncio.timeout(LINGER_SECONDS):
                self._writer.write_eof()
                while await self._reader.read(READ_BYTES):
                    pass
