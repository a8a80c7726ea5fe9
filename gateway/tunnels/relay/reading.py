"""Waiting for events and reading: the relay's loop, and what a message costs.

A message costs one ``recv`` into the worker's buffer, one scan, one ``send``, and a few integers in the tunnel's row.

Compiled by Cython if a C compiler is available (types in ``reading.pxd``), run as it is otherwise.
"""

from __future__ import annotations

from errno import EAGAIN, EINTR
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT
from typing import TYPE_CHECKING

from gateway.protocol.headers import PARTIAL as PARTIAL_HEADER
from gateway.protocol.headers import (
    announced,
)
from gateway.protocol.scanner import (
    scan,
)
from gateway.protocol.scanner_state import (
    DATA_AT,
    FRAMES,
    OPEN,
    REST,
    STATUS,
)
from gateway.tunnels.relay.kernel import COMPILED
from gateway.tunnels.relay.metering import (
    NOT_READ,
    Metering,
)
from gateway.tunnels.table.layout import (
    BYTES,
    CUT,
    DIRTY,
    ENDED,
    FD,
    FRAME_LIMIT,
    GATE,
    HELD,
    INTEREST,
    LAST_NS,
    LIMITED,
    LIVE,
    MESSAGE_NS,
    METERED,
    NEVER,
    NO_OWNER,
    PENDING,
    PHASE,
    PONG_DUE,
    SCANNER,
    SECOND,
    SIDE_0,
    SIDE_CELLS,
    STATE,
    T_BYTES,
    TLS,
    TOTAL_CELLS,
    TOTALS,
)

if TYPE_CHECKING:
    from gateway.tunnels.relay.kernel import Kernel

ONE_METERED = EPOLLIN | METERED
"""The event of a side whose messages cost time, when bytes are there and nothing else happened."""

SHORTEST, LONGEST = 6, 125
"""Bytes of a whole frame whose length fits in seven bits (RFC 6455 5.2), masked or not: least and most."""
MILLISECOND = 1_000_000
MAX_WAIT_MS = 2**31 - 1


class Reading(Metering):
    """Streams that are read."""

    def __init__(self, kernel: Kernel, cells: memoryview[int], descriptors: int) -> None:
        """As of :class:`Streams`."""
        super().__init__(kernel, cells, descriptors)
        self.upkeep_ns = NEVER  # when the owner's tick is due

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
                self._tick()
            if others or self.called or self.now >= until:
                return others

    def tick_at(self, when: int) -> None:
        """Call the owner's ``tick`` at ``when``, and not before; ``NEVER`` for not at all."""
        self.upkeep_ns = when
        self.tick_ns = min(when, self.wakes[0][0]) if self.wakes else when

    def _tick(self) -> None:
        """Do what is due now."""
        self._wake_rows()
        upkeep_ns = self.upkeep_ns
        self.tick_at(NEVER)  # if the owner's call raises, the next walk sets it again
        self.tick_at(self.owner.tick(self.now) if self.now >= upkeep_ns else upkeep_ns)

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
        if mask == ONE_METERED:
            self._read_metered(row, side)
            return
        cells[row + DIRTY] = 1
        if mask & EPOLLOUT:
            self._flush(row, side)
        if cells[here + INTEREST] & EPOLLIN:
            if mask & (EPOLLIN | EPOLLHUP | EPOLLERR):
                if cells[here + MESSAGE_NS]:
                    self._read_metered(row, side)
                else:
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
            # The bytes held back did not become a whole Pong, or they are a header of which the frame is missing.
            released = self._unhold(row + SIDE_0 + side * SIDE_CELLS, 0)
            limit = cells[row + SIDE_0 + side * SIDE_CELLS + FRAME_LIMIT]
            size = announced(self.kernel.data, 0, released) if limit else 0
            if size != PARTIAL_HEADER and size <= limit:
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
        """As :meth:`_relay`, when a Close frame from the gateway is due or was sent, a Pong is awaited, or frames are
        limited."""
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        if cells[here + HELD]:
            got = self._unhold(here, got)
        elif self._pass_limited_message(row, side, got, totals):
            return
        gate = cells[row + SIDE_0 + (1 - side) * SIDE_CELLS + GATE]
        if gate in (PONG_DUE, LIMITED):
            stopped = cells[here + SCANNER + STATUS]
            got = self._sift(row, side, got, totals)
            if got:
                self._end_silence(row, side, True)
                self._count(here, totals, got)
            if cells[here + SCANNER + STATUS] != stopped:
                self._stream_stopped(row, side)
            if got:
                self._send(row, 1 - side, got)
            if self.refusal and cells[row + STATE] == LIVE and cells[row + PHASE] != CUT:
                self._refuse(row, side, got, totals)
        else:
            self._end_silence(row, side, True)
            self._pass_on(row, side, got, totals)
        self.served(row)

    def _pass_limited_message(self, row: int, side: int, got: int, totals: int) -> bool:
        """The usual case where frames are limited: a whole message in one short frame, as in :meth:`_relay`.

        :returns: False if this is another one
        """
        cells = self.cells
        data = self.kernel.data
        here = row + SIDE_0 + side * SIDE_CELLS
        rest = cells[here + SCANNER + REST]
        if not (
            rest
            and SHORTEST <= got <= LONGEST
            and data[1] - got == rest
            and data[0] in (0x81, 0x82, 0xC1, 0xC2)
            and got <= cells[here + FRAME_LIMIT]
            and cells[row + SIDE_0 + (1 - side) * SIDE_CELLS + GATE] == LIMITED
        ):
            return False
        if self.now - cells[here + LAST_NS] >= SECOND:
            self._end_silence(row, side, True)
        self._count(here, totals, got)
        cells[totals + (data[0] & 0x0F)] += 1
        cells[here + SCANNER + FRAMES] += 1
        cells[here + SCANNER + DATA_AT] = self.now
        if cells[here + MESSAGE_NS]:
            self._charge(row, side, 1)
        self._send(row, 1 - side, got)
        self.served(row)
        return True
