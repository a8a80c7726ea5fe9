"""Tunnels full of numbered, checksummed messages: each byte of a stream is known in advance, and compared as it comes.

Thousands of tunnels are played in one process, so this is protocols, not streams: :class:`Ends` has the backend and
opens the clients.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import ssl
import struct
import zlib
from collections.abc import Callable, Iterable
from functools import cache

from websockets.frames import apply_mask

from tests.support.deadline import DEADLINE_SECONDS, eventually, turn, within
from tests.support.frames import BINARY, PING, PONG, frame
from tests.support.ports import free_port
from tests.support.raw import handshake, switching

SIZES = (20, 125, 126, 700, 0, 4000, 65_535, 65_536, 300, 30_000)
LARGE = 1024 * 1024
LARGE_EVERY = 50
HEAD = struct.Struct("!QQLL")  # tunnel, number, size of the body, its CRC-32
KEY = b"\x21\x84\xf0\x0d"
_BLOCK = random.Random(6455).randbytes(LARGE + 4096)
_MASKED_BLOCK = apply_mask(_BLOCK, KEY)
CLIENT, BACKEND = 0, 1
SLOW_SECONDS = 0.05
"""Between two reads of an end that is slow."""
SLOW_BUFFER_BYTES = 64 * 1024
"""The receive buffer of such an end."""
PAUSE_SECONDS = 0.05
"""Of a busy end, between two messages."""


@cache
def _crc(offset: int, size: int) -> int:
    return zlib.crc32(memoryview(_BLOCK)[offset : offset + size])


def message(tunnel: int, side: int, number: int) -> bytes:
    """Message ``number`` of a side of a tunnel, as the frame that its sender writes."""
    size = LARGE if number % LARGE_EVERY == LARGE_EVERY - 1 - tunnel % 10 else SIZES[(number + tunnel) % len(SIZES)]
    offset = (number * 37 + tunnel * 11 + side) % 1000 * 4  # as the mask goes by fours
    head = HEAD.pack(tunnel, number, size, _crc(offset, size))
    length = len(head) + size
    if length < 126:
        first = struct.pack("!BB", 0x80 | BINARY, length)
    elif length < 65536:
        first = struct.pack("!BBH", 0x80 | BINARY, 126, length)
    else:
        first = struct.pack("!BBQ", 0x80 | BINARY, 127, length)
    if side == BACKEND:
        return first + head + _BLOCK[offset : offset + size]
    masked = first[:1] + bytes((first[1] | 0x80,)) + first[2:]
    return masked + KEY + apply_mask(head, KEY) + _MASKED_BLOCK[offset : offset + size]


class End(asyncio.Protocol):
    """One end of a tunnel: what it sends is its own, what it receives has to be the other end's."""

    def __init__(self, side: int, opened: Callable[[End, bytes], None]) -> None:
        """:param opened: called with the head that came first"""
        self.side = side
        self.tunnel = -1
        self.sent = 0
        """messages"""
        self.sent_bytes = 0
        self.received = 0
        """messages, whole ones"""
        self.received_bytes = 0
        self.pings = 0
        """of the gateway's own, all answered; the other end must not hear of them"""
        self.wrong: str | None = None
        self.gone = False
        self.unanswered: asyncio.Future[bytes] | None = None
        """of a client: done when its handshake is answered"""
        self.transport: asyncio.Transport
        self._opened = opened
        self._head: bytes | None = b""
        self._ping = b""
        self._expected = b""
        self._at = 0
        self._busy: float | None = None
        self._slow = False
        self._full = False
        self._timer: asyncio.TimerHandle | None = None

    # --- sending ---------------------------------------------------------------------------------------------------

    def say(self) -> None:
        """Send the next message."""
        data = message(self.tunnel, self.side, self.sent)
        self.sent += 1
        self.sent_bytes += len(data)
        self.transport.write(data)

    def be_busy(self, pause: float, slow: bool = False) -> None:
        """Send message after message, with a pause between them, as fast as they are taken.

        :param slow: read more slowly than the other end sends
        """
        self._busy = pause
        self._slow = slow
        if slow:  # otherwise tens of megabytes fit into its buffer, and it may take a while until anything waits for it
            self._set_buffer(SLOW_BUFFER_BYTES)
        self._timer = asyncio.get_running_loop().call_later(random.random() * pause, self._next)

    def rest(self) -> None:
        """Send no more, and read as fast as one can."""
        self._busy = None
        if self._slow:
            self._slow = False
            self._set_buffer(LARGE)
        if self._timer is not None:
            self._timer.cancel()

    def _set_buffer(self, size: int) -> None:
        sock = self.transport.get_extra_info("socket")
        if sock is not None and not self.gone:  # None once a TLS transport has closed
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    def _next(self) -> None:
        self._timer = None
        if self._busy is None or self.gone or self._full:
            return
        self.say()
        if not self._full:
            self._timer = asyncio.get_running_loop().call_later(self._busy, self._next)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._timer is None:
            self._next()

    # --- receiving -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._head = None
            self._opened(self, head)
        view = memoryview(data)
        while view and self.wrong is None:
            if self._ping or (self._at == len(self._expected) and view[0] == 0x80 | PING):
                view = self._take_ping(view)
                continue
            if self._at == len(self._expected):
                self._expected = message(self.tunnel, 1 - self.side, self.received)
                self._at = 0
            size = min(len(view), len(self._expected) - self._at)
            if view[:size] != memoryview(self._expected)[self._at : self._at + size]:
                where = f"tunnel {self.tunnel}, to side {self.side}, message {self.received} from byte {self._at} on"
                self.wrong = f"{where}: {bytes(view[:40])!r}"
            self._at += size
            self.received += self._at == len(self._expected)
            self.received_bytes += size
            view = view[size:]
        if self._slow:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(SLOW_SECONDS, self._read_on)

    def _take_ping(self, view: memoryview) -> memoryview:
        """Take a Ping, which is the gateway's, and answer it once it is whole; what comes behind it."""
        size = 10 if self.side == CLIENT else 14
        rest = view[size - len(self._ping) :]
        self._ping += view[: size - len(self._ping)]
        if len(self._ping) == size:
            ping, self._ping = self._ping, b""
            self.pings += 1
            if self.side == CLIENT:
                self.transport.write(frame(PONG, ping[2:], KEY))
            else:
                self.transport.write(frame(PONG, apply_mask(ping[6:], ping[2:6])))
        return rest

    def _read_on(self) -> None:
        if not self.gone:
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self.rest()
        if self.unanswered is not None and not self.unanswered.done():
            self.unanswered.set_exception(ConnectionResetError("it ended before it was answered"))


