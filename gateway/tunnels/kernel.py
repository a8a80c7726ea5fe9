"""What the relay asks of the kernel: wait, receive, send, watch, shut, close. The pure build of ``kernel.pyx``.

One buffer serves the whole worker: what :meth:`Kernel.recv` reads lies in it until the next call. Errors come back as
negative ``errno``, since an exception for each would cost more than the call.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from errno import EBADF

COMPILED = False

MAX_EVENTS = 1024
SPARE_BYTES = 16
"""What the buffer has beyond the most that is received at once: room for the bytes of a Pong that were held back."""


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
        self._epoll = epoll
        self._view = memoryview(self.buffer)
        self._whole = [self._view[:buffer_bytes]]
        self._events: list[tuple[int, int]] = []

    def wait(self, timeout_ms: int) -> int:
        """Wait for events, ``timeout_ms`` at most (-1: without limit); return how many there are."""
        self._events = self._epoll.poll(None if timeout_ms < 0 else timeout_ms / 1000, MAX_EVENTS)
        return len(self._events)

    def event_fd(self, i: int) -> int:
        """Descriptor of event ``i`` of the latest :meth:`wait`."""
        return self._events[i][0]

    def event_mask(self, i: int) -> int:
        """What event ``i`` says: a mask of ``EPOLLIN`` and so on."""
        return self._events[i][1]

    def recv(self, fd: int) -> int:
        """Receive into the buffer; return bytes, 0 at the end of the stream, or a negative errno."""
        try:
            return os.readv(fd, self._whole)
        except OSError as error:
            return -(error.errno or EBADF)

    def send(self, fd: int, start: int, end: int) -> int:
        """Send ``buffer[start:end]``; return bytes taken, or a negative errno."""
        try:
            return os.write(fd, self._view[start:end])
        except OSError as error:
            return -(error.errno or EBADF)

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

    def close(self, fd: int) -> None:
        """Close ``fd``."""
        os.close(fd)

    def now(self) -> int:
        """``CLOCK_MONOTONIC`` in nanoseconds."""
        return time.monotonic_ns()


def _shutdown(fd: int, how: int) -> None:
    with contextlib.suppress(OSError):
        connection = socket.socket(fileno=fd)
        try:
            connection.shutdown(how)
        finally:
            connection.detach()
