"""The relay: what is read from one side of a tunnel is sent to the other, with its frames counted on the way.

For each message: one ``recv`` into the worker's buffer, one scan, one ``send``, and integers in the tunnel's row. What
the socket did not take is copied into a buffer made on demand, and until that is empty the other side is not read:
memory is bounded by the receive buffer, and a slow reader slows its sender down (backpressure).

This is the top of four: ``streams.py`` sends and keeps, ``ending.py`` ends, ``pinging.py`` keeps alive, and what is
here waits, reads and decides who gets what was read.

A worker may be killed between any two instructions, and its successor carries the tunnel on from the row and the two
connections, which the supervisor holds too (``adopt``). That gives every byte once and in order because of ``DIRTY``:

* Whatever serves a tunnel (an event, the sweep, a Close frame) writes 1 there before it reads, sends or changes
  anything, and 0 when it is through, which is after the last ``send`` and after the last change. The calls between
  are opaque to the compiler, so it keeps this order, and what a dead process has written is there for all to see.
* 0 is written only while no bytes are pending. So a row with 0 belongs to a tunnel of which no process had a byte in
  hand: what was read was sent, the scanners stand where the streams stand, and the kernel delivers what was sent.
* A row with 1 is never carried on. Its streams end where they are, and each peer has received what came first of what
  the other one sent, with nothing left out before the end.

This file is compiled by Cython where a compiler is at hand (types are in ``relay.pxd``) and runs as it is elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EAGAIN, EINTR
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT
from typing import TYPE_CHECKING

from gateway.protocol.scanner import (
    scan,
)
from gateway.protocol.scanner_state import (
    BROKEN,
    DATA_AT,
    FRAMES,
    MASKING,
    OPEN,
    PEER,
    REST,
    STATUS,
)
from gateway.tunnels.relay.deadlines import (
    next_deadline,
)
from gateway.tunnels.relay.kernel import COMPILED
from gateway.tunnels.relay.pinging import (
    Pinging,
)
from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    BYTES,
    CLIENT,
    CUT,
    DEADLINE_NS,
    DIRTY,
    ENDED,
    FD,
    GATE,
    HELD,
    INTEREST,
    KIND,
    LAST_NS,
    LIVE,
    NEVER,
    NO_OWNER,
    OPENED_NS,
    PENDING,
    PHASE,
    PONG_DUE,
    REGISTERED,
    RELEASED,
    SCANNER,
    SECOND,
    SIDE_0,
    SIDE_CELLS,
    STATE,
    T_BYTES,
    TOTAL_CELLS,
    TOTALS,
    WEBSOCKET,
)

if TYPE_CHECKING:
    from gateway.tunnels.relay.kernel import Kernel

NOT_READ = -1
SHORTEST, LONGEST = 6, 125
"""Bytes of a frame with its length in seven bits: that have room for a mask, and that a mask leaves room for."""
MILLISECOND = 1_000_000
MAX_WAIT_MS = 2**31 - 1


class Relay(Pinging):
    """All tunnels of one worker."""

    def __init__(
        self,
        kernel: Kernel,
        cells: memoryview[int],
        descriptors: int,
        on_end: Callable[[int], None],
        on_answer: Callable[[int, int, int], None] = lambda row, side, silence_ns: None,
        on_loss: Callable[[int], int] | None = None,
        on_tick: Callable[[int], int] = lambda now: NEVER,
    ) -> None:
        """
        The others are described in ``streams.py``, ``ending.py`` and ``pinging.py``.

        :param on_tick: called with the clock once ``tick_ns`` has come; returns when it is due next. A timer of
            asyncio's would cost a worker that sends Pings all the time a fifth of its CPU
        """
        super().__init__(kernel, cells, descriptors, on_end, on_loss, on_answer)
        self.on_tick = on_tick
        self.tick_ns = NEVER  # when on_tick is due; for whoever needs it to set

    # --- the loop -----------------------------------------------------------------------------------------------------

    def poll(self, timeout_ms: int) -> list[tuple[int, int]]:
        """Wait for events and serve those of tunnels; return the others as (descriptor, event mask).

        It returns when there are others, when the time is up, and when anything but the relay was called: that may have
        given asyncio something to do. Else it has nothing to do, or it would not have let us wait, and its work between
        two waits is saved.
        """
        kernel = self.kernel
        owners = self.owners
        others: list[tuple[int, int]] = []
        self.called = False
        self.now = kernel.now()
        until = NEVER if timeout_ms < 0 else self.now + timeout_ms * MILLISECOND
        while True:
            # Descriptors that were let go are closed only here, when no event at hand can mean them: their numbers are
            # used again at once.
            if self.closing_fds:
                for fd in self.closing_fds:
                    kernel.close(fd)
                self.closing_fds.clear()
            count = kernel.wait(self._wait_ms(until))
            self.now = kernel.now()
            i = 0
            while i < count:
                try:  # around all events, as one around each would cost every message
                    while i < count:
                        fd = kernel.event_fd(i)
                        owner = owners[fd]
                        mask = kernel.event_mask(i)
                        i += 1
                        if COMPILED and i < count:
                            next_owner = owners[kernel.event_fd(i)]
                            self._prefetch(next_owner >> 1, next_owner & 1)
                        if owner == NO_OWNER:
                            others.append((fd, mask))
                        elif mask == EPOLLIN:
                            self._relay(owner >> 1, owner & 1, NOT_READ)
                        else:
                            self._ready(owner >> 1, owner & 1, mask)
                except Exception as error:
                    self.fail(owner >> 1, "relaying", error)
            if self.now >= self.tick_ns:
                self.tick_ns = NEVER  # should the next call raise, the next walk says when it is due
                self.tick_ns = self.on_tick(self.now)
            if others or self.called or self.now >= until:
                return others

    def _wait_ms(self, until: int) -> int:
        """For how long to wait, in milliseconds: -1 for as long as it takes. :param until: a clock"""
        if self.tick_ns < until:
            until = self.tick_ns
        if until == NEVER:
            return -1
        left = until - self.now
        return 0 if left <= 0 else min((left + MILLISECOND - 1) // MILLISECOND, MAX_WAIT_MS)

    def _prefetch(self, row: int, side: int) -> None:
        """Fetch what of a row is touched first, while another one is served.

        Over thousands of tunnels none of it is in the processor's caches, and waiting for it is half of what is not the
        kernel's (``make bench``, scenario ``echo-64-2000``).
        """
        self.kernel.prefetch(self.cells, row)
        self.kernel.prefetch(self.cells, row + SIDE_0 + side * SIDE_CELLS)

    def _ready(self, row: int, side: int, mask: int) -> None:
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        cells[row + DIRTY] = 1
        if mask & EPOLLOUT:
            self._flush(row, side)
        if cells[here + INTEREST] & EPOLLIN:
            if mask & (EPOLLIN | EPOLLHUP | EPOLLERR):
                self._relay(row, side, NOT_READ)
                self._ask_anew(here)
        elif mask & (EPOLLHUP | EPOLLERR) and cells[here + ENDED] and cells[row + STATE] == LIVE:
            self._deaf(row, side)
        self.served(row)

    # --- the hot path -------------------------------------------------------------------------------------------------

    def _relay(self, row: int, side: int, got: int) -> None:
        """Read once from a side and send what came to the other.

        :param got: ``NOT_READ``, or how many bytes of the side lie in the buffer already
        """
        cells = self.cells
        kernel = self.kernel
        here = row + SIDE_0 + side * SIDE_CELLS
        there = row + SIDE_0 + SIDE_CELLS - side * SIDE_CELLS
        dirty = cells[row + DIRTY]  # 0 says that nothing is pending, too
        cells[row + DIRTY] = 1
        if got == NOT_READ:
            if COMPILED:  # what is touched next is there when the kernel returns
                kernel.prefetch(cells, here + SCANNER)
                kernel.prefetch(cells, there)
            got = kernel.recv(cells[here + FD])
            if got <= 0:
                self._read_nothing(row, side, got)
                return
            if got == kernel.receive_bytes:
                self._ask_anew(here)
        totals = cells[row + TOTALS] + side * TOTAL_CELLS
        if cells[there + GATE]:
            self._pass_gate(row, side, got, totals)
            return
        now = self.now
        if now - cells[here + LAST_NS] >= SECOND:
            self._end_silence(row, side, True)
        cells[here + LAST_NS] = now
        cells[here + BYTES] += got
        cells[totals + T_BYTES] += got
        rest = cells[here + SCANNER + REST]
        if (
            rest
            and SHORTEST <= got <= LONGEST
            and kernel.data[1] - got == rest
            and kernel.data[0] in (0x81, 0x82, 0xC1, 0xC2)
        ):
            # One whole message of text or binary, compressed or not, in one short frame: that is most of them.
            cells[totals + (kernel.data[0] & 0x0F)] += 1
            cells[here + SCANNER + FRAMES] += 1
            cells[here + SCANNER + DATA_AT] = now
        elif cells[here + SCANNER + STATUS] == OPEN:
            scan(cells, here + SCANNER, totals, kernel.data, 0, got, now, 0)
            if cells[here + SCANNER + STATUS]:
                self._stream_stopped(row, side)
                dirty = 1
        if dirty and cells[there + PENDING]:
            self._keep(row, 1 - side, kernel.buffer[:got])
            return
        sent = kernel.send(cells[there + FD], 0, got)
        if sent != got:
            self._sent(row, 1 - side, sent, got)
            self.served(row)
        elif not dirty or not cells[here + PENDING]:
            # Nothing of this tunnel is in this process's hands, unless the other direction is stalled.
            cells[row + DIRTY] = 0

    def _read_nothing(self, row: int, side: int, got: int) -> None:
        """There was nothing to read from a side: it sent FIN (0), or ``got`` is a negative errno."""
        cells = self.cells
        if got == -EAGAIN or got == -EINTR:
            self.served(row)
            return
        if cells[row + SIDE_0 + side * SIDE_CELLS + HELD]:
            # No Pong that is whole, after all.
            released = self._unhold(row + SIDE_0 + side * SIDE_CELLS, 0)
            self._pass_on(row, side, released, cells[row + TOTALS] + side * TOTAL_CELLS)
            if cells[row + STATE] != LIVE or cells[row + PHASE] == CUT:
                return
        if got == 0:
            self._fin(row, side)
        else:
            cells[row + SIDE_0 + side * SIDE_CELLS + ENDED] = 1
            self._failed(row, side, got)
        self.served(row)

    def _pass_gate(self, row: int, side: int, got: int, totals: int) -> None:
        """As :meth:`_relay`, where a Close of the gateway's own is due or was written, or a Pong is waited for."""
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        if cells[here + HELD]:
            got = self._unhold(here, got)
        if cells[row + SIDE_0 + (1 - side) * SIDE_CELLS + GATE] == PONG_DUE:
            stopped = cells[here + SCANNER + STATUS]
            got = self._take_pongs(row, side, got, totals)
            if got:
                self._end_silence(row, side, True)
                self._count(here, totals, got)
                if cells[here + SCANNER + STATUS] != stopped:
                    self._stream_stopped(row, side)
                self._send(row, 1 - side, got)
        else:
            self._end_silence(row, side, True)
            self._pass_on(row, side, got, totals)
        self.served(row)

    # --- for those who open tunnels -----------------------------------------------------------------------------------

    def open(self, row: int, client_fd: int, backend_fd: int) -> None:
        """Begin to relay. The other fields of the row are filled in. Both descriptors are watched for ``READING``, and
        whoever has read from them left nothing that it will not tell of.

        :raises OSError: never; what is wrong with a socket shows when it is used
        """
        cells = self.cells
        self.now = self.kernel.now()
        for side in range(2):
            here = row + SIDE_0 + side * SIDE_CELLS
            fd = backend_fd if side else client_fd
            cells[here + FD] = fd
            cells[here + INTEREST] = EPOLLIN | REGISTERED
            cells[here + LAST_NS] = self.now
            cells[here + SCANNER + MASKING] = 1 - side
            cells[here + SCANNER + PEER] = -SIDE_CELLS if side else SIDE_CELLS
            if cells[row + KIND] != WEBSOCKET:
                cells[here + SCANNER + STATUS] = BROKEN
            self.owners[fd] = 2 * row + side
        cells[row + OPENED_NS] = self.now
        cells[row + DEADLINE_NS] = min(next_deadline(cells, row), NEVER)
        cells[row + STATE] = LIVE

    def feed(self, row: int, side: int, data: bytes) -> None:
        """Relay bytes that were read from a side before the tunnel opened.

        Nobody may be told to adopt the tunnel before all of them were fed: until then they are in no row.
        """
        size = self.kernel.receive_bytes
        for start in range(0, len(data), size):
            if self.cells[row + STATE] != LIVE or self.cells[row + PHASE] == CUT:
                return
            piece = data[start : start + size]
            self.kernel.buffer[: len(piece)] = piece
            self._relay(row, side, len(piece))

    def adopt(
        self, row: int, client_fd: int, backend_fd: int, client_pending: bytes = b"", backend_pending: bytes = b""
    ) -> None:
        """Carry on a tunnel of another process that serves it no more. Its row is whole.

        :param client_pending: what that process had in hand for the client, as for ``backend_pending``. One that died
            takes that with it: the row has to be clean
        :raises OSError: epoll does not take a descriptor. :meth:`finish` is due then
        """
        cells = self.cells
        # What brings this process down must not do so to one successor after another: the next finds the row dirty.
        cells[row + DIRTY] = 1
        for side in range(2):
            here = row + SIDE_0 + side * SIDE_CELLS
            fd = backend_fd if side else client_fd
            pending = backend_pending if side else client_pending
            cells[here + FD] = fd
            cells[here + INTEREST] = 0
            cells[here + PENDING] = len(pending)
            if pending:
                self.pending[2 * row + side] = bytearray(pending)
            self.owners[fd] = 2 * row + side
        cells[row + DEADLINE_NS] = next_deadline(cells, row)
        self._watch(row, CLIENT)
        self._watch(row, BACKEND_SIDE)
        self.served(row)

    # --- for those who hand tunnels over ------------------------------------------------------------------------------

    def release(self, row: int) -> list[bytes]:
        """Stop serving a tunnel, for another process to do that; :meth:`resume` or :meth:`disown` is to follow.

        :returns: what is pending for the client and for the backend
        """
        cells = self.cells
        found = []
        for side in range(2):
            here = row + SIDE_0 + side * SIDE_CELLS
            if cells[here + INTEREST] and cells[here + FD] >= 0:
                self.kernel.unwatch(cells[here + FD])
                cells[here + INTEREST] = 0
            found.append(bytes(self.pending[2 * row + side]) if cells[here + PENDING] else b"")
        cells[row + STATE] = RELEASED
        return found

    def flush(self, row: int, side: int) -> None:
        """Send a side what is pending for it, as far as its socket takes it."""
        self.now = self.kernel.now()
        self.cells[row + DIRTY] = 1
        self._flush(row, side)
        self.served(row)

    def resume(self, row: int) -> None:
        """Serve a tunnel again that nobody took."""
        self.cells[row + STATE] = LIVE
        self._watch(row, CLIENT)
        self._watch(row, BACKEND_SIDE)

    def disown(self, row: int) -> None:
        """Let a tunnel go that another process serves now: its connections live on, and the row is for its owner to
        give back."""
        cells = self.cells
        for side in range(2):
            here = row + SIDE_0 + side * SIDE_CELLS
            self.pending.pop(2 * row + side, None)
            cells[here + PENDING] = 0
            if cells[here + FD] >= 0:
                self.owners[cells[here + FD]] = NO_OWNER
            self.retire(cells[here + FD])
            cells[here + FD] = -1
