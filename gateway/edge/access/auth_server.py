"""The server that is asked whether requests may come in: its connections, and the sub-requests in flight.

aiohttp is the client. This module is imported only by workers that have a route with forward auth.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from gateway.config.urls import address_of
from gateway.observe.seldom import Seldom

if TYPE_CHECKING:
    from aiohttp.connector import Connection

    from gateway.config import settings
    from gateway.config.address import Address
    from gateway.edge.access.asked import TextField
    from gateway.edge.access.method import Cancel
    from gateway.edge.addresses import Addresses
    from gateway.protocol.heads import Field

MAX_CONNECTIONS = 256
"""Of a worker to one auth server. More sub-requests wait for one of them."""

MAX_IN_FLIGHT = 4096
"""Sub-requests of a worker to one auth server, those that wait for a connection among them."""

KEEP_ALIVE_SECONDS = 15.0
"""How long a connection may be idle."""

MAX_BODY_BYTES = 64 * 1024
"""Of an answer. Of a longer one, nothing is used."""

MAX_FIELDS_BYTES = 32 * 1024
"""Of an answer, names and values together."""

MAX_LOGGED_CHARACTERS = 300
MAX_FIELD_BYTES = 16 * 1024

_NO_AUTO_FIELDS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
"""Fields that aiohttp adds where a request has none of the name."""

_FINAL = range(200, 600)
log = logging.getLogger("gateway")


class Answer(NamedTuple):
    """What the auth server has answered."""

    status: int
    """200 to 599"""
    fields: Sequence[Field]
    body: bytes | None
    """as it came, of another status than 2xx; None if it is longer than ``MAX_BODY_BYTES``"""


Done = Callable[[Answer | None], None]
"""Takes the answer; None if there is none, for a reason that was logged."""


class AuthServer:
    """One auth server, for one worker."""

    def __init__(self, auth: settings.ForwardAuth, addresses: Addresses) -> None:
        """
        :param addresses: of the server's name; the worker itself asks no name server
        :raises OSError: the CAs cannot be used
        """
        self._url = URL(auth.url, encoded=True)
        self._timeout_seconds = auth.timeout
        self._resolver = _Resolver(address_of(auth.url), addresses)
        # A context takes some milliseconds, and raises what is wrong with the CAs.
        self._tls = ssl.create_default_context(cadata=auth.ca) if self._url.scheme == "https" else True
        self._session: aiohttp.ClientSession | None = None
        self._in_flight: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._is_closed = False
        self._warn = Seldom(log.warning)

    def has_room(self) -> bool:
        """Whether another sub-request may be sent; if not, that is logged."""
        if len(self._in_flight) < MAX_IN_FLIGHT:
            return True
        self.warn(f"{MAX_IN_FLIGHT} requests wait for its answers already")
        return False

    def warn(self, what: str) -> None:
        """Log, seldom, why requests cannot be checked. :param what: has happened"""
        place = self._url.with_query(None)  # a query may have a secret
        self._warn("auth server %s: %s; requests that it does not let in get 503", place, what)

    def ask(self, fields: Sequence[TextField], done: Done) -> Cancel:
        """Send a sub-request: GET, without a body.

        :param done: called once, later, unless the sub-request is cancelled before
        :returns: what cancels it
        """
        task = asyncio.get_running_loop().create_task(self._ask(fields, done))
        self._in_flight.add(task)
        task.add_done_callback(self._ended)

        def cancel() -> None:
            task.cancel()

        return cancel

    def close(self) -> None:
        """Close idle connections now, and the others when what is in flight has ended. Nothing new is asked."""
        self._is_closed = True
        session = self._session
        if not self._in_flight and session is not None and not session.closed and self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(session.close())

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A sub-request has ended. One that was cancelled at once has not even begun."""
        self._in_flight.discard(task)
        if self._is_closed:
            self.close()

    async def _ask(self, fields: Sequence[TextField], done: Done) -> None:
        try:
            await self._report(fields, done)
        finally:
            # Where the loop ends, too, no task is left to do this.
            if self._is_closed and len(self._in_flight) == 1 and self._session is not None:
                await self._session.close()

    async def _report(self, fields: Sequence[TextField], done: Done) -> None:
        """Send a sub-request, and report what became of it. Never raises but for a cancellation."""
        reported = False

        def report(answer: Answer | None) -> None:
            nonlocal reported
            if not reported:
                reported = True
                done(answer)

        failure = ""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._exchange(fields, report)
        except TimeoutError:
            failure = f"no answer within {self._timeout_seconds:g} s"
        except Exception as error:  # whatever it is, the request is not let in
            failure = _words_of(error)
        if not reported:
            self.warn(failure)
        report(None)

    async def _exchange(self, fields: Sequence[TextField], report: Done) -> None:
        """:raises Exception: many kinds, of asyncio's and aiohttp's: there is no whole answer"""
        while True:
            way = _Way()
            try:
                await self._try(fields, report, way)
                return
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                # aiohttp itself tries again, but only once. Where a server has gone away from all connections that were
                # kept, each of them may have to be tried.
                if not way.was_kept:
                    raise

    async def _try(self, fields: Sequence[TextField], report: Done, way: _Way) -> None:
        """:raises Exception: as :meth:`_exchange`"""
        async with self._connected().get(
            self._url, headers=fields, allow_redirects=False, ssl=self._tls, trace_request_ctx=way
        ) as response:
            status, answered = response.status, response.raw_headers
            if status not in _FINAL:
                raise ValueError(f"it has answered with status {status}")
            if sum(len(name) + len(value) for name, value in answered) > MAX_FIELDS_BYTES:
                raise ValueError(f"its answer has fields of more than {MAX_FIELDS_BYTES} bytes")
            if status < 300:
                # The request need not wait for a body that nobody wants. The connection can be used again behind it.
                report(Answer(status, answered, None))
                await _body_of(response)
            else:
                report(Answer(status, answered, await _body_of(response)))

    def _connected(self) -> aiohttp.ClientSession:
        """The session. aiohttp wants a loop that runs to make one, so that is done by the first sub-request."""
        session = self._session
        if session is None:
            session = self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=self._resolver,
                    use_dns_cache=False,
                    limit=MAX_CONNECTIONS,
                    keepalive_timeout=KEEP_ALIVE_SECONDS,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=_NO_AUTO_FIELDS,
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None),
                request_class=_Request,
                trace_configs=[_Way.tracing()],
                max_line_size=MAX_FIELD_BYTES,
                max_field_size=MAX_FIELD_BYTES,
            )
        return session


