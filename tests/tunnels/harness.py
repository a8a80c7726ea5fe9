"""A relay over a real table with real sockets, driven one ``select()`` at a time: no asyncio, no second thread.

:class:`Rig` is the worker, :class:`Tunnel` one tunnel of it, :class:`Peer` one of its endpoints as a test plays it.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import select
import socket
import struct
import termios
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from gateway.protocol.scanner_state import DATA_AT, FRAMES, OPCODES, PING_AT, PONG_AT
from gateway.tunnels.moving.adoption import Adoption, adopt
from gateway.tunnels.relay.owner import Nobody
from gateway.tunnels.relay.poller import Poller
from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    BYTES,
    CAUSE,
    CAUSES,
    CLIENT,
    CLOSE_NS,
    CLOSING_NS,
    DEADLINE_NS,
    DIRTY,
    EXPIRES_NS,
    EXPIRY_CODE,
    FD,
    FRAME_LIMIT,
    GAP_BOUNDS_NS,
    ID,
    IDLE_NS,
    INITIATOR,
    INITIATORS,
    KIND,
    LAST_NS,
    LIFETIME_NS,
    MESSAGE_BURST_NS,
    MESSAGE_NS,
    NEVER,
    ON_LOSS_CODE,
    OPENED_NS,
    PENDING,
    PING_AFTER_NS,
    PINGED_NS,
    PONG_NS,
    PONG_TIMEOUT_NS,
    ROW_CELLS,
    RTT_BOUNDS_NS,
    SCANNER,
    SIDE_0,
    SIDE_CELLS,
    STALLED_NS,
    T_BYTES,
    T_FRAMES,
    T_GAPS,
    T_GAPS_SUM_NS,
    T_PINGS,
    T_PONGS,
    T_RTT_SUM_NS,
    T_RTTS,
    T_TIMEOUTS,
    T_VIOLATIONS,
    TOTAL_CELLS,
    WEBSOCKET,
    WRITE_STALL_NS,
    WROTE_NS,
)
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.table.table import Table
from gateway.tunnels.upkeep.attribution import Attribution, attribute_row
from gateway.tunnels.upkeep.sweep import Sweep
from tests.support.deadline import DEADLINE_SECONDS

NS = 1_000_000_000
WRITE_STALL_AFTER = 60 * NS
CLOSE_WITHIN = 10 * NS
PONG_WITHIN = 20 * NS
DESCRIPTORS = 4096
ROW_CLOCKS = (DEADLINE_NS, OPENED_NS, CLOSING_NS)
SIDE_CLOCKS = (
    *(LAST_NS, STALLED_NS, PINGED_NS, WROTE_NS, PONG_NS),
    *(SCANNER + DATA_AT, SCANNER + PING_AT, SCANNER + PONG_AT),
)
COMPARED_CLOCKS = (PINGED_NS, WROTE_NS, PONG_NS, SCANNER + DATA_AT, SCANNER + PING_AT)
"""Those of which 0, for nothing yet, is compared as earlier than any time."""

BEFORE_ALL_NS = -(1 << 62)
"""Stands for that 0 where times are negative."""
T = TypeVar("T")


# --- peers ------------------------------------------------------------------------------------------------------------


class Peer:
    """One endpoint of a tunnel."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.received = bytearray()
        self.unsent = 0
        """bytes that the endpoint has left to send; see :meth:`turn`"""
        self.end = ""
        """how its stream ended: ``fin``, ``reset``, or not yet"""

    def send(self, data: bytes | memoryview) -> int:
        """Send what the socket takes; how much that was."""
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0

    def read(self, limit: int = 1 << 30) -> int:
        """Take in what is there; how much that was."""
        before = len(self.received)
        while not self.end and (left := before + limit - len(self.received)) > 0:
            try:
                data = self.sock.recv(min(left, 1 << 18))
            except BlockingIOError:
                break
            except ConnectionResetError:
                self.end = "reset"
                break
            self.received += data
            if not data:
                self.end = "fin"
        return len(self.received) - before

    def has(self, data: bytes) -> bool:
        """Whether exactly this has come, once it has been read."""
        self.read()
        return self.received == data

    def has_ended(self) -> bool:
        """Whether its stream is over, once it has been read."""
        self.read()
        return self.end != ""

    def turn(self) -> None:
        """One turn of the loop: an endpoint that has something left to send does so now."""

    def half_close(self) -> None:
        """Send FIN and go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        """Close as a program does that ends."""
        self.sock.close()


def connection(family: str, buffers: int | None = None) -> tuple[socket.socket, socket.socket]:
    """The two ends of a new connection. :param family: ``tcp`` or ``unix``. :param buffers: size of all, in bytes"""

    def sized(sock: socket.socket) -> socket.socket:
        if buffers is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        return sock

    if family == "unix":
        left, right = socket.socketpair()
        return sized(left), sized(right)
    with sized(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        left = sized(socket.socket())
        left.connect(listener.getsockname())
        right, _ = listener.accept()
    for sock in (left, right):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return left, sized(right)


def open_sockets() -> set[str]:
    """Every socket that this process has open, as /proc names them."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the directory's own descriptor
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
    return found


