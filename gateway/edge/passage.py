"""The way on which clients' connections move to the worker that replaces theirs, in an upgrade.

There is nothing in a connection between two requests but a socket, what was read of the next one, and with TLS its
session. So the old worker sends them through a socket pair to the new one, and a client that asks again notices
nothing. The supervisor makes the pair, gives each worker its end, and takes no part in what goes through.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import socket
from array import array
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from gateway.edge.trust import Peer
    from gateway.edge.wire import Wire
    from gateway.tunnels.relay.poller import Poller

MESSAGE_BYTES = 128 * 1024
"""The most that is read of a request before the head is refused, with room for what describes the connection."""

MOST_AT_ONCE = 64
"""Connections taken in before tunnels get their turn again."""

Take = Callable[[int, list[Any], list[Any] | None, bytes], None]
log = logging.getLogger("gateway")


class Movable(Protocol):
    """A client's connection (``client.py``)."""

    fd: int
    peer: Peer
    wire: Wire

    def unread(self) -> bytes | None:
        """What was read of the next request; None if the connection has to stay where it is."""

    def left(self) -> None:
        """Another process serves it now: let go of it here."""


def passage() -> tuple[socket.socket, socket.socket]:
    """Two ends of a way. Each message is one connection. :raises OSError: there are no descriptors left"""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class WayOut:
    """The end of the worker that is being replaced."""

    def __init__(self, sock: socket.socket) -> None:
        """:param sock: owned by this from now on"""
        sock.setblocking(False)
        self._sock = sock

    def send(self, client: Movable) -> bool:
        """Send a connection on which nothing is under way. :returns: False if it stays here, for now or for good"""
        read = client.unread()
        if read is None:
            return False
        head = json.dumps([client.peer.packed(), client.wire.packed(client.fd)]).encode() + b"\n"
        if len(head) + len(read) > MESSAGE_BYTES:
            return False
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [client.fd]))]
        try:
            self._sock.sendmsg([head + read], rights)
        except BlockingIOError:
            return False
        except OSError as error:
            log.warning("a client's connection cannot move to the new worker: %s", error)
            return False
        client.left()
        return True

    def close(self) -> None:
        """Nothing more moves."""
        self._sock.close()


class Moving:
    """Sends connections as they come to rest."""

    def __init__(self, loop: asyncio.AbstractEventLoop, way: WayOut) -> None:
        self._loop = loop
        self._way = way
        self._resting: list[Movable] = []

    def note(self, client: Movable) -> None:
        """A connection waits for its next request: send it when this turn of the poller is over, which may have
        received that request already."""
        if not self._resting:
            self._loop.call_soon(self._move_resting)
        self._resting.append(client)

    def move(self, clients: Iterable[Movable]) -> None:
        """Send those on which nothing is under way. Not to be called in a turn of the poller."""
        for client in clients:
            self._way.send(client)

    def close(self) -> None:
        """Nothing more moves."""
        self._way.close()

    def _move_resting(self) -> None:
        resting, self._resting = self._resting, []
        self.move(resting)


class WayIn:
    """The end of the new worker."""

    def __init__(self, poller: Poller, sock: socket.socket, take: Take) -> None:
        """
        :param sock: owned by this from now on
        :param take: serves a connection: descriptor, its packed peer (``trust.py``), its packed TLS stream
            (``wire/tls.py``; None for a plain one), what was read of its next request
        """
        sock.setblocking(False)
        self._poller = poller
        self._sock = sock
        self._take = take
        poller.watch(sock.fileno(), select.EPOLLIN, self._read)

    def abandon(self) -> None:
        """Close it. Connections that are on their way end."""
        if self._sock.fileno() >= 0:
            self._poller.unwatch(self._sock.fileno())
            self._sock.close()

    def _read(self, mask: int) -> None:
        for _ in range(MOST_AT_ONCE):
            try:
                data, ancillary, _, _ = self._sock.recvmsg(
                    MESSAGE_BYTES, socket.CMSG_SPACE(array("i").itemsize), socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data, ancillary = b"", []
            if not data:
                self.abandon()
                return
            descriptors = [
                fd
                for level, kind, rights in ancillary
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
                for fd in array("i", rights)
            ]
            try:
                self._take_in(data, descriptors)
            except Exception:  # one connection that is not understood must not keep the others from coming
                log.exception("a connection from the worker before could not be taken over")
                for fd in descriptors:
                    os.close(fd)

    def _take_in(self, data: bytes, descriptors: list[int]) -> None:
        head, _, read = data.partition(b"\n")
        peer, tls = json.loads(head)
        if not descriptors:
            raise OSError("its descriptor got lost: descriptors are short")
        fd = descriptors.pop(0)
        self._take(fd, peer, tls, read)
