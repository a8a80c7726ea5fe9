"""The relay: reads from one side of a tunnel, counts frames, sends to the other side.

A message costs one ``recv`` into the worker's buffer, one scan, one ``send``, and a few integers in the tunnel's row.
Bytes that the socket does not take are copied into a buffer made on demand, and the other side is not read until that
buffer is empty (backpressure): memory is bounded by the receive buffer, and a slow reader slows its sender down.

The class is built in six files: ``streams.py`` sends and buffers, ``ending.py`` ends tunnels, ``failing.py`` ends
those that raise, ``pinging.py`` keeps them alive, ``sealed.py`` reads TLS records, and this file waits, reads and
dispatches.

A worker may be killed between any two instructions. Its successor resumes each tunnel from the row and from the two
connections, which the supervisor holds as well (``adopt``). No byte is lost, repeated or reordered, because of
``DIRTY``:

* Code that serves a tunnel (an event, the sweep, a Close frame) sets it before it reads, sends or changes anything,
  and clears it after the last ``send`` and the last change. The calls in between are opaque to the compiler, so the
  order of the writes is kept, and other processes see everything a dead process wrote.
* It is cleared only while no bytes are pending and no half of a TLS record is held. A clean row therefore belongs to a
  tunnel with no bytes in flight in any process: everything read was sent, the scanners and the TLS sessions match the
  streams, and the kernel delivers what was sent.
* A dirty row is never resumed. Its streams end where they are: each peer has received a prefix of what the other sent,
  with no gap in it.

Compiled by Cython if a C compiler is available (types in ``relay.pxd``), run as it is otherwise.
"""

from __future__ import annotations

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
from gateway.tunnels.relay.sealed import (
    Sealed,
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
    TLS,
    TOTAL_CELLS,
    TOTALS,
    WEBSOCKET,
)

if TYPE_CHECKING:
    from gateway.tunnels.relay.kernel import Kernel

NOT_READ = -1
SHORTEST, LONGEST = 6, 125
"""Bytes of a whole frame whose length fits in seven bits (RFC 6455 5.2), masked or not: least and most."""
MILLISECOND = 1_000_000
MAX_WAIT_MS = 2**31 - 1


