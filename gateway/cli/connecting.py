"""Tries backends as the gateway connects to them, for ``gateway check --connect``. Nothing is asked of a backend."""

from __future__ import annotations

import asyncio
import datetime
import os
import socket
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from gateway.cli.discovered import Discovered
from gateway.config.address import Address
from gateway.config.settings import Settings
from gateway.edge.addresses import Addresses, SocketAddress
from gateway.edge.tls.backends import BackendTls
from gateway.edge.tls.handshake import Established
from gateway.edge.tls.reasons import (
    BAD_CERTIFICATE,
    EXPIRED,
    NOT_YET_VALID,
    SELF_SIGNED,
    UNKNOWN_ISSUER,
    WRONG_NAME,
    HandshakeFailed,
)
from gateway.edge.tls.secrets import KeyLog
from gateway.processes.resolving import addresses_of
from gateway.processes.sources import NotFound, Source
from gateway.protocol.proxy import own_header_bytes
from gateway.protocol.tls.alerts import name_of
from gateway.protocol.tls.content import FATAL_ALERT
from gateway.protocol.tls.records import Records
from gateway.protocol.tls.state import TLS13, VERSION

if TYPE_CHECKING:
    from cryptography import x509

    from gateway.config import Config
    from gateway.protocol.proxy import Endpoint

AT_ONCE = 32
"""Connections under way at the same time."""

OF_CERTIFICATES = (BAD_CERTIFICATE, EXPIRED, NOT_YET_VALID, SELF_SIGNED, UNKNOWN_ISSUER, WRONG_NAME)
RECEIVE_BYTES = 64 * 1024
MOST_NAMES = 5
"""Shown of a certificate, and of backends that were found."""

REFUSAL_SECONDS = 0.5
"""How long a backend has to refuse this gateway's certificate, which with TLS 1.3 it does behind the handshake."""


class Finding(NamedTuple):
    """What came of one address of a backend."""

    upstream: str
    backend: str
    address: str
    """``-`` if there is none"""
    ok: bool
    found: str
    of_source: bool = False
    """whether it is about where backends are found; ``backend`` is that"""


class _Failed(Exception):
    """An attempt failed; ``str()`` says why."""

    def __init__(self, message: str, of_certificate: bool = False) -> None:
        """:param of_certificate: whether the backend's certificate is not accepted"""
        super().__init__(message)
        self.of_certificate = of_certificate


async def try_backends(config: Config) -> AsyncIterator[list[Finding]]:
    """Connect to every backend, to many at the same time, and ask once where others are, which are tried, too.

    Yield the findings of each backend and of each source of backends, in the file's order.
    """
    tried = Trying(config)
    found = Discovered(config)
    tasks = []
    for name, upstream in tried.settings.upstreams.items():
        tasks += [asyncio.ensure_future(_alone(tried.backend(name, each.address))) for each in upstream.backends]
        if (source := found.source(name)) is not None:
            tasks.append(asyncio.ensure_future(_discovered(tried, found, name, source)))
    try:
        for task in tasks:
            for findings in await task:
                yield findings
    finally:
        for task in tasks:
            task.cancel()
        found.close()
        tried.close()


async def _alone(findings: Coroutine[None, None, list[Finding]]) -> list[list[Finding]]:
    return [await findings]


async def _discovered(tried: Trying, found: Discovered, upstream: str, source: Source) -> list[list[Finding]]:
    """Try the backends that a source names. :returns: what is to be said of the source, then of each backend"""
    try:
        backends = await found.backends(upstream)
    except NotFound as error:
        return [[Finding(upstream, str(source), "-", False, str(error), of_source=True)]]
    some = ", ".join(str(backend.address) for backend in backends[:MOST_NAMES])
    more = f" and {len(backends) - MOST_NAMES} more" if len(backends) > MOST_NAMES else ""
    number = f"{len(backends)} backend{'s' * (len(backends) != 1)}" if backends else "no others than those listed"
    said = f"{number}: {some}{more}" if backends else number
    findings = await asyncio.gather(*(tried.backend(upstream, backend.address) for backend in backends))
    return [[Finding(upstream, str(source), "-", True, said, of_source=True)], *findings]


