"""What the parts of the edge share in one worker: the poller, the table, the routes in force, metrics and the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Protocol

from gateway.config.settings import Settings
from gateway.edge.accepted import Accepted
from gateway.edge.descriptors import Descriptors
from gateway.edge.names import Names
from gateway.edge.plain_entry import PlainEntry
from gateway.edge.refusal import Linger, refusal_bytes
from gateway.edge.request import Refused, Request, Trust
from gateway.observe.access_log import AccessLog, Form
from gateway.observe.batch import Batch
from gateway.observe.ends import Ended, Ends
from gateway.observe.events import CLIENT_GONE, FOR_TUNNEL, FROM_DIAL, NO_ROUTE, Events
from gateway.protocol.known_heads import KnownHeads
from gateway.routing.balancing import Target
from gateway.routing.registry import Registry
from gateway.routing.routes import Route, Routes
from gateway.tunnels.learning.intervals import Intervals, News
from gateway.tunnels.learning.learning import Bounds
from gateway.tunnels.relay.poller import Poller
from gateway.tunnels.table.layout import B_LIVE, BACKEND, FD, ID, LIVE, NEVER, PACED_NS, SIDE_0, SIDE_CELLS, STATE
from gateway.tunnels.upkeep.pacing import TURN_SECONDS, Losses, cancel_drain, plan_drain
from gateway.tunnels.upkeep.sweep import INTERVAL_SECONDS, TICK_NS, Sweep

if TYPE_CHECKING:
    from gateway.tunnels.table.table import Slice

WAITING_INTERVAL_SECONDS = 0.25
UNUSED_SECONDS = 0.05
"""Between two looks at whether a worker is still needed."""

HANDSHAKE = Form(
    "handshake",
    request_id="%s",
    client="%s",
    route="%s",
    backend="%s",
    host="%s",
    path="%s",
    result="%s",
    status="%s",
    reason="%s",
    duration="%.6f",
)
REFUSAL = Form("handshake", client="%s", route="%s", result="%s", status="%d", reason="%s")
NS = 1_000_000_000
log = logging.getLogger("gateway")


class Waiting(Protocol):
    """Something on its way that must be done by a deadline."""

    deadline_ns: int

    def late(self) -> None:
        """The deadline has come."""


class Store(Protocol):
    """Has the connections of tunnels kept for a successor of this worker."""

    def keep(self, tunnel: int, client_fd: int, backend_fd: int) -> None:
        """Keep a tunnel's connections."""

    def forget(self, tunnel: int) -> None:
        """The tunnel has ended."""


