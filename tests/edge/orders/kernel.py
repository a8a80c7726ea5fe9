"""A kernel in memory: sockets, their peers and one epoll instance, as Linux has them.

It has the interface of :class:`gateway.tunnels.relay.kernel.Kernel`. The order of the events of one turn is chosen by
the test, and so is anything that happens between two calls. A call that no correct program makes (a descriptor that is
closed, one that epoll does not know, one that is closed while epoll watches it) is noted in ``mistakes``.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EAGAIN, EBADF, EEXIST, ENOENT
from select import EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN
from typing import Any, Protocol

from .sockets import EVERYTHING, FIN, RESET, Peer, Socket

FIRST_FD = 10
SPARE_BYTES = 16
WIRE_SPARE_BYTES = 20 * 1024
FIRST_BYTES = 32 * 1024
Event = tuple[int, int]


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
        self.wire = bytearray(buffer_bytes + WIRE_SPARE_BYTES)
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
        return -EBADF if sock is None else self._into_buffer(sock.receive(self.receive_bytes))

    def recv_part(self, fd: int, most: int) -> int:
        sock = self._of("recv_part", fd)
        return -EBADF if sock is None else self._into_buffer(sock.receive(most))

    def peek(self, fd: int, most: int) -> int:
        sock = self._of("peek", fd)
        return -EBADF if sock is None else self._into_buffer(sock.peek(most))

    def _into_buffer(self, data: bytes | int) -> int:
        if isinstance(data, int):
            return -data
        self.buffer[: len(data)] = data
        return len(data)

    def receive(self, fd: int, most: int) -> bytes | int:
        sock = self._of("receive", fd)
        return EBADF if sock is None else sock.receive(most)

    def recv_wire(self, fd: int, start: int, end: int) -> int:
        sock = self._of("recv_wire", fd)
        if sock is None:
            return -EBADF
        data = sock.receive(end - start)
        if isinstance(data, int):
            return -data
        self.wire[start : start + len(data)] = data
        return len(data)

    def send_wire(self, fd: int, start: int, end: int) -> int:
        return self._send("send_wire", fd, bytes(self.wire[start:end]))

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
        if sock is not None:
            if not sock.dead and not sock.shut:
                sock.shut = True
                sock.end(FIN)
            sock.wake(0)

    def hang_up(self, fd: int) -> None:
        sock = self._of("hang_up", fd)
        if sock is not None:
            if not sock.dead:
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