class Relay(Sealed):
    """All tunnels of one worker."""

    def __init__(self, kernel: Kernel, cells: memoryview[int], descriptors: int) -> None:
        """As of :class:`Streams`."""
        super().__init__(kernel, cells, descriptors)
        # When the owner's tick is due; set by the code that needs one. An asyncio timer would cost a worker that sends
        # Pings all the time a fifth of its CPU.
        self.tick_ns = NEVER

    # --- the loop -----------------------------------------------------------------------------------------------------

    def poll(self, timeout_ms: int) -> list[tuple[int, int]]:
        """Wait for events and serve those of tunnels; return the others as (descriptor, event mask).

        Returns when there are other events, when the time is up, or when code outside the relay ran, which may have
        given asyncio work. Otherwise asyncio has no ready work, so keep waiting here and save its overhead.
        """
        kernel = self.kernel
        owners = self.owners
        others: list[tuple[int, int]] = []
        self.called = False
        self.now = kernel.now()
        until = NEVER if timeout_ms < 0 else self.now + timeout_ms * MILLISECOND
        while True:
            # Descriptors are closed only here, between two batches of events: the kernel reuses their numbers at once,
            # and a later event of the same batch could then be taken for the new connection's.
            if self.closing_fds:
                for fd in self.closing_fds:
                    kernel.close(fd)
                self.closing_fds.clear()
            count = kernel.wait(self._wait_ms(until))
            self.now = kernel.now()
            i = 0
            while i < count:
                try:  # around the batch: around each event it would cost every message
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
                self.tick_ns = NEVER  # if the call raises, the next walk sets it again
                self.tick_ns = self.owner.tick(self.now)
            if others or self.called or self.now >= until:
                return others

    def _wait_ms(self, until: int) -> int:
        """How long to wait, in milliseconds; -1 for without limit. :param until: a clock (ns)"""
        if self.tick_ns < until:
            until = self.tick_ns
        if until == NEVER:
            return -1
        left = until - self.now
        return 0 if left <= 0 else min((left + MILLISECOND - 1) // MILLISECOND, MAX_WAIT_MS)

    def _prefetch(self, row: int, side: int) -> None:
        """Prefetch the cache lines of a row that are touched first, while another row is served.

        With thousands of tunnels none of them are cached, and waiting for them is half of the CPU time spent outside
        the kernel (``make bench``, scenario ``echo-64-2000``).
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
        """Read once from a side and send it to the other.

        :param got: ``NOT_READ``, or the number of bytes from this side that are already in the buffer
        """
        cells = self.cells
        kernel = self.kernel
        here = row + SIDE_0 + side * SIDE_CELLS
        there = row + SIDE_0 + SIDE_CELLS - side * SIDE_CELLS
        dirty = cells[row + DIRTY]  # 0 also means that nothing is pending
        cells[row + DIRTY] = 1
        if got == NOT_READ:
            if COMPILED:  # ready when the system call returns
                kernel.prefetch(cells, here + SCANNER)
                kernel.prefetch(cells, there)
            if cells[here + TLS]:
                self._read_records(row, side, kernel.receive_bytes)
                return
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
            # The usual case: a whole text or binary message, compressed or not, in one short frame (RFC 6455 5.2).
            cells[totals + (kernel.data[0] & 0x0F)] += 1
            cells[here + SCANNER + FRAMES] += 1
            cells[here + SCANNER + DATA_AT] = now
        elif cells[here + SCANNER + STATUS] == OPEN:
            scan(cells, here + SCANNER, totals, kernel.data, 0, got, now, 0)
            if cells[here + SCANNER + STATUS]:
                self._stream_stopped(row, side)
                dirty = 1
        if cells[there + TLS] or (dirty and cells[there + PENDING]):
            self._send(row, 1 - side, got)
            self.served(row)
            return
        sent = kernel.send(cells[there + FD], 0, got)
        if sent != got:
            self._sent(row, 1 - side, sent, got, kernel.buffer)
            self.served(row)
        elif dirty:
            self.served(row)
        else:
            cells[row + DIRTY] = 0  # it was clean, so the other direction has no bytes in flight here either

    def _read_nothing(self, row: int, side: int, got: int) -> None:
        """A read returned no bytes. :param got: 0 for FIN, or a negative errno"""
        cells = self.cells
        if got == -EAGAIN or got == -EINTR:
            self.served(row)
            return
        if cells[row + SIDE_0 + side * SIDE_CELLS + HELD]:
            # The bytes held back did not become a whole Pong.
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
        """As :meth:`_relay`, when a Close frame from the gateway is due or was sent, or a Pong is awaited."""
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

    def open(
        self,
        row: int,
        client_fd: int,
        backend_fd: int,
        client_pending: bytes = b"",
        backend_pending: bytes = b"",
        client_half: bytes = b"",
        backend_half: bytes = b"",
    ) -> None:
        """Begin to relay. The other fields of the row are filled in, and the sessions of sides that use TLS
        (``Slice.begin_session``). epoll watches both descriptors for ``READING``, re-armed if the last read from one
        may have left bytes.

        :param client_pending: bytes that the client's socket did not take yet, sealed if it uses TLS;
            ``backend_pending`` likewise
        :param client_half: the half of a TLS record that was read from the client; ``backend_half`` likewise
        :raises OSError: never; a socket that failed shows when it is used
        """
        cells = self.cells
        self.now = self.kernel.now()
        cells[row + DIRTY] = 1
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
        self._hold_half(row, CLIENT, client_half)
        self._hold_half(row, BACKEND_SIDE, backend_half)
        if client_pending:
            self._keep(row, CLIENT, bytearray(client_pending))
        if backend_pending:
            self._keep(row, BACKEND_SIDE, bytearray(backend_pending))
        self.served(row)

    def feed(self, row: int, side: int, data: bytes) -> None:
        """Relay bytes that were read from a side before the tunnel opened.

        Until all are fed they are in no row, so the supervisor must not be given the connections before that.
        """
        size = self.kernel.receive_bytes
        for start in range(0, len(data), size):
            if self.cells[row + STATE] != LIVE or self.cells[row + PHASE] == CUT:
                return
            piece = data[start : start + size]
            self.kernel.buffer[: len(piece)] = piece
            self._relay(row, side, len(piece))

    def adopt(
        self,
        row: int,
        client_fd: int,
        backend_fd: int,
        client_pending: bytes = b"",
        backend_pending: bytes = b"",
        client_half: bytes = b"",
        backend_half: bytes = b"",
    ) -> None:
        """Resume a tunnel that another process has stopped serving. Its row is whole.

        :param client_pending: bytes that process still had for the client; ``backend_pending`` likewise. After a crash
            there are none, and the row must be clean
        :param client_half: the half of a TLS record that it had read from the client; ``backend_half`` likewise
        :raises OSError: epoll does not take a descriptor; the caller ends the tunnel with :meth:`finish`
        """
        cells = self.cells
        # If this tunnel crashes the process, the next successor finds the row dirty and drops it.
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
            self._hold_half(row, side, backend_half if side else client_half)
            self.owners[fd] = 2 * row + side
        cells[row + DEADLINE_NS] = next_deadline(cells, row)
        self._watch(row, CLIENT)
        self._watch(row, BACKEND_SIDE)
        self.served(row)

    # --- for those who hand tunnels over ------------------------------------------------------------------------------

    def release(self, row: int) -> list[bytes]:
        """Stop serving a tunnel so that another process can. :meth:`resume` or :meth:`disown` must follow.

        :returns: bytes pending for the client and for the backend, and halves of records from the one and the other
        """
        cells = self.cells
        found = []
        halves = []
        for side in range(2):
            here = row + SIDE_0 + side * SIDE_CELLS
            if cells[here + INTEREST] and cells[here + FD] >= 0:
                self.kernel.unwatch(cells[here + FD])
                cells[here + INTEREST] = 0
            found.append(bytes(self.pending[2 * row + side]) if cells[here + PENDING] else b"")
            halves.append(bytes(self.halves.get(2 * row + side, b"")))
        cells[row + STATE] = RELEASED
        return found + halves

    def flush(self, row: int, side: int) -> None:
        """Send a side its pending bytes, as many as its socket takes."""
        self.now = self.kernel.now()
        self.cells[row + DIRTY] = 1
        self._flush(row, side)
        self.served(row)

    def resume(self, row: int) -> None:
        """Serve a released tunnel again: no other process took it."""
        self.cells[row + STATE] = LIVE
        self._watch(row, CLIENT)
        self._watch(row, BACKEND_SIDE)

    def disown(self, row: int) -> None:
        """Drop a released tunnel that another process serves now. Connections stay open; the caller frees the row."""
        cells = self.cells
        for side in range(2):
            here = row + SIDE_0 + side * SIDE_CELLS
            self.pending.pop(2 * row + side, None)
            self._drop_half(row, side)
            cells[here + PENDING] = 0
            if cells[here + FD] >= 0:
                self.owners[cells[here + FD]] = NO_OWNER
            self.retire(cells[here + FD])
            cells[here + FD] = -1
