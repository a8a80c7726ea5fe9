"""Health checks of backends, each over a connection of its own that is made as the gateway makes its others.

They run in the supervisor, so that a backend is checked once for the whole machine.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from gateway.config.address import Address
from gateway.config.health import HealthCheck
from gateway.config.settings import UpstreamTls
from gateway.edge.addresses import Addresses, SocketAddress
from gateway.edge.tls.contexts import ALPN, TLS12_SUITES, name_in_certificate, trust
from gateway.protocol.answers import ResponseReader
from gateway.protocol.bodies import BadBody, Chunked, Dechunker
from gateway.protocol.frames import close_frame
from gateway.protocol.framing import answer_body
from gateway.protocol.heads import BadResponse, ResponseHead
from gateway.protocol.proxy import own_header_bytes
from gateway.protocol.websocket import WEBSOCKET, refusal_of_101
from gateway.version import VERSION

if TYPE_CHECKING:
    from typing import Literal

    from gateway.protocol.proxy import Endpoint

MOST_BYTES = 64 * 1024
"""Of an answer's head, and of a body that is searched."""

RECEIVE_BYTES = 16 * 1024
CLOSE_SECONDS = 1.0
"""How long a backend has to answer the Close frame of a check; and to end TLS, in the background."""


class CheckFailed(Exception):
    """A backend failed a check; ``str()`` says how."""

    late = False


class CheckLate(CheckFailed):
    """It took too long."""

    late = True


class Checkable(NamedTuple):
    """A backend, and how it is checked. Equal ones are checked in the same way."""

    upstream: str
    address: Address
    check: HealthCheck
    tls: UpstreamTls | None
    proxy_protocol: Literal["v1", "v2"] | None


