"""Connects the learner of keepalive intervals with the rows that it learns from and that use what it learned.

A row holds the network of each of its sides (``NETWORK``). Route, side and network make a path (``learning.py``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping

from gateway.tunnels.learning.learning import CUT, UNANSWERED, Bounds, Key, Learner, State
from gateway.tunnels.relay.deadlines import next_deadline
from gateway.tunnels.table.layout import (
    CLOSING_NS,
    DEADLINE_NS,
    NETWORK,
    NEVER,
    PING_AFTER_NS,
    ROUTE,
    SIDE_0,
    SIDE_CELLS,
    T_CUTOFF_NS,
    T_INTERVAL_NS,
    TOTAL_CELLS,
)
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.upkeep.attribution import NEITHER, attribute_row

log = logging.getLogger("gateway")
RouteSide = tuple[int, int]
News = list[tuple[Key, State]]


class Intervals:
    """The intervals of one worker's tunnels."""

    def __init__(self, slice_: Slice) -> None:
        self._slice = slice_
        self._cells = slice_.cells
        self._learner = Learner()
        self._bounds: dict[RouteSide, Bounds] = {}
        self._adaptive: list[RouteSide] = []
        self._published: set[RouteSide] = set()

    # --- configuration ----------------------------------------------------------------------------------------------

    def use(self, fixed: Mapping[RouteSide, int], adaptive: Mapping[RouteSide, Bounds]) -> None:
        """Put a configuration in force. Tunnels of routes that are no longer in it keep their intervals.

        :param fixed: intervals that are not learned, by route number and side; ``NEVER`` for off
        :param adaptive: bounds of those that are learned
        """
        self._bounds.update(adaptive)
        for route, side in self._published - fixed.keys():
            self._publish(route, side, 0, 0)
        for (route, side), interval in fixed.items():
            self._publish(route, side, 0 if interval == NEVER else interval, 0)
        self._adaptive = list(adaptive)
        self._published = fixed.keys() | adaptive.keys()
        self._publish_learned()

    # --- events of tunnels --------------------------------------------------------------------------------------------

    def begin(self, row: int, side: int, network: int, now: int) -> None:
        """Give a new tunnel's side its first interval. :param network: of the side; not 0"""
        here = row + SIDE_0 + side * SIDE_CELLS
        key = (self._cells[row + ROUTE], side, network)
        self._cells[here + NETWORK] = network
        self._cells[here + PING_AFTER_NS] = self._learner.interval(key, self._bounds[key[:2]])

    def answered(self, row: int, side: int, silence_ns: int) -> None:
        """A side answered something sent after a silence. Called by the relay, which reads the row next."""
        cells = self._cells
        here = row + SIDE_0 + side * SIDE_CELLS
        key = (cells[row + ROUTE], side, cells[here + NETWORK])
        bounds = self._bounds.get(key[:2])
        if bounds is not None:
            cells[here + PING_AFTER_NS] = self._learner.answered(key, bounds, silence_ns, time.monotonic_ns())

    def ended(self, cells: memoryview[int], now: int) -> None:
        """Learn from a tunnel's end. :param cells: a copy of its row"""
        if not cells[SIDE_0 + NETWORK] and not cells[SIDE_0 + SIDE_CELLS + NETWORK]:
            return
        end = attribute_row(cells, now)
        network = 0 if end.cut == NEITHER else cells[SIDE_0 + end.cut * SIDE_CELLS + NETWORK]
        bounds = self._bounds.get((cells[ROUTE], end.cut))
        if network and bounds is not None:
            key = (cells[ROUTE], end.cut, network)
            self._learner.cut(key, bounds, end.silence_ns, CUT if end.exact else UNANSWERED, now)

    # --- once a second ------------------------------------------------------------------------------------------------

    def update(self) -> News:
        """Apply what was learned to live tunnels. :returns: news for the other workers"""
        dropped = self._learner.changed()
        if dropped:
            self._shorten(dropped)
        self._publish_learned()
        return [(key, state) for key in self._learner.news() if (state := self._learner.export(key)) is not None]

    def adopt(self, news: Iterable[tuple[Key, State]]) -> None:
        """Learn what another worker has learned."""
        now = time.monotonic_ns()
        for key, state in news:
            try:
                self._learner.adopt(key, state, now)
            except Exception:  # one path must not keep the others from being learned
                log.exception("what another worker has learned of path %r cannot be used", key)

    def _shorten(self, paths: set[Key]) -> None:
        """Shorten the interval of every tunnel on these paths: the old one turned out not to be tolerated."""
        cells = self._cells
        for row in self._slice.table.rows(self._slice.slot):
            if cells[row + CLOSING_NS]:
                continue
            for side in range(2):
                here = row + SIDE_0 + side * SIDE_CELLS
                key = (cells[row + ROUTE], side, cells[here + NETWORK])
                if key in paths and (bounds := self._bounds.get(key[:2])) is not None:
                    interval = self._learner.common_interval(key, bounds)
                    if interval < cells[here + PING_AFTER_NS]:
                        cells[here + PING_AFTER_NS] = interval
                        cells[row + DEADLINE_NS] = next_deadline(cells, row)

    def _publish_learned(self) -> None:
        for route, side in self._adaptive:
            found = self._learner.shortest(route, side)
            if found is not None:
                self._publish(route, side, found[0], found[1] or 0)

    def _publish(self, route: int, side: int, interval: int, cutoff: int) -> None:
        at = self._slice.table.totals_at(self._slice.slot, route) + side * TOTAL_CELLS
        self._cells[at + T_INTERVAL_NS] = interval
        self._cells[at + T_CUTOFF_NS] = cutoff
