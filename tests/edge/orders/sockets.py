"""Sockets in memory: the gateway's end of each connection and its peer, as TCP of Linux has them."""

from __future__ import annotations

from errno import EAGAIN, ECONNREFUSED, ECONNRESET, EPIPE
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP
from typing import Protocol

EVERYTHING = 1 << 30
FIN, RESET = "fin", "reset"


class Wakes(Protocol):
    """What is told that something has happened to a socket."""

    in_bytes: int

    def wake(self, fd: int, sock: Socket, events: int) -> None:
        """:param events: what, 0 for anything"""


class Peer:
    """The other end of a connection of the gateway's, as a test plays it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.slow = False
        """whether it takes only what it is told to (:meth:`take`)"""
        self.room = EVERYTHING
        self.received = bytearray()
        self.ended = ""
        """how the gateway's stream ended: ``fin``, ``reset``, or not yet"""
        self.said_all = False
        """whether it sent FIN or a reset"""
        self.was_reset = False
        """whether it sent a reset"""
        self.gone = False
        """whether it has closed: what is sent to it is answered by a reset"""
        self.unsent = bytearray()
        """what the gateway's receive buffer has no room for"""
        self.sock: Socket | None = None

    @property
    def has_answered(self) -> bool:
        """Whether it has got anything, or the end."""
        return bool(self.received or self.ended)

    def limit(self, room: int) -> None:
        """Take only what is said. :param room: bytes that the gateway's send buffer holds; 0 for no limit, and all"""
        was_full = self.sock is not None and not self.sock.room
        self.slow = room > 0
        self.room = room or EVERYTHING
        if self.sock is not None and was_full:
            self.sock.wake(EPOLLOUT)

    def send(self, data: bytes) -> None:
        """Send."""
        sock = self.sock
        assert sock is not None
        assert not self.said_all, f"{self.name} has ended its stream"
        if sock.closed:
            self.ended = self.ended or RESET
            return
        self.unsent += data
        sock.refill()

    def fin(self) -> None:
        """Send FIN, and go on receiving."""
        self.said_all = True
        sock = self.sock
        if sock is not None and not sock.closed:
            sock.refill()

    def close(self) -> None:
        """Send FIN, and receive nothing any more."""
        self.gone = True
        if not self.said_all:
            self.fin()

    def reset(self) -> None:
        """Send a reset."""
        self.said_all = self.gone = self.was_reset = True
        self.unsent.clear()
        if self.sock is not None and not self.sock.closed:
            self.sock.was_reset()

    def accept(self) -> None:
        """Accept a connection that the gateway is making."""
        assert self.sock is not None
        self.sock.connecting = False
        self.sock.wake(EPOLLOUT)

    def refuse(self, error: int = ECONNREFUSED) -> None:
        """Refuse it."""
        assert self.sock is not None
        self.said_all = self.gone = True
        self.sock.connecting = False
        self.sock.failed(error)

    def take(self, most: int = EVERYTHING) -> int:
        """Take what the gateway has sent. :returns: bytes"""
        sock = self.sock
        if sock is None:
            return 0
        data = bytes(sock.outbox[:most])
        if data and not self.gone:
            was_full = not sock.room
            del sock.outbox[:most]
            self.received += data
            if was_full:
                sock.wake(EPOLLOUT)
        if not sock.outbox and not self.ended and sock.end_sent:
            self.ended = sock.end_sent
        return len(data)


class Socket:
    """The gateway's end of a connection."""

    def __init__(self, kernel: Wakes, fd: int) -> None:
        self.fd = fd
        self.peer: Peer | None = None
        self.connecting = False
        self.inbox = bytearray()
        self.outbox = bytearray()
        self.in_bytes = kernel.in_bytes
        """what the receive buffer holds"""
        self.fin_came = False
        self.dead = False
        """whether a reset came, or connecting failed"""
        self.error = 0
        self.shut = False
        self.shut_in = False
        self.lingers = True
        self.closed = False
        self.end_sent = ""
        self.waiting: list[Peer] | None = None
        """of a listening socket: who waits to be accepted"""
        self._kernel = kernel

    @property
    def room(self) -> int:
        return max((self.peer.room if self.peer is not None else EVERYTHING) - len(self.outbox), 0)

    # --- what the peer does -------------------------------------------------------------------------------------------

    def refill(self) -> None:
        """Take in what the peer has sent, as far as there is room."""
        peer = self.peer
        assert peer is not None
        if self.dead:
            return
        room = self.in_bytes - len(self.inbox)
        if peer.unsent and room > 0:
            self.inbox += peer.unsent[:room]
            del peer.unsent[:room]
            self.wake(EPOLLIN)
        if peer.said_all and not peer.unsent and not self.fin_came:
            self.fin_came = True
            self.wake(0)

    def was_reset(self) -> None:
        self.failed(EPIPE if self.fin_came else ECONNRESET)

    def failed(self, error: int) -> None:
        self.dead = True
        self.error = error
        self.outbox.clear()
        self.wake(0)

    def wake(self, events: int) -> None:
        """Something has happened. :param events: what, 0 for anything"""
        self._kernel.wake(self.fd, self, events)

    # --- what the gateway does ----------------------------------------------------------------------------------------

    def poll(self) -> int:
        """As ``tcp_poll()`` of Linux."""
        if self.waiting is not None:
            return EPOLLIN if self.waiting else 0
        if self.connecting:
            return 0
        mask = EPOLLERR if self.error else 0
        ended = self.fin_came or self.shut_in or self.dead
        if self.dead or (ended and self.shut):
            mask |= EPOLLHUP
        if ended:
            mask |= EPOLLIN | EPOLLRDHUP
        if self.inbox:
            mask |= EPOLLIN
        if self.shut or self.dead or self.room:
            mask |= EPOLLOUT
        return mask

    def take_error(self) -> int:
        error, self.error = self.error, 0
        return error

    def peek(self, most: int) -> bytes | int:
        """As :meth:`receive`, but what is there stays."""
        return bytes(self.inbox[:most]) if self.inbox and not self.connecting else self.receive(most)

    def receive(self, most: int) -> bytes | int:
        if self.connecting:
            return EAGAIN
        if self.inbox:
            data = bytes(self.inbox[:most])
            del self.inbox[:most]
            if self.peer is not None:
                self.refill()
            return data
        if self.error:
            return self.take_error()
        if self.fin_came or self.dead or self.shut_in:
            return b""
        return EAGAIN

    def send(self, data: bytes) -> int:
        """:returns: bytes taken, or a negative errno"""
        if self.connecting:
            return -EAGAIN
        if self.error:
            return -self.take_error()
        if self.dead or self.shut:
            return -EPIPE
        taken = min(len(data), self.room)
        if not taken:
            return -EAGAIN if data else 0
        peer = self.peer
        assert peer is not None
        if peer.gone:
            self.was_reset()
            return taken
        self.outbox += data[:taken]
        if not peer.slow:
            peer.take()
        return taken

    def end(self, how: str) -> None:
        if not self.end_sent or how == RESET:
            self.end_sent = how
            peer = self.peer
            if peer is not None and not peer.gone and (not peer.slow or how == RESET or not self.outbox):
                peer.take()
                peer.ended = peer.ended or how