class Trying:
    """Attempts to connect to the backends of a configuration."""

    def __init__(self, config: Config) -> None:
        self.settings = Settings.of(config)
        self._key_log = KeyLog()
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._tls = {
            name: (
                BackendTls(upstream.tls, self._key_log),
                BackendTls(upstream.tls._replace(verify=False), self._key_log),
            )
            for name, upstream in self.settings.upstreams.items()
            if upstream.tls is not None
        }
        """by upstream: as it is configured, and without verification"""
        self._seconds = dict.fromkeys(self.settings.upstreams, config.timeouts.connect) | {
            share.name: max(
                route.timeouts.connect
                for route in self.settings.routes
                if share.name in [other.name for other in route.upstreams]
            )
            for route in self.settings.routes
            for share in route.upstreams
        }
        """by upstream: how long an attempt may take"""

    def close(self) -> None:
        """Release what was needed."""
        self._key_log.close()

    async def backend(self, upstream: str, address: Address) -> list[Finding]:
        """Connect to each address of a backend."""
        seconds = self._seconds[upstream]
        names = {}
        if address.name is not None:
            try:
                async with asyncio.timeout(seconds):
                    names[address.name] = await _look_up(address.name)
            except TimeoutError:
                return [Finding(upstream, str(address), "-", False, f"its name: no answer within {seconds:g} s")]
            except OSError as error:
                reason = error.strerror or str(error)
                return [Finding(upstream, str(address), "-", False, f"its name does not resolve: {reason}")]
        known = Addresses()
        known.use(names)
        found = known.of(address)
        if not found:
            return [Finding(upstream, str(address), "-", False, "this machine has no such network interface")]
        return await asyncio.gather(*(self._address(upstream, address, each, seconds) for each in found))

    async def _address(self, upstream: str, backend: Address, to: SocketAddress, seconds: float) -> Finding:
        ok = False
        tls, unverified = self._tls.get(upstream, (None, None))
        async with self._turns:
            try:
                ok, found = True, await self._connect(to, tls, upstream, backend, seconds)
            except _Failed as error:
                ok, found = False, str(error)
                if error.of_certificate:
                    with suppress(_Failed):
                        shown = await self._connect(to, unverified, upstream, backend, seconds)
                        found = f"{found}; without verification: {shown}"
        return Finding(upstream, str(backend), _text(to), ok, found)

    async def _connect(
        self, to: SocketAddress, tls: BackendTls | None, upstream: str, backend: Address, seconds: float
    ) -> str:
        """:returns: what was found :raises _Failed: it cannot be reached"""
        try:
            async with asyncio.timeout(seconds):
                return await self._connect_now(to, tls, upstream, backend)
        except TimeoutError:
            raise _Failed(f"no answer within {seconds:g} s") from None
        except OSError as error:
            raise _Failed(os.strerror(error.errno) if error.errno else str(error)) from None

    async def _connect_now(self, to: SocketAddress, tls: BackendTls | None, upstream: str, backend: Address) -> str:
        """:returns: what was found :raises _Failed, OSError: it cannot be reached"""
        loop = asyncio.get_running_loop()
        family, address = to
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
            version = self.settings.upstreams[upstream].proxy_protocol
            if version is not None:
                ends = _endpoint(sock.getsockname()), _endpoint(sock.getpeername())
                await loop.sock_sendall(sock, own_header_bytes(version, *ends))
            if tls is None:
                return "connected"
            return await self._shake_hands(sock, tls, backend)

    async def _shake_hands(self, sock: socket.socket, tls: BackendTls, backend: Address) -> str:
        loop = asyncio.get_running_loop()
        handshake = tls.handshake(backend)
        try:
            handshake.start()
            while handshake.established is None:
                await loop.sock_sendall(sock, handshake.take_output())
                data = await loop.sock_recv(sock, RECEIVE_BYTES)
                if not data:
                    raise _Failed("TLS: the backend closed the connection in the middle of the handshake")
                handshake.receive(data)
                while handshake.established is None and handshake.has_record:
                    handshake.step()
            await loop.sock_sendall(sock, handshake.take_output())
        except HandshakeFailed as error:
            with suppress(OSError):
                await loop.sock_sendall(sock, handshake.take_output())  # the alert
            raise _Failed(f"TLS: {error}", error.reason in OF_CERTIFICATES) from None
        await _end(sock, handshake.established, handshake.rest())
        return _described(handshake.established)