class Probes:
    """Checks backends, each time that it is asked to."""

    def __init__(self) -> None:
        self._addresses = Addresses()
        self._contexts: dict[UpstreamTls, ssl.SSLContext] = {}

    def use_names(self, names: Mapping[str, Sequence[str]]) -> None:
        """Connect to these addresses from now on. :param names: IP addresses by name; all that are known"""
        self._addresses.use(names)

    def use_tls(self, settings: set[UpstreamTls]) -> None:
        """Forget what was made for others than these."""
        self._contexts = {each: context for each, context in self._contexts.items() if each in settings}

    async def check(self, backend: Checkable) -> None:
        """Check a backend once: at each of its addresses in turn, until one is good.

        :raises CheckFailed: none is
        """
        found = self._addresses.of(backend.address)
        if not found:
            raise CheckFailed("its name does not resolve")
        seconds = backend.check.timeout / len(found)
        failure: CheckFailed | None = None
        for to in found:
            try:
                async with asyncio.timeout(seconds) as limit:
                    await self._check(backend, to, limit)
                return
            except CheckFailed as error:
                failure = error
            except TimeoutError:
                failure = CheckLate(f"no answer within {seconds:g} s")
            except ssl.SSLCertVerificationError as error:
                failure = CheckFailed(f"TLS: its certificate is not accepted: {error.verify_message}")
            except ssl.SSLError as error:
                failure = CheckFailed(f"TLS: {(error.reason or str(error)).lower().replace('_', ' ')}")
            except OSError as error:
                failure = CheckFailed(os.strerror(error.errno) if error.errno else str(error))
        assert failure is not None
        raise failure

    async def _check(self, backend: Checkable, to: SocketAddress, limit: asyncio.Timeout) -> None:
        kind = backend.check.kind
        async with self._connection(backend, to) as (reader, writer):
            if kind == "path":
                await _ask(backend, reader, writer)
            elif kind == "websocket":
                await _open_tunnel(backend, reader, writer)
                limit.reschedule(None)  # it has accepted in time; how it closes does not matter
                await _close_tunnel(reader, writer)

    @asynccontextmanager
    async def _connection(
        self, backend: Checkable, to: SocketAddress
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Connect, as workers do: PROXY header, then TLS."""
        context = name = seconds = None
        if backend.tls is not None:
            context = await self._context(backend.tls)
            name = name_in_certificate(backend.tls, backend.address) or ""
            seconds = CLOSE_SECONDS
        loop = asyncio.get_running_loop()
        family, address = to
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
            if backend.proxy_protocol is not None:
                ends = _endpoint(sock.getsockname()), _endpoint(sock.getpeername())
                await loop.sock_sendall(sock, own_header_bytes(backend.proxy_protocol, *ends))
        except BaseException:
            sock.close()
            raise
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=context, server_hostname=name, ssl_shutdown_timeout=seconds
        )
        try:
            yield reader, writer
        except BaseException:
            writer.transport.abort()
            raise
        writer.close()

    async def _context(self, settings: UpstreamTls) -> ssl.SSLContext:
        context = self._contexts.get(settings)
        if context is None:
            context = self._contexts[settings] = await asyncio.to_thread(_new_context, settings)
        return context


def _new_context(settings: UpstreamTls) -> ssl.SSLContext:
    """A context for handshakes like those of workers (``edge/tls/backends.py``).

    :raises ssl.SSLError: a certificate or key cannot be used
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(":".join(TLS12_SUITES))
    context.set_alpn_protocols(ALPN)
    trust(context, settings)
    return context


def _endpoint(address: object) -> Endpoint | None:
    """A socket's address as a PROXY header has it; None for a unix socket's."""
    return address[:2] if isinstance(address, tuple) else None


def _request(backend: Checkable, *fields: str) -> bytes:
    address = backend.address
    host = backend.check.host or ("localhost" if address.path is not None else str(address))
    lines = [f"GET {backend.check.target} HTTP/1.1", f"Host: {host}", f"User-Agent: upgrade-gateway/{VERSION}", *fields]
    return "\r\n".join((*lines, "", "")).encode("latin-1")


async def _final_head(reader: asyncio.StreamReader) -> tuple[ResponseHead, bytes]:
    """Read a head that is no interim one (RFC 9110 section 15.2); a 101 is none here. Workers accept the same ones.

    :returns: the head, and what has come behind it
    :raises CheckFailed: it is malformed or too large, or does not come
    """
    answer = ResponseReader(MOST_BYTES)
    head = None
    size = 0
    try:
        while head is None or (head.status < 200 and head.status != 101):
            data = b"" if head is not None and answer.received else await reader.read(RECEIVE_BYTES)
            size += len(data)
            if not data and head is None:
                raise CheckFailed("it closed the connection without an answer")
            if size > 2 * MOST_BYTES:
                raise CheckFailed("its interim answers are endless")
            head = answer.feed(data)
    except BadResponse as error:
        raise CheckFailed(f"its answer is not valid HTTP: {error}") from None
    return head, answer.received


# --- path -------------------------------------------------------------------------------------------------------------


async def _ask(backend: Checkable, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a GET. :raises CheckFailed: the answer is not good"""
    check = backend.check
    writer.write(_request(backend, "Accept: */*", "Connection: close"))
    head, received = await _final_head(reader)
    if not any(low <= head.status <= high for low, high in check.status):
        raise CheckFailed(f"it answered {head.status}")
    if check.body is not None and check.body.encode() not in await _body(head, received, reader):
        raise CheckFailed("its answer does not have the text of `body`")


async def _body(head: ResponseHead, received: bytes, reader: asyncio.StreamReader) -> bytes:
    """The first :data:`MOST_BYTES` of an answer's body. :raises CheckFailed: where it ends is ambiguous"""
    body = bytearray()
    try:
        framer = answer_body(head, b"GET")
        if isinstance(framer, Chunked):
            framer = Dechunker(padded=True)
        while framer is not None and len(body) < MOST_BYTES:
            end = framer.scan(received, 0, len(received))
            slices = framer.slices if isinstance(framer, Dechunker) else [(0, end)]
            for start, stop in slices:
                body += received[start:stop]
            if framer.complete or not (received := await reader.read(RECEIVE_BYTES)):
                break
    except (BadResponse, BadBody) as error:
        raise CheckFailed(f"its answer is not valid HTTP: {error}") from None
    return bytes(body[:MOST_BYTES])


# --- websocket --------------------------------------------------------------------------------------------------------


async def _open_tunnel(backend: Checkable, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Open a WebSocket (RFC 6455 section 4.1). :raises CheckFailed: it is not accepted"""
    key = b64encode(os.urandom(16))
    writer.write(
        _request(
            backend,
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key.decode()}",
            "Sec-WebSocket-Version: 13",
        )
    )
    head, _ = await _final_head(reader)
    if head.status != 101:
        raise CheckFailed(f"it answered {head.status} to a WebSocket handshake")
    refusal = refusal_of_101(head, WEBSOCKET, key)
    if refusal is not None:
        raise CheckFailed(f"its 101 is not valid: {refusal}")


async def _close_tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close a WebSocket, and give the backend a moment to do so too (section 7.1.1)."""
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(CLOSE_SECONDS):
            writer.write(close_frame(1000, "", os.urandom(4)))
            await writer.drain()
            while await reader.read(RECEIVE_BYTES):
                pass