class Held(NamedTuple):
    """Bytes of a tunnel's TLS connections that the edge has as the tunnel opens, as ``Relay.open`` takes them."""

    client_pending: bytes = b""
    backend_pending: bytes = b""
    client_half: bytes = b""
    backend_half: bytes = b""


# --- the worker -------------------------------------------------------------------------------------------------------


@dataclass
class Tunnel:
    """One tunnel. Its cells are in force until it ends; see :class:`End` for later."""

    rig: Rig
    id: int
    row: int
    client: Peer
    backend: Peer
    fds: tuple[int, int]
    sockets: frozenset[str]
    """its descriptors' sockets, as /proc names them"""

    def peer(self, side: int) -> Peer:
        return (self.client, self.backend)[side]

    def cell(self, field: int) -> int:
        return self.rig.cells[self.row + field]

    def side(self, side: int, field: int) -> int:
        found = self.rig.cells[self.row + SIDE_0 + side * SIDE_CELLS + field]
        return 0 if found == BEFORE_ALL_NS else found

    @property
    def pending(self) -> tuple[int, int]:
        """Bytes in the process's hands, for the client and for the backend."""
        return self.side(CLIENT, PENDING), self.side(BACKEND_SIDE, PENDING)

    @property
    def dirty(self) -> bool:
        return bool(self.cell(DIRTY))

    def write_side(self, side: int, field: int, value: int) -> None:
        self.rig.cells[self.row + SIDE_0 + side * SIDE_CELLS + field] = value

    def age(self, nanoseconds: int) -> None:
        """Let time pass for it: whatever it remembers is that much longer ago.

        Where that is longer ago than the machine runs, clocks get negative. What never was stays earlier than those.
        """
        at = [self.row + field for field in ROW_CLOCKS]
        at += [self.row + SIDE_0 + side * SIDE_CELLS + field for side in (0, 1) for field in SIDE_CLOCKS]
        for cell in at:
            if self.rig.cells[cell] not in (0, NEVER, BEFORE_ALL_NS):
                self.rig.cells[cell] -= nanoseconds
        if self.cell(OPENED_NS) < 0:
            for side, field in itertools.product((0, 1), COMPARED_CLOCKS):
                if not self.side(side, field):
                    self.write_side(side, field, BEFORE_ALL_NS)

    def unread(self, side: int) -> int:
        """Bytes from a side that the relay has left in the kernel."""
        size = fcntl.ioctl(self.side(side, FD), termios.FIONREAD, bytes(4))
        return struct.unpack("i", size)[0]


@dataclass
class End:
    """A tunnel that has ended."""

    row: int
    initiator: str
    cause: str
    decided: Attribution
    cells: list[int]

    def side(self, side: int, field: int) -> int:
        return self.cells[SIDE_0 + side * SIDE_CELLS + field]