def _endpoint(address: object) -> Endpoint | None:
    """A socket's address as a PROXY header has it; None for a unix socket's."""
    return address[:2] if isinstance(address, tuple) else None


async def _end(sock: socket.socket, established: Established, received: bytes) -> None:
    """Wait a little for the backend to refuse this gateway's certificate; then end the connection.

    :raises _Failed: it is refused
    """
    loop = asyncio.get_running_loop()
    cells = memoryview(established.cells)
    wire = bytearray(4 * RECEIVE_BYTES)
    records = Records(wire)
    sink = bytearray(4 * RECEIVE_BYTES)
    with suppress(TimeoutError):
        async with asyncio.timeout(REFUSAL_SECONDS if cells[VERSION] == TLS13 else 0):
            while len(received) < RECEIVE_BYTES:
                wire[: len(received)] = received
                records.open(cells, 0, 0, len(received), sink, 0)
                if records.event == FATAL_ALERT:
                    raise _Failed(f"TLS: the backend refuses the connection: {_words(name_of(records.alert))}")
                if records.event:
                    return
                received = received[records.used :]
                data = await loop.sock_recv(sock, RECEIVE_BYTES)
                if not data:
                    raise _Failed("TLS: the backend closed the connection behind the handshake: does it want `cert`?")
                received += data
    size = records.close(cells, 0)
    with suppress(OSError):
        await loop.sock_sendall(sock, bytes(wire[:size]))


async def _look_up(name: str) -> tuple[str, ...]:
    """Ask the system's resolver, in a thread that nobody has to wait for. :raises OSError: the name does not resolve"""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[tuple[str, ...]] = loop.create_future()

    def set_answer(addresses: tuple[str, ...], failure: Exception | None) -> None:
        if answer.done():
            return
        if failure is not None:
            answer.set_exception(failure)
        else:
            answer.set_result(addresses)

    def run() -> None:
        addresses: tuple[str, ...] = ()
        failure: Exception | None = None
        try:
            addresses = addresses_of(name)
        except Exception as error:
            failure = error if isinstance(error, OSError) else OSError(str(error))
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(set_answer, addresses, failure)

    threading.Thread(target=run, daemon=True).start()
    return await answer


def _text(to: SocketAddress) -> str:
    family, address = to
    if isinstance(address, str):
        return f"unix:{address}"
    return f"[{address[0]}]:{address[1]}" if family == socket.AF_INET6 else f"{address[0]}:{address[1]}"


def _described(established: Established) -> str:
    """Version, suite and certificate of a connection."""
    parts = [f"TLS {established.version}", established.cipher]
    if established.certificate is not None:
        parts += _certificate(established.certificate)
    return ", ".join(parts)


def _certificate(der: bytes) -> list[str]:
    """Subject and end of a certificate, which need not have been verified."""
    from cryptography import x509

    try:
        certificate = x509.load_der_x509_certificate(der)
        subject = certificate.subject.rfc4514_string() or "no subject"
        names = _names(certificate)
        since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except ValueError:
        return ["a certificate that cannot be read"]
    now = datetime.datetime.now(datetime.UTC)
    if now < since:
        validity = f"not valid before {since:%Y-%m-%d %H:%M} UTC"
    else:
        validity = f"{'valid until' if now <= until else 'expired on'} {until:%Y-%m-%d %H:%M} UTC"
    return [subject, *names, validity]


def _names(certificate: x509.Certificate) -> list[str]:
    """Whom it is for (RFC 6125 6.4)."""
    from cryptography import x509

    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    names = [*extension.value.get_values_for_type(x509.DNSName)]
    names += map(str, extension.value.get_values_for_type(x509.IPAddress))
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return [f"for {' '.join(names[:MOST_NAMES])}{more}"] if names else []


def _words(name: str) -> str:
    return name.replace("_", " ")
