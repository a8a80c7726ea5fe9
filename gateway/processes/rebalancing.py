"""Moves live tunnels to the backends that ought to have them: on order, and by itself after a scale-out.

One task for each upstream looks at the table again and again, plans (``routing/rebalancing.py``), and sends workers the
turns of the few tunnels that are to be closed until its next look. So whatever happens meanwhile counts: tunnels that
end by themselves, a backend that fails, a reload, a worker that dies with turns that it was sent.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from gateway.admin.movable import movable_tunnels
from gateway.admin.rebalances import CLOSED, ENDED, BackendShare, RebalanceAsked, RebalanceState
from gateway.processes.control.messages import Rebalance
from gateway.processes.scale_out import ScaleOuts
from gateway.processes.workers import Workers
from gateway.protocol.closing import SERVICE_RESTART
from gateway.routing.rebalancing import Plan, Tunnel, plan
from gateway.routing.upstream import Upstream
from gateway.tunnels.table.standing import TableStanding

NS = 1_000_000_000
LOOK_SECONDS = 1.0
"""Between two looks at the table, or a twentieth of the period if that is shorter."""

SHORTEST_LOOK_SECONDS = 0.05
SETTLE_SECONDS = 10.0
"""How long clients that were closed may take to come back: meanwhile, new tunnels go where the fewest are."""

AWAY_SECONDS = 30.0
"""How long a client that was closed counts as one that comes back."""

LATE_SECONDS = 3.0
"""How long after its turn a tunnel may still be open before it is given another turn: its worker may have died."""

OVERTIME_SECONDS = 10.0
"""How long after its period a rebalance may still wait for tunnels to close."""

WATCH_SECONDS = 1.0
"""Between two looks at which backends are in service."""

log = logging.getLogger("gateway")


class Left(NamedTuple):
    """A rebalance under way, for the next supervisor. JSON makes it a list."""

    upstream: str
    period_seconds: float
    until_ns: int
    """``CLOCK_MONOTONIC``, as ``before_ns``"""
    before_ns: int
    closed: int
    ended: int
    automatic: bool
    started_unix: float


class _Turn(NamedTuple):
    when_ns: int
    backend: int


class _Run:
    """A rebalance of one upstream."""

    def __init__(self, state: RebalanceState, until_ns: int, before_ns: int) -> None:
        """
        :param until_ns: when the last tunnel is to be closed
        :param before_ns: only tunnels opened before are moved
        """
        self.state = state
        self.until_ns = until_ns
        self.before_ns = before_ns
        self.turns: dict[int, _Turn] = {}
        """by tunnel: those that were sent to workers and have not ended yet"""
        self.tunnels_at_start: int | None = None
        self.due = 0.0
        """closes that are due and were not sent yet: less than one"""
        self.task: asyncio.Task[None] | None = None
        self._closed: deque[tuple[int, int]] = deque()
        """when tunnels were closed in the last while, and how many"""

    def settle_turns(self, tunnels: Iterable[Tunnel], now_ns: int) -> list[tuple[int, str]]:
        """Find out what has become of tunnels that were given turns.

        :returns: their backends, and whether they were :data:`CLOSED` or have :data:`ENDED` before
        """
        there = {tunnel.id: tunnel for tunnel in tunnels if tunnel.id in self.turns}
        done = []
        closed = 0
        for tunnel, turn in list(self.turns.items()):
            found = there.get(tunnel)
            if found is not None and not found.is_ending:
                if now_ns > turn.when_ns + LATE_SECONDS * NS:
                    del self.turns[tunnel]
                continue
            del self.turns[tunnel]
            result = CLOSED if now_ns >= turn.when_ns else ENDED
            if result == CLOSED:
                self.state.closed += 1
                closed += 1
            else:
                self.state.ended += 1
            done.append((turn.backend, result))
        if closed:
            self._closed.append((now_ns, closed))
        return done

    def away(self, tunnels: int, now_ns: int) -> int:
        """How many clients were closed and have not come back yet, at most.

        :param tunnels: of the upstream, now, without those that are ending
        """
        if self.tunnels_at_start is None:
            self.tunnels_at_start = tunnels
        while self._closed and self._closed[0][0] < now_ns - AWAY_SECONDS * NS:
            self._closed.popleft()
        return max(0, min(sum(count for _, count in self._closed), self.tunnels_at_start - tunnels))

    def take(self, moves: tuple[Tunnel, ...], now_ns: int, until_next_ns: int) -> dict[int, list[tuple[int, int]]]:
        """Give turns to those that are due before the next look, evenly spread but for a random part.

        :returns: turns, by slot
        """
        left_ns = self.until_ns - now_ns
        if left_ns <= until_next_ns:
            number = len(moves)
            until_next_ns = max(left_ns, 0)
        else:
            self.due += len(moves) * until_next_ns / left_ns
            number = min(int(self.due), len(moves))
            self.due -= number
        turns: dict[int, list[tuple[int, int]]] = {}
        for i, tunnel in enumerate(moves[:number]):
            when_ns = now_ns + int((i + random.random()) * until_next_ns / number)
            self.turns[tunnel.id] = _Turn(when_ns, tunnel.backend)
            turns.setdefault(tunnel.slot, []).append((tunnel.id, when_ns))
        return turns


class Rebalancing:
    """The rebalances of one gateway."""

    def __init__(self, workers: Workers, save: Callable[[], object], save_soon: Callable[[], object]) -> None:
        """:param save: saves the state for the next supervisor; ``save_soon``: within a moment"""
        self._workers = workers
        self._state = workers.state
        self._save = save
        self._save_soon = save_soon
        self._standing = TableStanding(workers.state.table)
        self._runs: dict[str, _Run] = {}
        self._upstreams: dict[str, Upstream] = {}
        self._of: tuple[object, object] = (None, None)
        """what the upstreams were made of"""
        self._looking: set[asyncio.Future[Plan]] = set()
        self.scale_outs = ScaleOuts(save_soon)
        """backends that have come into service, where an upstream rebalances by itself"""

    async def order(self, asked: RebalanceAsked) -> list[RebalanceState]:
        """Plan, and unless it is a dry run, begin. A rebalance under way gets the new period.

        :returns: for each upstream that was asked for
        """
        names = list(self._all()) if asked.upstream is None else [asked.upstream]
        found = []
        for name in names:
            upstream = self._all().get(name)
            if upstream is None:
                continue  # a reload has removed it just now
            state = RebalanceState(name, self._balance(name), asked.period_seconds)
            planned = await self._look(upstream)
            _show(state, planned)
            if not asked.dry_run and state.left:
                self._begin(state, time.monotonic_ns())
            else:
                state.is_over = True
            found.append(state)
        return found

    def resume(self, left: Iterable[Sequence[Any]]) -> None:
        """Go on with what the supervisor before has begun."""
        for each in left:
            try:
                run = Left(*each)
            except TypeError:  # another version of the program wrote it
                log.warning("a rebalance under way cannot be resumed: %s", each)
                continue
            state = RebalanceState(run.upstream, self._balance(run.upstream), run.period_seconds, run.automatic)
            state.closed, state.ended, state.started_unix = run.closed, run.ended, run.started_unix
            self._start(_Run(state, run.until_ns, run.before_ns))
            self._save_soon()

    def left(self) -> list[Left]:
        """Return the rebalances that are under way, for :meth:`resume`."""
        return [
            Left(
                name,
                run.state.period_seconds,
                run.until_ns,
                run.before_ns,
                run.state.closed,
                run.state.ended,
                run.state.automatic,
                run.state.started_unix,
            )
            for name, run in self._runs.items()
        ]

    async def watch(self) -> None:
        """Begin by itself once backends have come into service, where an upstream says so."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                self._watch(time.monotonic())
            except Exception:
                log.exception("which backends have come into service could not be checked")

    async def close(self) -> None:
        """Stop. After this returns, nothing here reads the table any more."""
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._looking:
            await asyncio.wait(self._looking)

    # --- after a scale-out --------------------------------------------------------------------------------------------

    def _watch(self, now: float) -> None:
        asked = {
            name: upstream.rebalance
            for name, upstream in self._workers.config.upstreams.items()
            if upstream.rebalance is not None
        }
        self.scale_outs.keep_only(asked)
        if not asked or self._state.stopping:
            return
        upstreams = self._all()
        for name, rebalance in asked.items():
            in_service = [target.number for target in upstreams[name].candidates()]
            found = self.scale_outs.look(name, in_service, rebalance.settle, now)
            if found == "due":
                state = RebalanceState(name, self._balance(name), rebalance.period, automatic=True)
                self._begin(state, time.monotonic_ns())
            elif found is not None:
                addresses = ", ".join(sorted(self._state.registry.backends[number][1] for number in found))
                log.info("%s: %s came into service; rebalancing in %g s", name, addresses, rebalance.settle)

    # --- under way ----------------------------------------------------------------------------------------------------

    def _begin(self, state: RebalanceState, now_ns: int) -> None:
        self._start(_Run(state, now_ns + int(state.period_seconds * NS), now_ns))
        self._save()

    def _start(self, run: _Run) -> None:
        name = run.state.upstream
        before = self._runs.pop(name, None)
        if before is not None:
            assert before.task is not None
            before.task.cancel()
            before.state.error = "another rebalance took its place"
            before.state.is_over = True
            run.turns.update(before.turns)
        # Replace the mapping: a thread may be reading the old one.
        self._state.rebalances = {**self._state.rebalances, name: run.state}
        self._runs[name] = run
        run.task = asyncio.create_task(self._run(run))

    async def _run(self, run: _Run) -> None:
        state = run.state
        try:
            await self._move(run)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("rebalancing %s failed", state.upstream)
            state.error = str(error)
        state.seconds = time.time() - state.started_unix
        state.is_over = True
        if self._runs.get(state.upstream) is run:
            del self._runs[state.upstream]
        self._save()
        _log_end(state)

    async def _move(self, run: _Run) -> None:
        """Close tunnels until each backend has its share."""
        state = run.state
        look_seconds = min(max(state.period_seconds / 20, SHORTEST_LOOK_SECONDS), LOOK_SECONDS)
        is_new = True
        while not self._state.stopping:
            upstream = self._all().get(state.upstream)
            if upstream is None:
                state.error = "a reload has removed the upstream"
                return
            planned = await self._look(upstream, run)
            now_ns = time.monotonic_ns()
            state.seconds = time.time() - state.started_unix
            _show(state, planned)
            state.left = len(planned.moves) + len(run.turns)
            if is_new:
                _log_begin(state)
                is_new = False
            if not state.left:
                return
            if now_ns > run.until_ns + OVERTIME_SECONDS * NS:
                state.error = f"{state.left} tunnels did not close in time"
                return
            running = self._workers.running
            movable = tuple(tunnel for tunnel in planned.moves if tunnel.slot in running)
            turns = run.take(movable, now_ns, int(look_seconds * NS))
            self._send(upstream, turns, now_ns)
            await asyncio.sleep(look_seconds)
        state.error = "the gateway is shutting down"

    def _send(self, upstream: Upstream, turns: dict[int, list[tuple[int, int]]], now_ns: int) -> None:
        settles_until_ns = 0 if upstream.hashes else now_ns + int(SETTLE_SECONDS * NS)
        for slot, worker in self._workers.running.items():
            of_worker = tuple(turns.get(slot, ()))
            if of_worker or settles_until_ns:
                worker.channel.send(Rebalance(upstream.name, of_worker, SERVICE_RESTART, settles_until_ns))

    async def _look(self, upstream: Upstream, run: _Run | None = None) -> Plan:
        """Read the table and plan, in a thread, as there may be many tunnels."""
        self._state.refresh(True)
        looking = asyncio.get_running_loop().run_in_executor(None, partial(self._read, upstream, run))
        self._looking.add(looking)
        looking.add_done_callback(self._looking.discard)
        return await asyncio.shield(looking)

    def _read(self, upstream: Upstream, run: _Run | None) -> Plan:
        tunnels = movable_tunnels(self._state.table)
        if run is None:
            return plan(upstream, tunnels)
        now_ns = time.monotonic_ns()
        backends = self._state.registry.backends
        for backend, result in run.settle_turns(tunnels, now_ns):
            self._state.rebalanced[*backends[backend], result] += 1
        ours = sum(1 for each in tunnels if backends[each.backend][0] == upstream.name and not each.is_ending)
        away = run.away(ours, now_ns)
        return plan(upstream, tunnels, away=away, before_ns=run.before_ns, ordered=run.turns.keys())

    def _balance(self, name: str) -> str:
        upstream = self._workers.config.upstreams.get(name)
        return "" if upstream is None else upstream.balance

    def _all(self) -> dict[str, Upstream]:
        """The upstreams of the configuration in force, as workers have them."""
        settings, drained = self._workers.settings(), frozenset(self._state.drained_backends)
        if self._of != (settings.upstreams, drained):
            self._upstreams = {
                name: Upstream(name, settings, self._state.registry, self._standing, drained)
                for name in settings.upstreams
            }
            self._of = (settings.upstreams, drained)
        return self._upstreams


