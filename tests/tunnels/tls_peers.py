"""Endpoints that use TLS: the same to a test as plain ones, with OpenSSL or records of our own making inside."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
from array import array
from typing import NamedTuple, Protocol

from gateway.protocol.tls.content import CLOSED, FATAL_ALERT, NOTHING
from gateway.tunnels.table.layout import CLIENT
from tests.protocol.tls.ends import End
from tests.protocol.tls.openssl import TLS12_SUITES, TLS13_SUITES, Pair

from .harness import Peer

TLS13 = TLS13_SUITES[0]
TLS12 = TLS12_SUITES[1]
SUITES = TLS13_SUITES + TLS12_SUITES
PIECE_BYTES = 512 * 1024


class Engine(Protocol):
    """One end of a TLS connection, without the network."""

    closed: bool
    """whether close_notify has come"""

    def seal(self, data: bytes) -> bytes:
        """Data in records."""

    def open(self, wire: bytes) -> bytes:
        """The data in records. :raises ssl.SSLError: they are invalid, or the other end sent a fatal alert"""

    def close(self) -> bytes:
        """close_notify."""


class OpenSsl:
    """OpenSSL, by Python's ssl."""

    def __init__(self, pair: Pair, side: int) -> None:
        """:param side: of the tunnel: its client is the client of the handshake, its backend the server"""
        self._pair = pair  # whose BIOs these are
        self.ssl = pair.client if side == CLIENT else pair.server
        self._into, self._out = (pair.to_client, pair.to_server)[:: 1 if side == CLIENT else -1]
        self.closed = False

    def seal(self, data: bytes) -> bytes:
        left = memoryview(data)
        while left:
            left = left[self.ssl.write(left) :]
        return self._out.read()

    def open(self, wire: bytes) -> bytes:
        self._into.write(wire)
        found = b""
        while True:
            try:
                data = self.ssl.read(65536)
            except ssl.SSLWantReadError:
                return found
            except ssl.SSLZeroReturnError:
                data = b""
            if not data:
                self.closed = True
                return found
            found += data

    def close(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.ssl.unwrap()
        return self._out.read()


class Own:
    """Records of our own making, which can send what OpenSSL would not."""

    def __init__(self, session: array[int]) -> None:
        self.end = End(session)
        self.closed = False

    def seal(self, data: bytes) -> bytes:
        return self.end.send(data)

    def open(self, wire: bytes) -> bytes:
        found = self.end.read(wire)
        event = self.end.records.event
        if event == CLOSED:
            self.closed = True
        elif event != NOTHING:
            what = "alert" if event == FATAL_ALERT else "invalid records"
            raise ssl.SSLError(f"{what}: {self.end.records.alert}")
        return found

    def close(self) -> bytes:
        return self.end.close()


class TlsPeer(Peer):
    """One endpoint of a tunnel. ``received`` is the data that has come."""

    def __init__(self, sock: socket.socket, engine: Engine) -> None:
        super().__init__(sock)
        self.engine = engine
        self.alert = ""
        """of the other end, or why its records are invalid"""
        self.wire = bytearray()
        """all bytes that have come, sealed"""
        self._unsent = bytearray()
        self._ends = False

    @property
    def closed(self) -> bool:
        """Whether close_notify has come."""
        return self.engine.closed

    def send(self, data: bytes | memoryview) -> int:
        """Send, if everything before was taken; how much of ``data`` is on its way."""
        if not self.flush():
            return 0
        piece = bytes(data[:PIECE_BYTES])
        self.put(self.engine.seal(piece))
        return len(piece)

    def put(self, wire: bytes) -> None:
        """Send sealed bytes, behind those that the socket did not take yet."""
        self._unsent += wire
        self.unsent = len(self._unsent)
        self.flush()

    def flush(self) -> bool:
        """Send what the socket takes; whether that was all."""
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                del self._unsent[: self.sock.send(self._unsent)]
                self.unsent = len(self._unsent)
            if self._ends:
                self._ends = False
                super().half_close()
        return not self._unsent

    def read(self, limit: int = 1 << 30) -> int:
        before = len(self.received)
        self.turn()
        while not self.end and (left := before + limit - len(self.received)) > 0:
            try:
                wire = self.sock.recv(min(left, 1 << 18))
            except BlockingIOError:
                break
            except ConnectionResetError:
                self.end = "reset"
                break
            self.wire += wire
            if not wire:
                self.end = "fin"
            elif not self.closed and not self.alert:
                try:
                    self.received += self.engine.open(wire)
                except ssl.SSLError as error:
                    self.alert = str(error)
        return len(self.received) - before

    def turn(self) -> None:
        with contextlib.suppress(OSError):  # nobody may be there any more
            self.flush()

    def half_close(self) -> None:
        """Send close_notify and FIN, behind what the socket did not take yet, and go on reading."""
        self._ends = True
        self._unsent += self.engine.close()
        self.unsent = len(self._unsent)
        self.turn()


class Sides(NamedTuple):
    """What the sides of a tunnel are: each a suite, or None for a plain connection."""

    client: str | None
    backend: str | None


BOTH_NEW = Sides(TLS13, TLS13)
BOTH_OLD = Sides(TLS12, TLS12)
FROM_OUTSIDE = Sides(TLS13, None)
TO_BACKENDS = Sides(None, TLS12)
KINDS = (BOTH_NEW, BOTH_OLD, FROM_OUTSIDE, TO_BACKENDS)


def with_openssl(suite: str, side: int) -> tuple[array[int], Engine]:
    """The session of the gateway's end, and the peer's engine."""
    pair = Pair(suite)
    return (pair.accepted if side == CLIENT else pair.dialled), OpenSsl(pair, side)


@functools.cache
def _sessions(suite: str) -> tuple[array[int], array[int]]:
    pair = Pair(suite)
    return pair.accepted, pair.dialled


def with_own_records(suite: str, side: int) -> tuple[array[int], Engine]:
    """As :func:`with_openssl`, by our own records. The keys are the same each time: it costs no handshake."""
    accepted, dialled = _sessions(suite)
    ours, theirs = (accepted, dialled) if side == CLIENT else (dialled, accepted)
    return array("q", ours), Own(array("q", theirs))
