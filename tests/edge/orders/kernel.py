"""A kernel in memory: sockets, their peers and one epoll instance, as Linux has them.

It has the interface of :class:`gateway.tunnels.relay.kernel.Kernel`. The order of the events of one turn is chosen by
the test, and so is anything that happens between two calls. A call that no correct program makes (a descriptor that is
closed, one that epoll does not know, one that is closed while epoll watches it) is noted in ``mistakes``.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EAGAIN, EBADF, ECONNREFUSED, ECONNRESET, EEXIST, ENOENT, EPIPE
from select import EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP
from typing import Any, Protocol

FIRST_FD = 10
SPARE_BYTES = 16
FIRST_BYTES = 32 * 1024
EVERYTHING = 1 << 30
FIN, RESET = "fin", "reset"
Event = tuple[int, int]


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

    def __init__(self, kernel: FakeKernel, fd: int) -> None:
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


class Connect(Protocol):
    """Decides what becomes of an attempt to connect to a backend."""

    def __call__(self, address: Any, peer: Peer) -> int:
        """:returns: 0 if the connection stands, ``EINPROGRESS`` while it does not, or another errno"""


class FakeKernel:
    """See :class:`gateway.tunnels.relay.kernel.Kernel`, whose methods say what these do."""

    def __init__(self, epoll: object, buffer_bytes: int) -> None:
        self.buffer = bytearray(buffer_bytes + SPARE_BYTES)
        self.receive_bytes = buffer_bytes
        self.data = self.buffer
        self.events: list[Event] = []
        self.clock_ns = 1_000_000_000_000
        self.sockets: dict[int, Socket] = {}
        self.mistakes: list[str] = []
        self.before: Callable[[str, int], None] = lambda call, fd: None
        """called before each call, with its name and descriptor; what it raises is raised by the call"""
        self.order: Callable[[list[Event]], list[Event]] = lambda events: events
        """puts the events of a turn in order"""
        self.in_bytes = EVERYTHING
        """what receive buffers hold of connections that are made from now on"""
        self.on_connect: Connect | None = None
        self._watched: dict[int, int] = {}
        self._ready: dict[int, None] = {}

    # --- for tests ----------------------------------------------------------------------------------------------------

    def listen(self) -> int:
        """A listening socket."""
        sock = self._new()
        sock.waiting = []
        return sock.fd

    def connect_to(self, listening: int, peer: Peer) -> None:
        """Have a client connect."""
        waiting = self.sockets[listening].waiting
        assert waiting is not None
        peer.sock = Socket(self, -1)  # the kernel has it until it is accepted
        peer.sock.peer = peer
        waiting.append(peer)
        self.wake(listening, self.sockets[listening], EPOLLIN)

    @property
    def is_ready(self) -> bool:
        """Whether :meth:`wait` would return any events."""
        return any(self._mask(fd) for fd in self._ready)

    @property
    def watched(self) -> dict[int, int]:
        """What epoll watches, by descriptor."""
        return dict(self._watched)

    def wake(self, fd: int, sock: Socket, events: int) -> None:
        """Something has happened to a socket."""
        if self.sockets.get(fd) is not sock or fd not in self._watched:
            return
        if not events or events & (self._watched[fd] | EPOLLERR | EPOLLHUP):
            self._ready[fd] = None

    def _new(self) -> Socket:
        fd = FIRST_FD
        while fd in self.sockets:
            fd += 1
        self.sockets[fd] = Socket(self, fd)
        return self.sockets[fd]

    def _mask(self, fd: int) -> int:
        return self.sockets[fd].poll() & (self._watched[fd] & ~EPOLLET | EPOLLERR | EPOLLHUP)

    def _of(self, call: str, fd: int) -> Socket | None:
        self.before(call, fd)
        sock = self.sockets.get(fd)
        if sock is None:
            self.mistakes.append(f"{call} of descriptor {fd}, which is closed")
        return sock

    # --- epoll --------------------------------------------------------------------------------------------------------

    def wait(self, timeout_ms: int) -> int:
        self.before("wait", -1)
        found = [(fd, mask) for fd in self._ready if (mask := self._mask(fd))]
        self._ready = {fd: None for fd, _ in found if not self._watched[fd] & EPOLLET}
        self.events = self.order(found)
        return len(self.events)

    def event_fd(self, i: int) -> int:
        return self.events[i][0]

    def event_mask(self, i: int) -> int:
        return self.events[i][1]

    def prefetch(self, cells: memoryview[int], at: int) -> None:
        pass

    def watch(self, fd: int, known: bool, events: int) -> None:
        if self._of("watch", fd) is None:
            raise OSError(EBADF, "watch")
        if known != (fd in self._watched):
            raise OSError(ENOENT if known else EEXIST, f"watch descriptor {fd}, known: {known}")
        self._watched[fd] = events
        self._ready.pop(fd, None)
        if self._mask(fd):
            self._ready[fd] = None

    def unwatch(self, fd: int) -> None:
        if self._of("unwatch", fd) is None:
            raise OSError(EBADF, "unwatch")
        if fd not in self._watched:
            raise OSError(ENOENT, f"unwatch descriptor {fd}")
        del self._watched[fd]
        self._ready.pop(fd, None)

    # --- streams ------------------------------------------------------------------------------------------------------

    def recv(self, fd: int) -> int:
        sock = self._of("recv", fd)
        if sock is None:
            return -EBADF
        data = sock.receive(self.receive_bytes)
        if isinstance(data, int):
            return -data
        self.buffer[: len(data)] = data
        return len(data)

    def receive(self, fd: int, most: int) -> bytes | int:
        sock = self._of("receive", fd)
        return EBADF if sock is None else sock.receive(most)

    def send(self, fd: int, start: int, end: int) -> int:
        return self._send("send", fd, bytes(self.buffer[start:end]))

    def send_part(self, fd: int, start: int, end: int) -> int:
        return self._send("send_part", fd, bytes(self.buffer[start:end]))

    def send_bytes(self, fd: int, data: bytearray) -> int:
        return self._send("send_bytes", fd, bytes(data))

    def write(self, fd: int, data: bytes) -> int:
        return self._send("write", fd, data)

    def _send(self, call: str, fd: int, data: bytes) -> int:
        sock = self._of(call, fd)
        return -EBADF if sock is None else sock.send(data)

    # --- connections --------------------------------------------------------------------------------------------------

    def accept(self, fd: int, most: int, below: int) -> list[tuple[int, tuple[str, int] | None, bytes | int]]:
        listening = self._of("accept", fd)
        assert listening is not None
        assert listening.waiting is not None
        found: list[tuple[int, tuple[str, int] | None, bytes | int]] = []
        while len(found) < most:
            if not listening.waiting:
                found.append((-EAGAIN, None, EAGAIN))
                break
            peer = listening.waiting.pop(0)
            sock = self._new()
            number = sock.fd
            assert peer.sock is not None
            self.sockets[number] = peer.sock
            peer.sock.fd = number
            found.append((number, ("127.0.0.1", 50000 + number), peer.sock.receive(FIRST_BYTES)))
        return found

    def open(self, family: int) -> int:
        self.before("open", -1)
        return self._new().fd

    def connect(self, fd: int, family: int, address: Any, data: bytes) -> int:
        sock = self._of("connect", fd)
        if sock is None:
            return -EBADF
        assert self.on_connect is not None
        sock.peer = Peer("backend")
        sock.peer.sock = sock
        sock.connecting = True
        error = self.on_connect(address, sock.peer)
        if error < 0:
            return 0
        sock.connecting = False
        if error:
            return -error
        sent = sock.send(data)
        return 0 if sent == -EAGAIN else sent

    def error_of(self, fd: int) -> int:
        sock = self._of("error_of", fd)
        return EBADF if sock is None else sock.take_error()

    def limit_unacknowledged(self, fd: int, milliseconds: int) -> None:
        self._of("limit_unacknowledged", fd)

    def shut(self, fd: int) -> None:
        sock = self._of("shut", fd)
        if sock is not None and not sock.dead and not sock.shut:
            sock.shut = True
            sock.end(FIN)
            sock.wake(0)

    def hang_up(self, fd: int) -> None:
        sock = self._of("hang_up", fd)
        if sock is not None and not sock.dead:
            sock.shut = sock.shut_in = True
            sock.end(FIN)
            sock.wake(0)

    def reset(self, fd: int) -> None:
        sock = self._of("reset", fd)
        if sock is not None:
            sock.lingers = False

    def close(self, fd: int) -> None:
        sock = self._of("close", fd)
        if sock is None:
            return
        if fd in self._watched:
            self.mistakes.append(f"descriptor {fd} is closed, and epoll watches it")
            del self._watched[fd]
            self._ready.pop(fd, None)
        del self.sockets[fd]
        sock.closed = True
        if sock.peer is not None and not sock.dead:
            unread = sock.inbox or sock.peer.unsent
            sock.end(FIN if sock.lingers and not unread else RESET)

    def now(self) -> int:
        return self.clock_ns