class Tunnel:
    """Both ends of one."""

    def __init__(self, client: End, backend: End) -> None:
        self.ends = (client, backend)

    @property
    def gone(self) -> bool:
        """Whether both ends have ended."""
        return all(end.gone for end in self.ends)

    @property
    def lives(self) -> bool:
        """Whether no end has ended."""
        return not any(end.gone for end in self.ends)

    @property
    def complete(self) -> bool:
        """Whether each end has received all that the other sent."""
        client, backend = self.ends
        return (client.received_bytes, backend.received_bytes) == (backend.sent_bytes, client.sent_bytes)

    @property
    def progress(self) -> int:
        """Messages that have come, of the direction that has fewer."""
        return min(end.received for end in self.ends)

    def check(self) -> None:
        """:raises AssertionError: an end has received a byte that was wrong, too many, or in another's place"""
        for end in self.ends:
            assert end.wrong is None, end.wrong
            assert end.received_bytes <= self.ends[1 - end.side].sent_bytes

    def say(self) -> None:
        """One message each way."""
        for end in self.ends:
            end.say()

    def be_busy(self, pause: float, slow: bool = False) -> None:
        """Both ends send message after message from now on. The parameters are those of :meth:`End.be_busy`."""
        for end in self.ends:
            end.be_busy(pause, slow)

    def rest(self) -> None:
        """Neither end sends any more."""
        for end in self.ends:
            end.rest()