class Totals:
    """What the totals of route 0 say, for one direction."""

    def __init__(self, cells: memoryview, at: int) -> None:
        self.frames = {op: n for op in range(OPCODES) if (n := cells[at + T_FRAMES + op])}
        self.bytes = cells[at + T_BYTES]
        self.violations = cells[at + T_VIOLATIONS]
        self.pings = cells[at + T_PINGS]
        self.pongs = cells[at + T_PONGS]
        self.timeouts = cells[at + T_TIMEOUTS]
        self.gaps_sum = cells[at + T_GAPS_SUM_NS]
        self.gaps = cells[at + T_GAPS : at + T_GAPS + len(GAP_BOUNDS_NS) + 1].tolist()
        self.rtt_sum = cells[at + T_RTT_SUM_NS]
        self.rtts = cells[at + T_RTTS : at + T_RTTS + len(RTT_BOUNDS_NS) + 1].tolist()


class RigOwner(Nobody):
    """Reports to a rig."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def tunnel_ended(self, row: int) -> None:
        self._rig._ended(row)

    def backend_lost(self, row: int) -> int:
        return self._rig.told_at(row)


class Rig:
    """A worker's relay, without the worker."""

    tls: Sequence[str | None] = ()
    """of tunnels that are opened with nothing said about it"""

    def __init__(self, max_tunnels: int = 16) -> None:
        self.table = Table.create(1, max_tunnels)
        self.cells = self.table.cells
        self.make_worker()
        self.kept: dict[int, tuple[int, int]] = {}
        """what somebody else, as the supervisor does, holds of the tunnels' connections, by the tunnels' ids"""
        self.ends: list[End] = []
        self.tunnels: list[Tunnel] = []
        self.when_ended: Callable[[], None] = lambda: None
        self.before_end: Callable[[int], None] = lambda row: None
        """called with the row of a tunnel that has ended, before it is given back"""
        self.told_at: Callable[[int], int] = lambda row: self.relay.now
        """when the client of a tunnel is told that its backend has vanished"""
        self._peers: list[Peer] = []

    def make_worker(self) -> None:
        """What a worker has of its own."""
        self.slice = Slice(self.table, 0)
        self.poller = Poller(self.table, DESCRIPTORS, RigOwner(self))
        self.relay = self.poller.relay
        self.sweeper = Sweep(self.slice, self.relay)

    def open(
        self,
        family: str = "tcp",
        *,
        kind: int = WEBSOCKET,
        buffers: int | None = None,
        write_stall: int = WRITE_STALL_AFTER,
        idle: int = NEVER,
        lifetime: int = NEVER,
        ping_after: tuple[int, int] = (NEVER, NEVER),
        pong_timeout: int = PONG_WITHIN,
        on_loss: int = 0,
        frames: tuple[int, int] = (0, 0),
        message_ns: int = 0,
        burst_ns: int = 0,
        expires: int = NEVER,
        expiry_code: int = 0,
        ahead: bytes = b"",
        tls: Sequence[str | None] = (),
        engines: Callable[[str, int], tuple[Sequence[int], Any]] | None = None,
        held: Held | None = None,
    ) -> Tunnel:
        """Open a tunnel as the edge does, both sockets being read already.

        :param ahead: what the client says before, and FIN with it: it is read by somebody else, and lost
        :param ping_after: of the client, of the backend
        :param frames: limits to the frames of the client, of the backend
        :param message_ns: what a message costs the client
        :param burst_ns: what it may be ahead
        :param tls: suites of the client and of the backend; None for a plain one. Without it, as ``self.tls`` says
        :param engines: makes their ends of TLS; see ``tls_peers.py``
        :param held: what the edge has of TLS connections besides their sessions
        """
        client, near_client = connection(family, buffers)
        backend, near_backend = connection(family, buffers)
        row = self.slice.allocate(0, 0)
        assert row is not None
        limits = {WRITE_STALL_NS: write_stall, CLOSE_NS: CLOSE_WITHIN, IDLE_NS: idle, LIFETIME_NS: lifetime}
        limits |= {EXPIRES_NS: expires, EXPIRY_CODE: expiry_code}
        for field, value in {KIND: kind, ON_LOSS_CODE: on_loss, **limits}.items():
            self.cells[row + field] = value
        for side, after in enumerate(ping_after):
            self.cells[row + SIDE_0 + side * SIDE_CELLS + PING_AFTER_NS] = after
            self.cells[row + SIDE_0 + side * SIDE_CELLS + PONG_TIMEOUT_NS] = pong_timeout
            self.cells[row + SIDE_0 + side * SIDE_CELLS + FRAME_LIMIT] = frames[side]
        self.cells[row + SIDE_0 + MESSAGE_NS] = message_ns
        self.cells[row + SIDE_0 + MESSAGE_BURST_NS] = burst_ns
        if message_ns and not frames[CLIENT]:
            self.cells[row + SIDE_0 + FRAME_LIMIT] = NEVER
        fds = []
        for sock in (near_client, near_backend):
            sock.setblocking(False)
            self.poller.read(sock.fileno(), lambda data: None)
            fds.append(sock.detach())
        peers = [Peer(client), Peer(backend)]
        for side, suite in enumerate(tls or self.tls):
            if suite is not None:
                session, engine = (engines or self.engines)(suite, side)
                self.slice.begin_session(row, side, session)
                peers[side] = self.tls_peer((client, backend)[side], engine)
        if ahead:
            client.send(ahead)
            client.shutdown(socket.SHUT_WR)
            self.serve()
        for fd in fds:
            self.poller.let_go(fd)
        self.relay.open(row, *fds, *(held or ()))
        self._peers += peers
        number = self.cells[row + ID]
        self.kept[number] = (os.dup(fds[0]), os.dup(fds[1]))
        sockets = frozenset(os.readlink(f"/proc/self/fd/{fd}") for fd in fds)
        made = Tunnel(self, number, row, *peers, (fds[0], fds[1]), sockets)
        self.tunnels.append(made)
        return made

    def succeed(self) -> Adoption:
        """The worker is killed between two turns of its loop, and a successor takes over what is left of it."""
        for tunnel in self.tunnels:
            for fd in tunnel.fds:
                with contextlib.suppress(FileNotFoundError):
                    if os.readlink(f"/proc/self/fd/{fd}") in tunnel.sockets:
                        os.close(fd)
        self.poller.close()
        self.make_worker()
        handed_over = {tunnel: (os.dup(fds[0]), os.dup(fds[1])) for tunnel, fds in self.kept.items()}
        for tunnel in self.tunnels:
            tunnel.fds = handed_over.get(tunnel.id, tunnel.fds)
        return adopt(self.slice, self.relay, handed_over, self._ended, self.forget)

    def engines(self, suite: str, side: int) -> tuple[Sequence[int], Any]:
        """OpenSSL at the other end; our own session."""
        from .tls_peers import with_openssl  # which is made of what is here

        return with_openssl(suite, side)

    def tls_peer(self, sock: socket.socket, engine: Any) -> Peer:
        from .tls_peers import TlsPeer  # as above

        return TlsPeer(sock, engine)

    def forget(self, tunnel_id: int) -> None:
        """What the supervisor does when it hears of a tunnel's end."""
        for fd in self.kept.pop(tunnel_id):
            os.close(fd)

    # --- driving it ---------------------------------------------------------------------------------------------------

    def serve(self, seconds: float = 0) -> None:
        """One turn of the loop."""
        for peer in self._peers:
            peer.turn()
        assert self.poller.select(seconds) == [], "nothing here is asyncio's"

    def until(self, condition: Callable[[], T], what: str, turn: float | None = 0.001) -> T:
        """Serve until a condition holds; what it returned.

        :param turn: seconds that one turn of the loop may wait; None to have nothing served meanwhile
        """
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (found := condition()):
            assert time.monotonic() < deadline, f"waited {DEADLINE_SECONDS:g} s for {what}"
            if turn is not None:
                select.select((self.poller.fileno(),), (), (), turn)
                self.serve()
        return found

    def rest(self, turns: int = 1000) -> None:
        """Serve until there is nothing to be served; whatever is reported over and over fails."""
        for _ in range(turns):
            if not self.waiting():
                return
            self.serve()
        raise AssertionError(f"the loop spins: {self.waiting()}")

    def waiting(self) -> list[tuple[int, int]]:
        """What epoll would wake the worker for now. It is not asked itself: what it tells once is for the worker."""
        epoll = self.poller.fileno()
        if not select.select((epoll,), (), (), 0)[0]:
            return []
        poll = select.poll()
        for line in Path(f"/proc/self/fdinfo/{epoll}").read_text().splitlines():
            if line.startswith("tfd:"):
                words = line.split()
                poll.register(int(words[1]), int(words[3], 16) & (select.POLLIN | select.POLLOUT | select.POLLPRI))
        return poll.poll(0)

    def sweep(self, now: int) -> None:
        """What the worker does once a second. :param now: ``CLOCK_MONOTONIC`` as of then"""
        self.sweeper.walk(now)

    def stall(self, source: Peer, data: bytes) -> bytes:
        """Send ``data`` over and over until the relay has some that the other side does not take; what was taken."""
        (tunnel,) = (each for each in self.tunnels if source in (each.client, each.backend))
        sink = BACKEND_SIDE if source is tunnel.client else CLIENT
        sent = 0
        refused = 0
        deadline = time.monotonic() + DEADLINE_SECONDS
        while refused < 10 or not tunnel.pending[sink]:
            assert time.monotonic() < deadline, "nobody stalls"
            took = source.send(memoryview(data)[sent % len(data) :])
            sent += took
            refused = 0 if took or self.waiting() else refused + 1
            self.serve(0.001 if refused else 0)  # what is on its way through the kernel has time to arrive
        return (data * (sent // len(data) + 1))[:sent]

    # --- what came of it ----------------------------------------------------------------------------------------------

    def totals(self, side: int) -> Totals:
        """Totals of what came from a side."""
        return Totals(self.cells, self.table.totals_at(0, 0) + side * TOTAL_CELLS)

    def end(self) -> End:
        """Serve until a tunnel has ended, and both of its descriptors are closed; how that was."""
        self.until(lambda: self.ends, "a tunnel to end")
        self.serve()
        return self.ends.pop(0)

    def assert_live(self, tunnel: Tunnel) -> None:
        """The tunnel lives on, and nothing keeps the worker busy."""
        self.rest()
        assert not self.ends
        assert list(self.table.rows()) == [tunnel.row]

    def assert_nothing_left(self, tunnel: Tunnel) -> None:
        """No descriptor, no event, no row is left of an ended tunnel; it was told of once."""
        self.serve()
        assert not self.ends
        assert self.slice.rows_in_use == 0
        self.forget_all()
        assert not tunnel.sockets & open_sockets()
        assert "tfd:" not in Path(f"/proc/self/fdinfo/{self.poller.fileno()}").read_text()
        assert self.waiting() == []

    def _ended(self, row: int) -> None:
        self.before_end(row)
        cells = self.cells[row : row + ROW_CELLS].tolist()
        decided = attribute_row(memoryview(array("q", cells)), self.relay.now)
        self.ends.append(End(row, INITIATORS[decided.initiator], CAUSES[decided.cause], decided, cells))
        self.slice.release(row)
        self.when_ended()

    def forget_all(self) -> None:
        """Late enough for a connection to have ended that only closing its descriptors does not end."""
        for tunnel_id in list(self.kept):
            self.forget(tunnel_id)

    def close(self) -> None:
        """Clear everything away, whatever state it is in."""
        self.when_ended = lambda: None
        for peer in self._peers:
            peer.sock.close()
        self.forget_all()
        if not self.poller._selector.closed:  # as an event loop leaves it
            for row in list(self.table.rows()):
                self.cells[row + INITIATOR] = self.cells[row + CAUSE] = 0
                self.relay.finish(row)
            self.serve()
            self.poller.close()
        del self.poller, self.relay, self.sweeper
        with contextlib.suppress(BufferError):  # the traceback of a failed test holds on to the relay
            self.table.close()


def end_counts(end: End, side: int) -> tuple[int, int]:
    """Bytes and frames that came from a side, as the row of an ended tunnel says."""
    return end.side(side, BYTES), end.side(side, SCANNER + FRAMES)