def _show(state: RebalanceState, planned: Plan) -> None:
    state.left = len(planned.moves)
    state.fixed, state.unknown = planned.fixed, planned.unknown
    state.backends = tuple(
        BackendShare(share.target.label, share.tunnels, share.share, share.surplus) for share in planned.shares
    )


def _log_begin(state: RebalanceState) -> None:
    shares = ", ".join(f"{each.surplus} of {each.tunnels} to {each.address}" for each in state.backends if each.surplus)
    log.info(
        "rebalancing %s: closing %d tunnels over %g s%s%s%s",
        state.upstream,
        state.left,
        state.period_seconds,
        f" ({shares})" if shares else "",
        f"; {state.fixed} more are no WebSocket tunnels and stay" if state.fixed else "",
        f"; the keys of {state.unknown} are not known: they stay" if state.unknown else "",
    )


def _log_end(state: RebalanceState) -> None:
    has = ", ".join(f"{each.address} has {each.tunnels}" for each in state.backends)
    log.log(
        logging.INFO if state.error is None else logging.WARNING,
        "rebalanced %s in %.1f s: closed %d tunnels, %d ended by themselves%s%s",
        state.upstream,
        state.seconds,
        state.closed,
        state.ended,
        f"; {has}" if has else "",
        f"; cut short: {state.error}" if state.error is not None else "",
    )
