"""The owner of one worker's rows: what happens when a tunnel opens, ends or loses its backend, and their upkeep.

The relay calls it (``relay.py``), and so does the code that takes tunnels over from another worker.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from gateway.tunnels.learning.intervals import Intervals, News
from gateway.tunnels.learning.learning import Bounds
from gateway.tunnels.table.layout import B_LIVE, BACKEND, FD, ID, LIVE, NEVER, PACED_NS, SIDE_0, SIDE_CELLS, STATE
from gateway.tunnels.upkeep.pacing import TURN_SECONDS, Drains, Losses, cancel_drain, give_turns, plan_drain
from gateway.tunnels.upkeep.sweep import INTERVAL_SECONDS, TICK_NS, Sweep

if TYPE_CHECKING:
    from gateway.observe.batch import Batch
    from gateway.observe.ends import Ended, Ends
    from gateway.observe.handshakes import Handshakes
    from gateway.routing.routes import Routes
    from gateway.tunnels.relay.relay import Relay
    from gateway.tunnels.table.slice import Slice

NS = 1_000_000_000
log = logging.getLogger("gateway")


class Store(Protocol):
    """Keeps the connections of tunnels for a successor of this worker."""

    def keep(self, tunnel: int, client_fd: int, backend_fd: int) -> None:
        """Keep a tunnel's connections."""

    def forget(self, tunnel: int) -> None:
        """The tunnel has ended."""


class Owner:
    """The owner of the rows of one worker."""

    def __init__(
        self, slice_: Slice, relay: Relay, store: Store, ends: Ends, batch: Batch, handshakes: Handshakes
    ) -> None:
        """:param handshakes: has the access log"""
        self.slice = slice_
        self.relay = relay
        self.intervals = Intervals(slice_)
        self.on_learned: Callable[[News], None] = lambda news: None
        """reports to the other workers"""
        self.draining = False
        self.drained = asyncio.Event()
        """set once the gateway drains and the last tunnel has ended"""
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._ends = ends
        self._batch = batch
        self._handshakes = handshakes
        self._sweep = Sweep(slice_, relay)
        self._drains = Drains()
        self._losses = Losses(slice_.table.workers)
        self._pacing_until_ns = 0
        self._next_walk = self._loop.call_later(INTERVAL_SECONDS, self._walk)

    def use(self, routes: Routes) -> None:
        """Go by a configuration's keepalive from now on."""
        sides = [
            ((route.number, side), keepalive)
            for route in routes.routes
            for side, keepalive in enumerate(route.keepalive)
        ]
        self.intervals.use(
            {key: keepalive.ping_after_ns for key, keepalive in sides if not keepalive.adaptive},
            {
                key: Bounds(keepalive.min_ns, keepalive.max_ns, keepalive.pong_timeout_ns)
                for key, keepalive in sides
                if keepalive.adaptive
            },
        )

    # --- the relay's calls --------------------------------------------------------------------------------------------

    def tunnel_opened(self, row: int) -> None:
        """Have a tunnel outlive this worker: everything about it is in its row from now on."""
        cells = self.slice.cells
        if cells[row + STATE] == LIVE:
            self._store.keep(cells[row + ID], cells[row + SIDE_0 + FD], cells[row + SIDE_0 + SIDE_CELLS + FD])
            if self._drains and (turn := self._drains.give_turn(cells, row, self.relay.now)):
                self._pace(turn)

    def tunnel_ended(self, row: int) -> None:
        """Report a tunnel that has ended, and give its row back."""
        try:
            ended = self._ends.remember(row)
            self._batch.add(self._report_end, ended)
            self.intervals.ended(ended.cells, ended.at_ns)
        finally:  # if reporting raises, the tunnel still leaves no descriptor and no row behind
            self._store.forget(self.slice.cells[row + ID])
            self.slice.release(row)
            self.note_if_drained()

    def side_answered(self, row: int, side: int, silence_ns: int) -> None:
        """A side spoke again after a silence of its connection."""
        self.intervals.answered(row, side, silence_ns)

    def backend_lost(self, row: int) -> int:
        """The clock at which the client of a tunnel is told that its backend has vanished."""
        cells = self.slice.cells
        backend = cells[row + BACKEND]
        tunnels = cells[self.slice.table.backend_at(self.slice.slot, backend) + B_LIVE]
        turn = self._losses.turn_ns(backend, tunnels, self.relay.now)
        if turn > self.relay.now:
            self._pace(turn)
        return turn

    def tick(self, now: int) -> int:
        """Send the Pings that are due now. :returns: when the next ones are"""
        return now + TICK_NS if self._sweep.tick(now) else NEVER

    def _report_end(self, ended: Ended) -> None:
        self._ends.report(ended, self._handshakes.log)

    # --- draining -----------------------------------------------------------------------------------------------------

    def drain(self, period_seconds: float, code: int) -> None:
        """Close every tunnel, one after another over a period. :param code: close code for both sides"""
        self.draining = True
        now, period_ns = time.monotonic_ns(), int(period_seconds * NS)
        self._drains.begin(now + period_ns, code)
        self._pace(plan_drain(self.slice, now, period_ns, code))
        self.note_if_drained()

    def drain_backends(self, backends: frozenset[int], period_seconds: float, code: int) -> None:
        """Close the tunnels of some backends, one after another over a period. :param backends: their numbers"""
        now, period_ns = time.monotonic_ns(), int(period_seconds * NS)
        self._drains.begin(now + period_ns, code, backends)
        self._pace(plan_drain(self.slice, now, period_ns, code, backends))

    def close_in_turn(self, turns: Mapping[int, int], code: int) -> None:
        """Close some tunnels, each when its turn comes. :param turns: their ids, and the clock then"""
        if turns and not self.draining:
            self._pace(give_turns(self.slice, turns, code))

    def keep_backends(self, backends: frozenset[int]) -> None:
        """Backends are in service again: close no more of their tunnels."""
        self._drains.cancel(backends)
        if not self.draining:
            cancel_drain(self.slice, backends)

    def resume_pacing(self) -> None:
        """Close tunnels of another worker in their turn that were to be closed there."""
        cells = self.slice.cells
        until = max((cells[row + PACED_NS] for row in self.slice.table.rows(self.slice.slot)), default=0)
        if until:
            self._pace(until)

    def note_if_drained(self) -> None:
        """Look whether the last tunnel has ended, or the last handshake."""
        if self.draining and not self.slice.rows_in_use:
            self.drained.set()

    # --- time ---------------------------------------------------------------------------------------------------------

    def report_learned(self) -> None:
        """Report what was learned of paths since the last time."""
        if news := self.intervals.update():
            self.on_learned(news)

    def _pace(self, until_ns: int) -> None:
        """Have the sweep come round more often, from now until the last turn."""
        paced_already = time.monotonic_ns() < self._pacing_until_ns
        self._pacing_until_ns = max(self._pacing_until_ns, until_ns)
        if not paced_already:
            self._next_walk.cancel()
            self._next_walk = self._loop.call_later(0, self._walk)

    def _walk(self) -> None:
        now = time.monotonic_ns()
        seconds = TURN_SECONDS if now < self._pacing_until_ns else INTERVAL_SECONDS
        self._next_walk = self._loop.call_later(seconds, self._walk)
        self.slice.forget_taken()
        try:
            self.report_learned()
        except Exception:  # time-outs must not wait for that
            log.exception("worker %d: learned keepalive intervals could not be updated", self.slice.slot)
        self.relay.tick_at(now + TICK_NS if self._sweep.walk(now) else NEVER)
        self.note_if_drained()  # a handshake that failed reports to nobody
