"""Accepting connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import socket
import struct
from collections.abc import Callable
from errno import EAGAIN, ECONNABORTED, EINTR, ENOBUFS, ENOMEM
from typing import TYPE_CHECKING

from gateway.edge.descriptors import EXHAUSTED
from gateway.observe.seldom import Seldom

if TYPE_CHECKING:
    from gateway.edge.descriptors import Descriptors
    from gateway.tunnels.relay.poller import Poller

ACCEPTS_AT_ONCE = 32
"""Connections taken before tunnels get their turn again."""

MOST_WAITING = 1 << 16
"""More connections than any queue of the kernel holds."""

PAUSE_SECONDS = 0.25
_EXHAUSTED = (*EXHAUSTED, ENOBUFS, ENOMEM)
Accept = Callable[[int, object, bytes | int], None]
log = logging.getLogger("gateway")


SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
_DROP_SYN = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the flags of the TCP header
        (0x54, 0, 0, 0x12),  # of which SYN and ACK
        (0x15, 0, 1, 0x02),  # are SYN alone?
        (0x06, 0, 0, 0),  # then nothing of it is let through
        (0x06, 0, 0, 0xFFFFFFFF),
    )
)
"""A filter for packets, in the language of socket(7), SO_ATTACH_FILTER."""


def take_no_more(sock: socket.socket) -> None:
    """Have the kernel ignore new connection attempts on a listening socket from now on.

    A connection that entered the queue between the last ``accept`` and the close would be reset, although its client
    sees it as established. A client whose SYN is ignored sends it again and finds the socket closed.
    """
    import ctypes  # few listeners end, and every worker begins

    program = ctypes.create_string_buffer(_DROP_SYN, len(_DROP_SYN))
    sock.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(_DROP_SYN) // 8, ctypes.addressof(program))
    )


class Listener:
    """One listening socket of a worker."""

    def __init__(self, poller: Poller, descriptors: Descriptors, accept: Accept, sock: socket.socket) -> None:
        """
        :param accept: called with each connection: descriptor, the peer's address, what has come on it or an errno
        :param sock: listening and non-blocking; the listener owns it
        """
        self._poller = poller
        self._descriptors = descriptors
        self._serve = accept
        self._sock = sock
        self._listening = False
        self._paused: asyncio.TimerHandle | None = None
        self._exhausted = Seldom(log.error)
        self._closed = False
        if sock.family != socket.AF_UNIX:
            # What a listening socket has, those that it accepts inherit.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
            with contextlib.suppress(OSError):  # a worker may have given it up just before everything was resumed
                sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)

    def use(self, accept: Accept) -> None:
        """Serve connections in another way from now on. :param accept: as for the constructor"""
        self._serve = accept

    def start(self) -> None:
        """Begin to accept, if not begun."""
        if not self._listening and not self._closed:
            self._listening = True
            self._poller.watch(self._sock.fileno(), select.EPOLLIN, self._accept)

    def stop(self) -> None:
        """Stop accepting. New connections wait in the kernel's queue."""
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
        if self._listening:
            self._listening = False
            self._poller.unwatch(self._sock.fileno())

    def close(self) -> None:
        """Accept the connections that wait already, and close this descriptor. Other processes may keep the socket."""
        self.stop()
        self._closed = True
        self._accept(0, MOST_WAITING)
        self._sock.close()

    def give_up(self) -> None:
        """Accept the connections that wait already, and end the socket: no other process uses it."""
        if self._sock.family != socket.AF_UNIX:
            take_no_more(self._sock)
        self.close()

    def abandon(self) -> None:
        """Accepting raised: try again after a moment."""
        self._pause("a mistake in the gateway")

    def _accept(self, mask: int, at_once: int = ACCEPTS_AT_ONCE) -> None:
        kernel = self._poller.kernel
        listening = self._sock.fileno()
        most = self._descriptors.for_connections
        for fd, address, data in kernel.accept(listening, at_once, most):
            if fd >= 0:
                try:
                    self._serve(fd, address, data)
                except Exception:  # one connection must not keep the others from being served
                    log.exception("a connection from %r cannot be served", address)
                    self._poller.on_failure()
                    self._poller.relay.retire(fd)
                if fd >= most:
                    self._pause("descriptors are short")
            elif -fd in _EXHAUSTED:
                self._pause(os.strerror(-fd))
            elif -fd not in (EAGAIN, EINTR, ECONNABORTED):
                log.warning("accept failed: %s", os.strerror(-fd))

    def _pause(self, why: str) -> None:
        """Leave connections in the kernel's queue for a moment: trying again at once would only burn CPU."""
        self._exhausted("cannot accept connections: %s; trying every %s s", why, PAUSE_SECONDS)
        self.stop()
        self._paused = asyncio.get_running_loop().call_later(PAUSE_SECONDS, self.start)
