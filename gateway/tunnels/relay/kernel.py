"""What the relay asks of the kernel: wait, receive, send, watch, shut, close. The pure build of ``kernel.pyx``.

One buffer serves the whole worker: what :meth:`Kernel.recv` reads lies in it until the next call. A second one,
``wire``, has the records of TLS connections, which are opened into the first and sealed from it. Errors come back as
negative ``errno``, since an exception for each would cost more than the call.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from errno import EAGAIN, EBADF, EINPROGRESS, EINTR
from typing import Any

COMPILED = False

MAX_EVENTS = 1024
SPARE_BYTES = 16
"""What the buffer has beyond the most that is received at once: room for the bytes of a Pong that were held back."""

WIRE_SPARE_BYTES = 20 * 1024
"""What ``wire`` has beyond the buffer: room for a record, and for what records add to the data in them."""

SHORT_BYTES = 1024
"""Less is sent without further ado."""

KEEPALIVE_IDLE_SECONDS = 60
FIRST_BYTES = 32 * 1024
"""What is received of a connection at once when it is accepted."""

Accepted = tuple[int, "tuple[str, int] | None", "bytes | int"]
"""Descriptor or a negative errno, address and port of the peer (None on a unix socket), what it sent."""


class Kernel:
    """System calls on raw descriptors, for one epoll instance."""

    def __init__(self, epoll: select.epoll, buffer_bytes: int) -> None:
        """
        :param epoll: the instance that :meth:`wait` waits on and :meth:`watch` changes
        :param buffer_bytes: the most that one :meth:`recv` takes
        """
        self.buffer = bytearray(buffer_bytes + SPARE_BYTES)
        self.receive_bytes = buffer_bytes
        self.data = self.buffer  # the same, as the relay's hot path sees it
        self.wire = bytearray(buffer_bytes + WIRE_SPARE_BYTES)
        self._wire_view = memoryview(self.wire)
        self._epoll = epoll
        self._view = memoryview(self.buffer)
        self._whole = [self._view[:buffer_bytes]]
        # A view of its own for each message would cost as much as a third of a send.
        self._starts = [self._view[:end] for end in range(SHORT_BYTES)]
        self.events: list[tuple[int, int]] = []

    def wait(self, timeout_ms: int) -> int:
        """Wait for events, ``timeout_ms`` at most (-1: without limit); return how many there are."""
        self.events = self._epoll.poll(None if timeout_ms < 0 else timeout_ms / 1000, MAX_EVENTS)
        return len(self.events)

    def event_fd(self, i: int) -> int:
        """Descriptor of event ``i`` of the latest :meth:`wait`."""
        return self.events[i][0]

    def event_mask(self, i: int) -> int:
        """What event ``i`` says: a mask of ``EPOLLIN`` and so on."""
        return self.events[i][1]

    def prefetch(self, cells: memoryview[int], at: int) -> None:
        """Have the processor fetch the cache line of a cell that is to be written soon. Nothing here: it would cost
        more than it saves."""

    def recv(self, fd: int) -> int:
        """Receive into the buffer; return bytes, 0 at the end of the stream, or a negative errno."""
        try:
            return os.readv(fd, self._whole)
        except OSError as error:
            return -(error.errno or EBADF)

    def recv_part(self, fd: int, most: int) -> int:
        """As :meth:`recv`, but no more than ``most`` bytes."""
        try:
            return os.readv(fd, (self._view[:most],))
        except OSError as error:
            return -(error.errno or EBADF)

    def peek(self, fd: int, most: int) -> int:
        """As :meth:`recv_part`, but the bytes stay in the socket."""
        try:
            with _borrowed(fd) as connection:
                return connection.recv_into(self._view, most, socket.MSG_PEEK)
        except OSError as error:
            return -(error.errno or EBADF)

    def send(self, fd: int, start: int, end: int) -> int:
        """Send ``buffer[start:end]``; return bytes taken, or a negative errno."""
        try:
            return os.write(fd, self._starts[end] if not start and end < SHORT_BYTES else self._view[start:end])
        except OSError as error:
            return -(error.errno or EBADF)

    def recv_wire(self, fd: int, start: int, end: int) -> int:
        """Receive into ``wire[start:end]``; return as :meth:`recv` does."""
        try:
            return os.readv(fd, (self._wire_view[start:end],))
        except OSError as error:
            return -(error.errno or EBADF)

    def send_wire(self, fd: int, start: int, end: int) -> int:
        """Send ``wire[start:end]``; return as :meth:`send` does."""
        try:
            return os.write(fd, self._wire_view[start:end])
        except OSError as error:
            return -(error.errno or EBADF)

    def send_part(self, fd: int, start: int, end: int) -> int:
        """As :meth:`send`, for callers outside the relay."""
        return self.send(fd, start, end)

    def send_bytes(self, fd: int, data: bytearray) -> int:
        """Send ``data``; return bytes taken, or a negative errno."""
        try:
            return os.write(fd, data)
        except OSError as error:
            return -(error.errno or EBADF)

    def watch(self, fd: int, known: bool, events: int) -> None:
        """Have epoll watch ``fd`` for ``events``. :param known: whether it watches it already."""
        if known:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)

    def unwatch(self, fd: int) -> None:
        """Have epoll forget ``fd``."""
        self._epoll.unregister(fd)

    def shut(self, fd: int) -> None:
        """Send FIN on ``fd``. A connection that is gone already is none of our business."""
        _shutdown(fd, socket.SHUT_WR)

    def hang_up(self, fd: int) -> None:
        """End the connection of ``fd`` both ways, which :meth:`close` alone does not while others hold it too."""
        _shutdown(fd, socket.SHUT_RDWR)

    def reset(self, fd: int) -> None:
        """Have the connection of ``fd`` end with a reset when it is closed: its peer sees that something is missing."""
        with contextlib.suppress(OSError), _borrowed(fd) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self, fd: int) -> None:
        """Close ``fd``."""
        os.close(fd)

    # --- for handshakes ---------------------------------------------------------------------------------------------

    def accept(self, fd: int, most: int, below: int) -> list[Accepted]:
        """Accept connections, which do not block, and receive what has come on them already.

        :param most: at a time
        :param below: the first whose descriptor is not below this is the last
        :returns: the last may be an error in the place of a connection
        """
        found: list[Accepted] = []
        with _borrowed(fd) as listening:
            while len(found) < most:
                try:
                    connection, address = listening.accept()
                except OSError as error:
                    found.append((-(error.errno or EBADF), None, EAGAIN))
                    break
                connection.setblocking(False)
                if connection.fileno() >= below:
                    most = 0
                peer = (address[0].partition("%")[0], address[1]) if isinstance(address, tuple) else None
                found.append((connection.fileno(), peer, self.receive(connection.detach(), FIRST_BYTES)))
        return found

    def open(self, family: int) -> int:
        """A stream socket that does not block, and over TCP has no delay and keeps alive; or a negative errno."""
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            return -(error.errno or EBADF)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)
        return sock.detach()

    def connect(self, fd: int, family: int, address: Any, data: bytes) -> int:
        """Begin to connect, and send what goes first if the connection stands already, as one on this machine does.

        :param address: as ``socket.connect`` takes it
        :returns: bytes taken, 0 while it is under way, or a negative errno
        """
        with _borrowed(fd) as sock:
            error = sock.connect_ex(address)
        if error not in (0, EINPROGRESS):
            return -error
        sent = self.write(fd, data)
        return 0 if sent in (-EAGAIN, -EINTR) else sent

    def error_of(self, fd: int) -> int:
        """What has gone wrong with a socket since that was asked last, as an errno; 0 for nothing."""
        with _borrowed(fd) as sock:
            return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def limit_unacknowledged(self, fd: int, milliseconds: int) -> None:
        """Have the kernel end a TCP connection whose peer acknowledges nothing for so long (RFC 5482)."""
        with _borrowed(fd) as sock:
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

    def receive(self, fd: int, most: int) -> bytes | int:
        """Receive up to ``most`` bytes; ``b""`` at the end of the stream, an errno where there are none."""
        try:
            return os.read(fd, most)
        except OSError as error:
            return error.errno or EBADF

    def write(self, fd: int, data: bytes) -> int:
        """Send ``data``; return bytes taken, or a negative errno."""
        try:
            return os.write(fd, data)
        except OSError as error:
            return -(error.errno or EBADF)

    def now(self) -> int:
        """``CLOCK_MONOTONIC`` in nanoseconds."""
        return time.monotonic_ns()


def _shutdown(fd: int, how: int) -> None:
    with contextlib.suppress(OSError), _borrowed(fd) as connection:
        connection.shutdown(how)


@contextlib.contextmanager
def _borrowed(fd: int) -> Iterator[socket.socket]:
    """A socket object over a descriptor that stays its owner's."""
    sock = socket.socket(fileno=fd)
    try:
        yield sock
    finally:
        sock.detach()
