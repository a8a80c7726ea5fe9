"""aiohttp's client as a proxy needs it: fields as they came, and interim answers passed on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from aiohttp import ClientPayloadError, ClientRequest, ClientResponse
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict

from gateway.edge.forwarding import fields_to_client
from gateway.protocol.http import ResponseHead, response_bytes

CONTINUE_SECONDS = 1.0
"""How long a backend may take to ask for the body with 100 before it is sent unasked (RFC 9110 section 10.1.1)."""

Interim = Callable[[bytes], Awaitable[None]]

FIELDS: ContextVar[CIMultiDict[str]] = ContextVar("FIELDS")
"""The fields of the request being proxied."""

INTERIM: ContextVar[Interim | None] = ContextVar("INTERIM", default=None)
"""Sends the client of the request being proxied an interim answer; None for a client of HTTP/1.0, which knows none."""


class BackendRequest(ClientRequest):
    """A request with just the fields in ``FIELDS``, in their order."""

    def update_headers(self, headers: Any) -> None:
        """Take the fields as they are. aiohttp would put Host first, and drop repeated ones that differ in case."""
        self.headers = FIELDS.get().copy()
        if "Host" not in self.headers:
            self.headers["Host"] = self.url.host_port_subcomponent or ""

    def update_expect_continue(self, expect: bool = False) -> None:
        """Have a body that waits for a 100 sent after a while if none comes."""
        super().update_expect_continue(expect)
        if self._continue is not None:
            self.loop.call_later(CONTINUE_SECONDS, _go_on, self._continue)


class BackendResponse(ClientResponse):
    """An answer whose interim answers (RFC 9110 section 15.2) are passed on through ``INTERIM`` as they come."""

    async def start(self, connection: Any) -> ClientResponse:
        """Read up to the final answer's head, which is put back for aiohttp to read.

        :raises ClientError: what comes is no answer in HTTP/1
        """
        protocol = connection.protocol
        while True:
            try:
                message, payload = await protocol.read()
            except HttpProcessingError as error:
                raise ClientPayloadError(f"malformed: {error.message.splitlines()[0].rstrip(':')}") from error
            if not 100 <= message.code < 200 or message.code == 101:
                protocol.feed_data((message, payload), 0)
                return await super().start(connection)
            if message.code == 100:
                if self._continue is not None:
                    _go_on(self._continue)
            elif (pass_on := INTERIM.get()) is not None:
                head = ResponseHead(message.raw_headers)
                await pass_on(response_bytes(message.code, message.reason.encode("latin-1"), fields_to_client(head)))


def _go_on(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(True)