def get_busy(tunnels: list[Tunnel], stalling: bool = True) -> None:
    """Have all of them send. :param stalling: one in ten faster than its ends read"""
    for n, tunnel in enumerate(tunnels):
        slow = stalling and n % 10 == 0
        tunnel.be_busy(0 if slow else PAUSE_SECONDS, slow)


async def all_complete(tunnels: Iterable[Tunnel], what: str = "everything to arrive") -> None:
    """Wait until each end of them has all that the other sent; nothing was wrong, and none has ended."""
    await eventually(lambda: all(tunnel.complete for tunnel in tunnels), what)
    for tunnel in tunnels:
        assert tunnel.lives
        tunnel.check()


def _goodbye(tls: ssl.SSLContext | None) -> float | None:
    """How long an end of a connection that was cut may try to send what it still has: 30 s if asyncio is not told."""
    return None if tls is None else 1.0


class Play:
    """A backend, and the clients of tunnels that lead to it."""

    def __init__(self, server: asyncio.Server, address: str) -> None:
        self.address = address
        self._server = server
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[End]] = {}
        self._backends: set[End] = set()
        self._clients: set[End] = set()

    @classmethod
    async def start(cls, tls: ssl.SSLContext | None = None) -> Play:
        """Start the backend. :param tls: of a backend that speaks TLS"""
        port = free_port()
        loop = asyncio.get_running_loop()
        made: Play
        server = await loop.create_server(
            lambda: made._backend(), "127.0.0.1", port, backlog=4096, ssl=tls, ssl_shutdown_timeout=_goodbye(tls)
        )
        made = cls(server, f"127.0.0.1:{port}")
        return made

    async def open(self, gateway: str, seconds: float = DEADLINE_SECONDS, tls: ssl.SSLContext | None = None) -> Tunnel:
        """Open a tunnel through a gateway.

        :param gateway: ``host:port``
        :param tls: of a client that speaks TLS; the certificate has to be for ``localhost``
        :param seconds: that it may take
        :raises ConnectionError: the connection ends before the handshake is answered
        """
        loop = asyncio.get_running_loop()
        number = next(self._numbers)
        answered: asyncio.Future[bytes] = loop.create_future()
        arrived = self._waiting[number] = loop.create_future()
        host, _, port = gateway.rpartition(":")
        client = End(CLIENT, lambda end, head: answered.set_result(head))
        client.tunnel = number
        self._clients.add(client)
        name = None if tls is None else "localhost"
        await loop.create_connection(
            lambda: client, host, int(port), ssl=tls, server_hostname=name, ssl_shutdown_timeout=_goodbye(tls)
        )
        client.transport.write(handshake(f"/{number}"))
        client.unanswered = answered
        head = await within(answered, "the answer to a handshake", seconds)
        assert head.startswith(b"HTTP/1.1 101 "), head
        return Tunnel(client, await arrived)

    async def open_many(
        self, gateway: str, count: int, at_once: int = 50, tls: ssl.SSLContext | None = None
    ) -> list[Tunnel]:
        """Open tunnels, some at once."""
        found: list[Tunnel] = []
        while len(found) < count:
            some = min(at_once, count - len(found))
            found += await asyncio.gather(*(self.open(gateway, tls=tls) for _ in range(some)))
        return found

    async def close(self) -> None:
        """Close everything."""
        self._server.close()
        for end in (*self._clients, *self._backends):
            end.rest()
            if not end.gone and hasattr(end, "transport"):  # or it is still being accepted
                end.transport.abort()
        await within(self._server.wait_closed(), "a backend to close")
        await turn()

    def _backend(self) -> End:
        end = End(BACKEND, self._arrived)
        self._backends.add(end)
        return end

    def _arrived(self, end: End, head: bytes) -> None:
        end.tunnel = int(head.split(b" ", 2)[1].strip(b"/"))
        end.transport.write(switching())
        self._waiting.pop(end.tunnel).set_result(end)