class Edge:
    """The edge of one worker."""

    def __init__(
        self,
        poller: Poller,
        slice_: Slice,
        registry: Registry,
        events: Events,
        access_log: AccessLog,
        store: Store,
        descriptors: Descriptors,
    ) -> None:
        """:param poller: the running loop's selector"""
        self.loop = asyncio.get_running_loop()
        self.poller = poller
        self.relay = poller.relay
        self.kernel = poller.kernel
        self.slice = slice_
        self.registry = registry
        self.events = events
        self.log = access_log
        self.store = store
        self.descriptors = descriptors
        self.batch = Batch(self.loop)
        self.names = Names()
        self.plain = PlainEntry(self)
        self.known_heads = KnownHeads()
        self.accepted = Accepted()
        self.waiting: set[Waiting] = set()
        self.draining = False
        self.drained = asyncio.Event()
        """set once the gateway drains and the last tunnel has ended"""
        self.drained_backends: frozenset[int] = frozenset()
        """numbers of those that get no new tunnels and requests"""
        self.ends = Ends(slice_.table, registry, events, self.batch)
        self.intervals = Intervals(slice_)
        self.on_learned: Callable[[News], None] = lambda news: None
        """told what other workers should know, too"""
        self.config: Settings
        self.routes: Routes
        self.trust: Trust
        self._tasks: set[asyncio.Task[None]] = set()
        self.sweep = Sweep(slice_, self.relay)
        self._losses = Losses(slice_.table.workers)
        self._pacing_until_ns = 0
        self._next_walk = self.loop.call_later(INTERVAL_SECONDS, self._walk)
        self.loop.call_later(WAITING_INTERVAL_SECONDS, self._look_at_waiting)

    # --- configuration ---------------------------------------------------------------------------------------------

    async def configure(self, config: Settings, registry: Registry, drained_backends: frozenset[int]) -> None:
        """Put a configuration in force for every request from now on. Tunnels are not touched.

        :param registry: has numbers for all of its names
        :param drained_backends: numbers of those that get nothing new
        """
        await self.names.use(backend.address for upstream in config.upstreams.values() for backend in upstream.backends)
        self.registry.routes[:] = registry.routes
        self.registry.backends[:] = registry.backends
        self.routes = Routes(config, self.registry, self.slice.table.live, drained_backends)
        self.trust = Trust(config.trusted_proxies)
        self.config = config
        sides = [
            ((route.number, side), keepalive)
            for route in self.routes.routes
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
        if not self.draining:
            cancel_drain(self.slice, self.drained_backends - drained_backends)
        self.drained_backends = drained_backends

    async def close(self) -> None:
        """Stop everything that is not a tunnel."""
        await self.names.close()
        await self.plain.close()
        for task in self._tasks:
            task.cancel()

    async def finish_plain(self, seconds: float) -> None:
        """Close connections that are idle, and give requests in flight so long to finish."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.plain.finish()
                while self._tasks:
                    await asyncio.wait(self._tasks)
                await self.plain.finish()  # those that waited for plain HTTP to be there

    async def until_unused(self) -> None:
        """Wait until no request, handshake or tunnel is left. Nothing new is accepted meanwhile."""
        while self._is_used():  # noqa: ASYNC110  # an event for each reason would cost every handshake
            await asyncio.sleep(UNUSED_SECONDS)

    def _is_used(self) -> bool:
        in_use = self.waiting or self._tasks or self.slice.rows_in_use
        return bool(in_use) or self.plain.close_idle()

    # --- the rows' owner -------------------------------------------------------------------------------------------

    def tunnel_opened(self, row: int) -> None:
        """Have a tunnel outlive this worker: whatever there is to know of it is in its row from now on."""
        cells = self.slice.cells
        if cells[row + STATE] == LIVE:
            self.store.keep(cells[row + ID], cells[row + SIDE_0 + FD], cells[row + SIDE_0 + SIDE_CELLS + FD])

    def tunnel_ended(self, row: int) -> None:
        """Tell of a tunnel that has ended, and give its row back. Called by the relay."""
        ended = self.ends.remember(row)
        self.intervals.ended(ended.cells, ended.at_ns)
        self.batch.add(self._tell_end, ended)
        self.store.forget(self.slice.cells[row + ID])
        self.slice.release(row)
        self._note_if_drained()

    def _tell_end(self, ended: Ended) -> None:
        self.ends.tell(ended, self.log)

    def backend_lost(self, row: int) -> int:
        """The clock at which the client of a tunnel is told that its backend has vanished. Called by the relay."""
        cells = self.slice.cells
        backend = cells[row + BACKEND]
        tunnels = cells[self.slice.table.backend_at(self.slice.slot, backend) + B_LIVE]
        turn = self._losses.turn_ns(backend, tunnels, self.relay.now)
        if turn > self.relay.now:
            self._pace(turn)
        return turn

    def drain(self, period_seconds: float, code: int) -> None:
        """Refuse handshakes from now on, and close every tunnel, one after another over a period.

        :param code: close code that both sides are told
        """
        self.draining = True
        self._pace(plan_drain(self.slice, time.monotonic_ns(), int(period_seconds * NS), code))
        self._note_if_drained()

    def drain_backends(self, backends: frozenset[int], period_seconds: float, code: int) -> None:
        """Send backends nothing new from now on, and close their tunnels, one after another over a period."""
        self.drained_backends |= backends
        self.routes = Routes(self.config, self.registry, self.slice.table.live, self.drained_backends)
        self._pace(plan_drain(self.slice, time.monotonic_ns(), int(period_seconds * NS), code, backends))

    def go_on_pacing(self) -> None:
        """Have those tunnels of another worker closed in their turn that were to be closed there."""
        cells = self.slice.cells
        until = max((cells[row + PACED_NS] for row in self.slice.table.rows(self.slice.slot)), default=0)
        if until:
            self._pace(until)

    def _pace(self, until_ns: int) -> None:
        """Have the sweep come round more often, from now until somebody's turn."""
        paced_already = time.monotonic_ns() < self._pacing_until_ns
        self._pacing_until_ns = max(self._pacing_until_ns, until_ns)
        if not paced_already:
            self._next_walk.cancel()
            self._next_walk = self.loop.call_later(0, self._walk)

    def _note_if_drained(self) -> None:
        if self.draining and not self.slice.rows_in_use:
            self.drained.set()

    # --- time ------------------------------------------------------------------------------------------------------

    def now(self) -> int:
        """``CLOCK_MONOTONIC`` in nanoseconds, as of the events being served."""
        return self.relay.now

    def head_deadline(self) -> int:
        """Until when the head of a request has to be there that may begin now."""
        return self.relay.now + int(self.config.request_head * NS)

    @staticmethod
    def unix_ns() -> int:
        """Wall clock, for people to read."""
        return time.time_ns()

    def _walk(self) -> None:
        now = time.monotonic_ns()
        seconds = TURN_SECONDS if now < self._pacing_until_ns else INTERVAL_SECONDS
        self._next_walk = self.loop.call_later(seconds, self._walk)
        self.tell_learned()
        self.relay.tick_ns = now + TICK_NS if self.sweep.walk(now) else NEVER
        self._note_if_drained()  # a handshake that failed tells nobody

    def tell_learned(self) -> None:
        """Tell other workers what was learned since they were told last."""
        if news := self.intervals.update():
            self.on_learned(news)

    def tick(self, now: int) -> int:
        """Send the Pings that are due now; when there are more to send. Called by the relay."""
        return now + TICK_NS if self.sweep.tick(now) else NEVER

    def _look_at_waiting(self) -> None:
        self.loop.call_later(WAITING_INTERVAL_SECONDS, self._look_at_waiting)
        now = time.monotonic_ns()
        for waiting in [waiting for waiting in self.waiting if waiting.deadline_ns <= now]:
            waiting.late()

    # --- sockets and tasks -----------------------------------------------------------------------------------------

    def drop(self, fd: int) -> None:
        """Close a descriptor that the poller does not watch, when no event at hand can mean it."""
        self.relay.retire(fd)

    def answer(self, fd: int, refused: Refused) -> None:
        """Answer a request that is refused, and close its connection."""
        Linger(self, fd, refusal_bytes(refused.status, refused.reason))

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run a coroutine beside the relay, and hold on to it until it is done."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task failed", exc_info=task.exception())

    # --- what is told ----------------------------------------------------------------------------------------------

    def count_handshake(self, route: Route | None, result: str, started_ns: int) -> None:
        """Count a handshake that was refused for what it says. :param started_ns: 0 if not a byte of it has come"""
        events = self.events.route(route.name if route else NO_ROUTE)
        self.batch.count(events.handshakes(result))
        if started_ns:
            self.batch.observe(events.handshake_seconds, (time.monotonic_ns() - started_ns) / 1e9)

    def tell_handshake(
        self, request: Request, result: str, status: int | None, reason: str | None, target: Target | None
    ) -> None:
        """Log a handshake that is over, and count it, unless its client has gone."""
        self.batch.add(self._tell_handshake, request, result, status, reason, target, time.monotonic_ns(), time.time())

    def _tell_handshake(
        self,
        request: Request,
        result: str,
        status: int | None,
        reason: str | None,
        target: Target | None,
        at_ns: int,
        at_unix: float,
    ) -> None:
        seconds = (at_ns - request.started_ns) / 1e9
        if result != CLIENT_GONE:
            events = self.events.route(request.route.name)
            self.batch.count(events.handshakes(result))
            self.batch.observe(events.handshake_seconds, seconds)
        if self.log.enabled:
            values = (
                request.request_id,
                request.client,
                request.route.name,
                target.label if target else None,
                request.host,
                request.path,
                result,
                status,
                reason,
                seconds,
            )
            self.log.write(HANDSHAKE, values, at_unix)

    def log_refusal(self, client: str, refused: Refused) -> None:
        """Log a request that was refused before it had a route, or for what it says."""
        values = (client, refused.route.name if refused.route else None, refused.result, refused.status, refused.reason)
        self.batch.add(self.log.write, REFUSAL, values, time.time())

    def connect_failed(self, target: Target, reason: str) -> None:
        """Count a backend that cannot be reached."""
        self.events.connect_errors.labels(target.upstream, target.label, reason).inc()
        self.slice.note_connect(target.number, False, time.monotonic_ns())

    def connect_succeeded(self, target: Target) -> None:
        """Note that a backend was reached."""
        self.slice.note_connect(target.number, True, self.relay.now)
        self.batch.count(self.events.connected(target.upstream, target.label, FOR_TUNNEL, FROM_DIAL))
