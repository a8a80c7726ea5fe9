"""Rows of many tunnels under a clock that is no clock: the sweep as it is, sides that answer as they are told.

What the relay does to a row when it sends a Ping and when something comes is done here without a socket.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    CLIENT,
    CLOSE_NS,
    CLOSING_NS,
    DEADLINE_NS,
    DIRTY,
    FD,
    IDLE_NS,
    LAST_NS,
    LIFETIME_NS,
    LIVE,
    NEVER,
    OPENED_NS,
    PING_AFTER_NS,
    PINGED_NS,
    PINGS_SENT,
    PONG_NS,
    PONG_TIMEOUT_NS,
    SECOND,
    SIDE_0,
    SIDE_CELLS,
    STATE,
    TALKS,
    WRITE_STALL_NS,
    WROTE_NS,
)
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.table.table import Table

from .pure import pure_modules

modules = pure_modules()
sweep, next_deadline = modules["sweep"], modules["deadlines"].next_deadline
HABIT, TICK_NS, set_deadline = sweep.HABIT, sweep.TICK_NS, sweep.set_deadline
MS = SECOND // 1000
BOTH = (CLIENT, BACKEND_SIDE)
NO_DESCRIPTOR = 1 << 30


class Ping(NamedTuple):
    """One that was sent."""

    at: int
    row: int
    side: int
    silence: int
    """since the side was last heard"""


class Simulation:
    """A worker's sweep, and time."""

    def __init__(self, rows: int, rtt: int = 5 * MS) -> None:
        self._table = Table.create(1, rows)
        self._slice = Slice(self._table, 0)
        self.cells = self._table.cells
        self.sweep = sweep.Sweep(self._slice, self)  # what it needs of a relay is here
        self.rtt = rtt
        self.now = self.began = 1000 * SECOND
        self.pings: list[Ping] = []
        self.dead: list[tuple[int, int, int]] = []
        self.mute: set[tuple[int, int]] = set()
        """sides that answer nothing"""
        self.refusing: Callable[[int, int], bool] = lambda row, side: False
        """whether no Ping may be sent to a side now"""
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = itertools.count()
        self._more = False
        self._walk_at = self.now

    # --- what happens -------------------------------------------------------------------------------------------------

    def at(self, seconds: float, what: Callable[[], None]) -> None:
        """Have something happen, so many seconds after the beginning."""
        self._schedule(self.began + int(seconds * SECOND), what)

    def open(self, ping_after: tuple[int, int], pong_timeout: int = 20 * SECOND) -> int:
        """Open a tunnel. :param ping_after: of the client, of the backend"""
        row = self._slice.allocate(0, 0)
        assert row is not None
        cells = self.cells
        for field in (WRITE_STALL_NS, IDLE_NS, LIFETIME_NS):
            cells[row + field] = NEVER
        cells[row + CLOSE_NS] = 10 * SECOND
        cells[row + OPENED_NS] = self.now
        for side in BOTH:
            here = row + SIDE_0 + side * SIDE_CELLS
            cells[here + FD] = NO_DESCRIPTOR
            cells[here + LAST_NS] = self.now
            cells[here + PING_AFTER_NS] = ping_after[side]
            cells[here + PONG_TIMEOUT_NS] = pong_timeout
        cells[row + STATE] = LIVE
        set_deadline(cells, row)
        return row

    def hear(self, row: int, side: int, pong: bool = False) -> None:
        """Something comes from a side."""
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        gap = self.now - max(cells[here + LAST_NS], cells[here + PONG_NS])
        if not pong and self.now - cells[here + LAST_NS] >= SECOND:
            talks = self.now - cells[here + LAST_NS] < cells[here + PING_AFTER_NS]
            cells[here + TALKS] = cells[here + TALKS] + 1 if talks else 0
        cells[here + (PONG_NS if pong else LAST_NS)] = self.now
        if pong:
            cells[here + PINGED_NS] = 0
        if pong or gap >= SECOND:
            cells[row + DEADLINE_NS] = next_deadline(cells, row)

    # --- what the sweep asks of the relay -----------------------------------------------------------------------------

    def ping(self, row: int, side: int) -> bool:
        """As the relay does."""
        if self.refusing(row, side):
            return False
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        silence = self.now - max(cells[here + LAST_NS], cells[here + PONG_NS])
        self.pings.append(Ping(self.now, row, side, silence))
        cells[here + PINGS_SENT] += 1
        cells[here + PINGED_NS] = cells[here + WROTE_NS] = self.now
        if (row, side) not in self.mute:
            self._schedule(self.now + self.rtt, lambda: self.hear(row, side, pong=True))
        return True

    def served(self, row: int) -> None:
        """As the relay does."""
        self.cells[row + DIRTY] = 0

    def give_up(self, row: int, side: int, code: int, cause: int) -> None:
        """As the relay does, and the other side answers its Close at once."""
        self.dead.append((self.now, row, side))
        self.cells[row + CLOSING_NS] = self.now
        self._slice.release(row)

    # --- time ---------------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let time pass, as the worker's loop does: a walk each second, a tick when there is more to do."""
        end = self.now + int(seconds * SECOND)
        while self.now < end:
            now = self.now
            while self._events and self._events[0][0] <= now:
                self.now, _, what = heapq.heappop(self._events)
                what()
            self.now = now
            if self.now >= self._walk_at:
                self._walk_at = self.now + SECOND
                self._more = self.sweep.walk(self.now)
            elif self._more:
                self._more = self.sweep.tick(self.now)
            self.now += TICK_NS

    def skip(self, seconds: float) -> None:
        """The worker is stopped for a while, and nothing is done."""
        self.now += int(seconds * SECOND)

    def each_second(self) -> Counter[int]:
        """Pings by second since the beginning."""
        return Counter((ping.at - self.began) // SECOND for ping in self.pings)

    def close(self) -> None:
        self.cells = self.sweep = None  # type: ignore[assignment]  # views of the table
        del self._slice
        self._table.close()

    def _schedule(self, when: int, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._serial), what))