class _Request(aiohttp.ClientRequest):
    """A sub-request."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Send it, unless something has come on the connection already: that would be taken for its answer."""
        if conn.protocol is not None and conn.protocol.should_close:
            raise aiohttp.ServerDisconnectedError("it has sent something that was not asked for")
        return await super().send(conn)


class _Way:
    """Which connection a sub-request went over last."""

    __slots__ = ("was_kept",)

    def __init__(self) -> None:
        self.was_kept = False
        """whether it was there before, and so may have been closed by the server"""

    @classmethod
    def tracing(cls) -> aiohttp.TraceConfig:
        """What has aiohttp note it."""

        async def kept(session: object, context: SimpleNamespace, params: object) -> None:
            context.trace_request_ctx.was_kept = True

        async def made(session: object, context: SimpleNamespace, params: object) -> None:
            context.trace_request_ctx.was_kept = False

        config = aiohttp.TraceConfig()
        config.on_connection_reuseconn.append(kept)
        config.on_connection_create_start.append(made)
        return config


class _Resolver(AbstractResolver):
    """Answers from what the supervisor has found out."""

    def __init__(self, address: Address, addresses: Addresses) -> None:
        self._address = address
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of the auth server. :raises OSError: they are not known"""
        found = self._addresses.of(self._address)
        if not found:
            raise OSError(f"no address of {host} is known yet")
        return [
            ResolveResult(
                hostname=host, host=str(to[0]), port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST
            )
            for family, to in found
        ]

    async def close(self) -> None:
        """There is nothing to close."""


def _words_of(error: Exception) -> str:
    """What went wrong, in one line, without the URL, whose query may have a secret."""
    if isinstance(error, aiohttp.ClientResponseError):
        text = error.message
    else:
        text = str(error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error)
    line = text.partition("\n")[0].rstrip(":")[:MAX_LOGGED_CHARACTERS]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


async def _body_of(response: aiohttp.ClientResponse) -> bytes | None:
    """A body as it came; None if it is too long: its connection is then closed."""
    pieces = []
    size = 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > MAX_BODY_BYTES:
            response.close()
            return None
        pieces.append(piece)
    return b"".join(pieces)
