"""The supervisor: owns what must outlive a worker, replaces workers that die, and does what signals ask for.

Signal handlers only enqueue; one method serves each signal, one after another. One task keeps one slot filled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from gateway.build import relay_build
from gateway.config import ConfigError, load
from gateway.config.schema import Address, Config
from gateway.edge.descriptors import Descriptors
from gateway.observe.admin import AdminServer, start_admin
from gateway.observe.events import DIRECTORY
from gateway.observe.operations import tell_of_upgrade
from gateway.observe.state import DrainState, GatewayState, UpgradeState
from gateway.processes import upgrade
from gateway.processes.children import InheritedChild, exit_status
from gateway.processes.control import (
    Accept,
    Channel,
    Configure,
    Configured,
    Drain,
    DrainBackends,
    Drained,
    Failed,
    Learned,
    Listen,
    Message,
    Released,
    ReopenLogs,
    Retire,
    Retired,
    Stop,
    TakenOver,
    Unlisten,
)
from gateway.processes.fdstore import DescriptorStore, store_pair
from gateway.processes.heartbeat import INTERVAL_SECONDS, Watch
from gateway.processes.inheritance import Inheritance, InheritedWorker
from gateway.processes.limits import raise_descriptor_limit
from gateway.processes.listening import CannotListen, forget_unix_socket, listen, listen_alone
from gateway.processes.notify import Notifier, describe
from gateway.processes.orders import DRAIN_BACKENDS, FATAL, Order, Orders
from gateway.routing.registry import Registry, RegistryFull
from gateway.tunnels.layout import MAX_BACKENDS, MAX_ROUTES, W_HEARTBEAT_NS, W_PID, W_READY
from gateway.tunnels.learning import MAX_PATHS, Key, State
from gateway.tunnels.mirrors import Mirrors
from gateway.tunnels.table import Table
from gateway.version import VERSION

BOOT_SECONDS = 30.0
CONFIGURE_SECONDS = 30.0
FIRST_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 10.0
MAX_PAUSE_SECONDS = 1.0
"""Before a worker is replaced that could be started: the tunnels that it left behind wait for its successor."""

STABLE_SECONDS = 10.0
"""A worker that lived this long had nothing wrong with it from the start."""

MAX_FAILED_BOOTS = 5
DRAIN_MARGIN_SECONDS = 10.0
"""What the service manager gives a drain beyond the time that it should take."""

log = logging.getLogger("gateway")


class CannotStart(Exception):
    """The gateway cannot run; ``str()`` says why."""


@dataclass
class WorkerProcess:
    """A worker as the supervisor sees it."""

    slot: int
    process: subprocess.Popen[bytes] | InheritedChild
    channel: Channel
    started: float = field(default_factory=time.monotonic)
    ready: float | None = None
    """since when it accepts connections"""
    configured: dict[int, asyncio.Future[str | None]] = field(default_factory=dict)
    """by generation: done when the worker has answered, with the reason if it could not"""
    drained: bool = False
    answers: asyncio.Queue[Message | None] = field(default_factory=asyncio.Queue)
    """what it has done in an upgrade; None when it is gone"""
    retired: bool = False
    """another one serves in its place"""
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    """set when it has nothing left to do, or is gone"""

    @property
    def name(self) -> str:
        """For people to read."""
        return f"{self.slot} (pid {self.process.pid})"

    def listen(self, sockets: Mapping[Address, list[socket.socket]]) -> None:
        """Send it its own of the listening sockets."""
        for address, each in sockets.items():
            self.channel.send(Listen(address, each[self.slot % len(each)].fileno()))


class Supervisor:
    """One running gateway."""

    def __init__(
        self,
        config: Config,
        path: str,
        reload: Callable[[str], Config] = load,
        demo: bool = False,
        inheritance: Inheritance | None = None,
    ) -> None:
        """
        :param path: where the configuration came from
        :param reload: reads it again; raises :class:`ConfigError`
        :param inheritance: of the program that this process was before
        :raises RegistryFull: as :meth:`Registry.admit`
        """
        self._config = config
        self._path = path
        self._reload_config = reload
        self._generation = 1
        self._registry = Registry(MAX_ROUTES, MAX_BACKENDS)
        if inheritance is not None:
            self._generation = inheritance.generation + 1
            self._registry.routes[:] = inheritance.routes
            self._registry.backends[:] = inheritance.backends
        self._registry.admit(config)
        self._inheritance = inheritance
        self._sockets: dict[Address, list[socket.socket]] = {}
        """listening sockets: one for each worker, by address"""
        self._workers: dict[int, WorkerProcess] = {}
        self._orders = Orders()
        self._keepers: list[asyncio.Task[None]] = []
        self._learned: dict[Key, State] = {}
        """what workers have learned of paths, the latest last"""
        self._progress = asyncio.Event()
        """a worker has drained"""
        self._fatal: str | None = None
        self._stopping = False
        self._demo = demo
        self._replacing: asyncio.Task[None] | None = None
        self._asking: list[int] = []
        self._seeing_off: set[asyncio.Task[None]] = set()
        self.state: GatewayState
        self._notifier = Notifier(os.environ, lambda: describe(self.state))

    async def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Run until told to stop.

        :param started: called when every worker accepts connections
        :raises CannotStart: an address cannot be listened on, or workers do not come up
        """
        descriptors = Descriptors(raise_descriptor_limit())
        config = self._config
        loop = asyncio.get_running_loop()
        inherited = self._inheritance
        if inherited is None:
            try:
                admin_socket = listen_alone(config.admin.address)
                self._sockets = self._open_listeners(config)
            except CannotListen as error:
                self._close_sockets()
                raise CannotStart(str(error)) from None
            table = Table.create(config.workers, config.max_tunnels)
            self._mirrors = Mirrors(table, self._registry.sizes)
            metrics = tempfile.mkdtemp(prefix="gateway-metrics-")
        else:
            for fd in inherited.descriptors():
                os.set_inheritable(fd, False)
            admin_socket = socket.socket(fileno=inherited.admin[1])
            sockets = {address: [socket.socket(fileno=fd) for fd in each] for address, each in inherited.listen}
            self._sockets = {listener.address: sockets[str(listener.address)] for listener in config.listen}
            self._mirrors = inherited.carry_on(self._registry.sizes)
            table = self._mirrors.table
            metrics = inherited.metrics
        self._admin_socket = admin_socket
        self._metrics = metrics
        self._environment = {**os.environ, DIRECTORY: metrics}
        self.state = GatewayState(table, self._registry, config, self._path, demo=self._demo)
        self.state.refresh = self._mirrors.refresh
        self._stores = [DescriptorStore(loop, descriptors.for_tunnels) for _ in range(table.slots)]
        admin: AdminServer | None = None
        watches: list[asyncio.Task[None]] = []
        for name in ("HUP", "TERM", "INT", "QUIT", "USR1", "USR2"):
            loop.add_signal_handler(getattr(signal, f"SIG{name}"), self._orders.add, name)
        if inherited is not None:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, upgrade.SIGNALS)
        try:
            admin = await start_admin(self.state, admin_socket, metrics, self._orders)
            log.info("gateway %s (relay %s), configuration %s", VERSION, relay_build(), self._path)
            _warn_if_short(descriptors, config)
            if inherited is None:
                ready = [loop.create_future() for _ in range(config.workers)]
                self._keepers = [asyncio.create_task(self._keep(slot, ready[slot])) for slot in range(config.workers)]
                announce = asyncio.create_task(self._announce(ready, started))
            else:
                announce = self._replacing = asyncio.create_task(self._carry_on(inherited))
            watches = [asyncio.create_task(self._watch_heartbeats())]
            watches.append(asyncio.create_task(self._notifier.keep_telling()))
            while (order := await self._orders.get()).name != FATAL:
                log.info("%s", order)
                if self._replacing is not None and order.name not in ("USR1", "INT", "QUIT"):
                    await self._replacing
                if order.name == "HUP":
                    self._notifier.reloading()
                    await self._hup()
                    self._notifier.reloaded()
                    if self.state.last_reload_error is None:
                        order.done()
                    else:
                        order.refuse(self.state.last_reload_error)
                elif order.name == DRAIN_BACKENDS:
                    order.done(self._drain_backends(order.backends))
                elif order.name == "USR1":
                    self._tell_all(ReopenLogs())
                elif order.name == "TERM":
                    await self._term(order)
                    break
                elif order.name == "USR2":
                    await self._usr2(order)
                else:
                    order.done()
                    break
            announce.cancel()
        finally:
            for task in (self._replacing, *self._seeing_off):
                if task is not None:
                    task.cancel()
            self._orders.close("the gateway is shutting down")
            await self._end()
            for watch in watches:
                watch.cancel()
            for store in self._stores:
                store.close()
            if admin is not None:
                await admin.close()
            else:
                admin_socket.close()
            self._close_sockets()
            forget_unix_socket(config.admin.address)
            self._mirrors.close()
            table.close()
            shutil.rmtree(metrics, ignore_errors=True)
        if self._fatal is not None:
            raise CannotStart(self._fatal)

    # --- signals ---------------------------------------------------------------------------------------------------

    async def _hup(self) -> None:
        """Reload: a configuration that is wrong changes nothing."""
        state = self.state
        try:
            config = await asyncio.to_thread(self._reload_config, self._path)
            _refuse_what_needs_a_restart(self._config, config)
            self._registry.admit(config)
            new = self._open_listeners(config)
        except (ConfigError, RegistryFull, CannotListen, ValueError) as error:
            state.last_reload_ok = False
            state.last_reload_error = str(error)
            log.error("reload failed, the configuration in force stays:\n%s", error)
            return
        before, drained = self._config, self.state.drained_backends
        self._sockets |= new
        for worker in self._serving():
            worker.listen(new)
        failures = await self._configure_all(config, self._still_drained(config))
        state.last_reload_ok = not failures
        state.last_reload_error = "; ".join(failures) or None
        if failures:
            log.error("reload failed, the configuration before it stays in force: %s", state.last_reload_error)
            await self._configure_all(before, drained)
            self._unlisten(new)
            for number, drain in drained.items():  # what was under way goes on
                self._tell_all(DrainBackends(frozenset((number,)), drain.seconds_left, before.drain.close_code))
        else:
            self._unlisten(self._sockets.keys() - {listener.address for listener in config.listen})
            state.config = config
            state.last_reload_unix = time.time()
            log.info("reloaded %s", self._path)

    def _open_listeners(self, config: Config) -> dict[Address, list[socket.socket]]:
        """Open sockets for addresses that have none. :raises CannotListen: one cannot be had; none is opened then"""
        opened: dict[Address, list[socket.socket]] = {}
        try:
            for listener in config.listen:
                if listener.address not in self._sockets:
                    ours = (*self._sockets, *opened)
                    opened[listener.address] = listen(listener.address, config.workers, ours)
        except CannotListen:
            _close_listeners(opened)
            raise
        return opened

    def _unlisten(self, addresses: Collection[Address]) -> None:
        """Stop listening. Workers accept what waits, and have the last descriptors of these sockets then."""
        _close_listeners({address: self._sockets.pop(address) for address in list(addresses)})
        for address in addresses:
            self._tell_all(Unlisten(address))

    def _still_drained(self, config: Config) -> dict[int, DrainState]:
        """Drained backends that a configuration does not have: those that it has are in service again."""
        configured = {
            (name, str(each.address)) for name, upstream in config.upstreams.items() for each in upstream.backends
        }
        drained = self.state.drained_backends
        return {number: drain for number, drain in drained.items() if self._registry.backends[number] not in configured}

    def _serving(self) -> list[WorkerProcess]:
        """Workers that were not replaced by others."""
        return [worker for worker in self._workers.values() if not worker.retired]

    async def _configure_all(self, config: Config, drained_backends: dict[int, DrainState]) -> list[str]:
        """Put a configuration in force, in every worker and in those to come; return what went wrong."""
        self._config = config
        self.state.drained_backends = drained_backends
        self._generation += 1
        answers = [asyncio.wait_for(self._configure(worker), CONFIGURE_SECONDS) for worker in self._serving()]
        failures = []
        for answer in await asyncio.gather(*answers, return_exceptions=True):
            if isinstance(answer, BaseException):
                failures.append("a worker did not answer" if isinstance(answer, TimeoutError) else str(answer))
            elif answer is not None:
                failures.append(answer)
        return failures

    def _drain_backends(self, backends: frozenset[int]) -> list[DrainState]:
        """Have backends sent nothing new, and their tunnels closed."""
        settings = self._config.drain
        self.state.refresh(True)
        drains = {backend: DrainState(settings.period, self.state.table.live(backend)) for backend in backends}
        for backend, drain in drains.items():
            upstream, address = self._registry.backends[backend]
            log.info("draining %s of %s: %d tunnels over %g s", address, upstream, drain.tunnels, settings.period)
        # A new mapping: others may be reading the old one, in a thread.
        self.state.drained_backends = self.state.drained_backends | drains
        self._tell_all(DrainBackends(backends, settings.period, settings.close_code))
        return list(drains.values())

    async def _usr2(self, order: Order) -> None:
        """Upgrade: this process becomes the program that is installed now. Returns if that cannot be."""
        self.state.upgrade = UpgradeState(None, time.time())
        suspended: list[WorkerProcess] = []
        try:
            if self._demo:
                raise upgrade.NotUpgraded("the demo cannot be upgraded, as its backend is part of it")
            if self._seeing_off:
                await asyncio.wait(self._seeing_off)
            await self._until_all_serve()
            await upgrade.try_out(self._leave({}, []))
            log.info("the new program starts; this process becomes it now")
            await self._until_all_serve()
            suspended = list(self._workers.values())
            for _ in range(2):  # what one says, the others may be told
                received = {worker.slot: await worker.channel.suspend() for worker in suspended}
            if self._workers.keys() != received.keys():
                raise upgrade.NotUpgraded("a worker died meanwhile")
            upgrade.execute(self._leave(received, [] if order.connection is None else [order.connection]))
        except (upgrade.NotUpgraded, OSError) as error:
            for worker in suspended:
                worker.channel.proceed()
            self._upgraded(str(error))
            order.refuse(str(error))

    async def _until_all_serve(self) -> None:
        """:raises upgrade.NotUpgraded: a worker is missing, and its successor does not come up"""
        give_up = time.monotonic() + BOOT_SECONDS
        while not all(slot in self._workers and self._workers[slot].ready for slot in self.state.slots):
            if time.monotonic() > give_up:
                raise upgrade.NotUpgraded("a worker is missing")
            await asyncio.sleep(0.05)

    def _leave(self, received: dict[int, bytes], asking: list[int]) -> Inheritance:
        """What the next program needs.

        :param received: by slot: the beginning of a message
        :param asking: connections of clients of the admin API that wait for the result
        """
        state = self.state
        return Inheritance(
            version=VERSION,
            path=self._path,
            workers=self._config.workers,
            max_tunnels=self._config.max_tunnels,
            admin=(str(self._config.admin.address), self._admin_socket.fileno()),
            listen=[(str(address), [sock.fileno() for sock in sockets]) for address, sockets in self._sockets.items()],
            table=state.table.fd,
            metrics=self._metrics,
            generation=self._generation,
            routes=self._registry.routes,
            backends=self._registry.backends,
            learned=list(self._learned.items()),
            started_unix=state.started_unix,
            last_reload_unix=state.last_reload_unix,
            worker_restarts=state.worker_restarts,
            signals=self._orders.signals(),
            asking=asking,
            drained_backends=[
                (number, drain.period_seconds, drain.tunnels, drain.started_unix, drain.seconds)
                for number, drain in state.drained_backends.items()
            ],
            running=[
                InheritedWorker(
                    worker.slot,
                    worker.process.pid,
                    worker.channel.fileno(),
                    self._stores[worker.slot].fileno(),
                    worker.started,
                    worker.ready or worker.started,
                    received.get(worker.slot, b"").hex(),
                    self._stores[worker.slot].kept(),
                )
                for worker in self._workers.values()
            ],
            mirrors=self._mirrors.left(),
        )

    def _upgraded(self, error: str | None) -> None:
        """Tell how an upgrade went."""
        self.state.upgrade = UpgradeState(error is None, time.time(), error)
        if error is not None:
            log.error("upgrade failed: %s", error)
        while self._asking:
            tell_of_upgrade(self._asking.pop(), self.state.upgrade)

    async def _carry_on(self, inherited: Inheritance) -> None:
        """Carry on what the program before has begun, and have new workers replace those that it has started."""
        state = self.state
        state.started_unix = inherited.started_unix
        state.last_reload_unix = time.time()
        state.worker_restarts = inherited.worker_restarts
        state.upgrade = UpgradeState(None, time.time())
        self._asking = inherited.asking
        self._learned.update(inherited.learned)
        for number, period, tunnels, started_unix, seconds in inherited.drained_backends:
            began = time.monotonic() - seconds
            state.drained_backends[number] = DrainState(period, tunnels, started_unix, _started=began)
        for name in inherited.signals:
            self._orders.add(name)
        for each in inherited.running:
            channel = Channel(socket.socket(fileno=each.control), bytes.fromhex(each.received))
            worker = WorkerProcess(each.slot, InheritedChild(each.pid), channel, each.started, each.ready)
            self._workers[each.slot] = worker
            state.slots[state.table.index_of(each.slot)] = each.slot
            self._stores[each.slot].restore(each.tunnels, socket.socket(fileno=each.store))
            self._hear(worker)
        old = [self._workers[slot] for slot in state.slots]
        self._keepers = [asyncio.create_task(self._keep(worker.slot, _done(), worker)) for worker in old]
        self._notifier.ready()  # those that run accept connections all the while
        began = time.monotonic()
        try:
            new = await self._start_successors(old)
            moved = []
            failures = []
            for before, after in zip(old, new, strict=True):
                try:
                    moved.append(await self._replace(before, after))
                except upgrade.HandoverFailed as error:
                    failures.append(str(error))
        except upgrade.NotUpgraded as error:
            self._upgraded(str(error))
            return
        except Exception as error:
            log.exception("the upgrade went wrong")
            self._upgraded(f"{type(error).__name__}: {error}")
            return
        self._upgraded("; ".join(failures) or None)
        if not failures:
            log.info(
                "upgraded from %s to %s in %.1f s: %d tunnels go on, none of them paused for more than %.0f ms",
                inherited.version,
                VERSION,
                time.monotonic() - began,
                sum(each.tunnels for each in moved),
                max(each.seconds for each in moved) * 1000,
            )

    async def _start_successors(self, old: list[WorkerProcess]) -> list[WorkerProcess]:
        """Start a worker for each that runs; they accept nothing yet.

        :raises upgrade.NotUpgraded: one does not start; none of them runs then
        """
        new: list[WorkerProcess] = []
        try:
            for worker in old:
                new.append(await self._spawn(self.state.table.other_slot(worker.slot)))
                if not await self._boot(new[-1], takes_over=True):
                    raise upgrade.NotUpgraded(f"worker {new[-1].name} of the new program does not start")
        except (OSError, upgrade.NotUpgraded) as error:
            for worker in new:
                await self._end_worker(worker)
            raise upgrade.NotUpgraded(str(error)) from None
        return new

    async def _replace(self, old: WorkerProcess, new: WorkerProcess) -> upgrade.Moved:
        """Have a worker take the place of another. :returns: what it has taken over

        :raises upgrade.HandoverFailed: it cannot, or not completely
        """
        index = self.state.table.index_of(old.slot)
        stores = self._stores[old.slot], self._stores[new.slot]
        total = upgrade.Moved(0, 0.0)
        failure = None
        try:
            while (moved := await upgrade.hand_over(old, new, *stores, self._mirrors)).tunnels:
                total = upgrade.Moved(total.tunnels + moved.tunnels, max(total.seconds, moved.seconds))
        except upgrade.HandoverFailed as error:
            failure = error
            if not total.tunnels:
                await self._end_worker(new)
                raise
        # From here on it is a worker like any: should it die, a successor has its tunnels.
        old.retired = True
        self.state.slots[index] = new.slot
        self._keepers.append(asyncio.create_task(self._keep(new.slot, _done(), new)))
        new.channel.send(Accept())
        task = asyncio.create_task(self._see_off(old, new.slot))
        self._seeing_off.add(task)
        task.add_done_callback(self._seeing_off.discard)
        if failure is not None:
            raise failure
        ready = self.state.table.worker(new.slot) + W_READY
        while not self.state.table.cells[ready] and self._workers.get(new.slot) is new:  # noqa: ASYNC110  # a cell
            await asyncio.sleep(0.01)
        return total

    async def _see_off(self, old: WorkerProcess, slot: int) -> None:
        """Let a worker that was replaced finish, and hand over the tunnels that come of its last handshakes."""
        old.channel.send(Retire())
        give_up = time.monotonic() + upgrade.FINISH_SECONDS
        while not old.finished.is_set() and time.monotonic() < give_up:
            new = self._workers.get(slot)
            self._mirrors.refresh()
            if new is not None and new.ready is not None and any(self.state.table.rows(old.slot)):
                try:
                    await upgrade.hand_over(old, new, self._stores[old.slot], self._stores[slot], self._mirrors)
                except upgrade.HandoverFailed as error:
                    log.error("tunnels of worker %s cannot be handed over now: %s", old.name, error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(old.finished.wait(), 0.1)
        if not old.finished.is_set():
            log.warning("worker %s did not finish within %.0f s, and is ended", old.name, upgrade.FINISH_SECONDS)
            old.channel.send(Drain(0, self._config.drain.close_code))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(old.finished.wait(), upgrade.ANSWER_SECONDS)
        old.channel.send(Stop())
        while self._workers.get(old.slot) is old:
            if time.monotonic() > give_up + 2 * upgrade.ANSWER_SECONDS:
                old.process.kill()
            await asyncio.sleep(0.02)

    async def _end_worker(self, worker: WorkerProcess) -> None:
        """End a worker that serves nothing."""
        worker.process.kill()
        await exit_status(worker.process)
        await self._bury(worker)
        self._clear(worker.slot)

    def _clear(self, slot: int) -> None:
        """Forget whatever was in a slot that nobody has any more."""
        self._stores[slot].close()
        self.state.table.clear(slot, len(self._registry.routes), len(self._registry.backends))

    async def _term(self, order: Order) -> None:
        """Drain, until the last tunnel has ended. A second TERM hurries that, INT and QUIT cut it short."""
        settings = self._config.drain
        self.state.stopping = True
        self.state.refresh(True)
        self.state.drain = DrainState(settings.period, self.state.table.tunnels())
        log.info("draining %d tunnels over %g s", self.state.drain.tunnels, settings.period)
        longest_close = max(route.timeouts.close for route in self._config.routes)
        self._notifier.stopping(settings.period + longest_close + DRAIN_MARGIN_SECONDS)
        self._tell_all(Drain(settings.period, settings.close_code))
        order.done(self.state.drain)
        self.state.drain.cut_short = True  # until it is over
        request: asyncio.Task[Order] | None = None
        while not self._is_drained():
            request = request or asyncio.create_task(self._orders.get())
            progress = asyncio.create_task(self._progress.wait())
            await asyncio.wait((progress, request), return_when=asyncio.FIRST_COMPLETED)
            progress.cancel()
            if not request.done():
                continue
            order, request = request.result(), None
            if order.name == "USR1":
                self._tell_all(ReopenLogs())
            elif order.name == "TERM":
                log.info("%s: closing the tunnels that are left at once", order)
                self._tell_all(Drain(0, settings.close_code))
                order.done(self.state.drain)
            elif order.name in ("INT", "QUIT", FATAL):
                log.info("%s: the drain is cut short", order)
                order.done()
                return
            else:
                log.info("%s: the gateway is shutting down already", order)
                order.refuse("the gateway is shutting down")
        if request is not None:
            request.cancel()
        self.state.drain.cut_short = False
        log.info("drained in %.1f s", self.state.drain.seconds)

    def _is_drained(self) -> bool:
        """Whether every slot's worker has drained. One that died meanwhile has left its tunnels to the next."""
        self._progress.clear()
        serving = [worker for worker in self._workers.values() if not worker.retired]
        return sum(worker.drained for worker in serving) == self._config.workers

    # --- workers ---------------------------------------------------------------------------------------------------

    async def _keep(self, slot: int, ready: asyncio.Future[None], running: WorkerProcess | None = None) -> None:
        """Keep a slot filled, until the gateway stops, or another slot is in its place.

        :param running: the worker that serves there already
        """
        backoff = 0.0
        failed_boots = 0
        while not self._stopping:
            lived = 0.0
            try:
                worker = running or await self._spawn(slot)
            except OSError as error:
                log.error("worker %d cannot be started: %s", slot, error)
                failed_boots += 1
            else:
                if running is not None or await self._boot(worker):
                    failed_boots = 0
                    if not ready.done():
                        ready.set_result(None)
                else:
                    failed_boots += 1
                running = None
                status = await exit_status(worker.process)
                lived = time.monotonic() - worker.started
                await self._bury(worker)
                if worker.retired:
                    if status and not self._stopping:
                        log.error("worker %s, which was replaced, %s", worker.name, _how(status))
                    self._clear(slot)
                    return
                if self._stopping:
                    self._stores[slot].close()
                    return
                log.error("worker %d (pid %d) %s after %.1f s", slot, worker.process.pid, _how(status), lived)
            if not ready.done() or failed_boots >= MAX_FAILED_BOOTS:
                self._fail(f"worker {slot} does not start; what it said is above")
                return
            self.state.worker_restarts += 1
            # At once the first time: connections wait for it. Slower where it dies young again and again.
            longest = MAX_BACKOFF_SECONDS if failed_boots else MAX_PAUSE_SECONDS
            backoff = 0.0 if lived >= STABLE_SECONDS else min(backoff * 2 or FIRST_BACKOFF_SECONDS, longest)
            if failed_boots or backoff > FIRST_BACKOFF_SECONDS:
                await asyncio.sleep(backoff)

    async def _spawn(self, slot: int) -> WorkerProcess:
        """:raises OSError: the system has no room for another process, or for its descriptors"""
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            control, its_control = socket.socketpair()
            ours.enter_context(control)
            theirs.enter_context(its_control)
            store, its_store = store_pair()
            ours.enter_context(store)
            theirs.enter_context(its_store)
            descriptors = [its_control.fileno(), its_store.fileno(), self.state.table.fd]
            process = subprocess.Popen(  # noqa: ASYNC220  # forking takes a millisecond, and nobody is served here
                [sys.executable, "-P", "-m", "gateway.processes.worker", str(slot), *map(str, descriptors)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                env=self._environment,
            )
            ours.pop_all()
        self._stores[slot].serve(store)
        worker = self._workers[slot] = WorkerProcess(slot, process, Channel(control))
        return worker

    async def _bury(self, worker: WorkerProcess) -> None:
        """Clear away what is left of a worker that has exited. Its tunnels wait for a successor."""
        del self._workers[worker.slot]
        self._stores[worker.slot].part()
        await worker.channel.close()
        self._mirrors.settle(worker.slot)
        block = self.state.table.worker(worker.slot)
        self.state.table.cells[block + W_READY] = 0
        self.state.table.cells[block + W_PID] = 0

    async def _watch_heartbeats(self) -> None:
        """Kill workers that hang; they are replaced like any that died."""
        table = self.state.table
        watch = Watch(time.monotonic())
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            watch.look(time.monotonic())
            self._mirrors.refresh(rows=False)
            for worker in self._workers.values():
                heartbeat = table.cells[table.worker(worker.slot) + W_HEARTBEAT_NS] / 1e9
                if worker.ready is not None and watch.hangs(max(heartbeat, worker.ready)):
                    log.error("worker %d (pid %d) hangs, and is killed", worker.slot, worker.process.pid)
                    worker.process.kill()
                    worker.ready = None

    def _hear(self, worker: WorkerProcess) -> None:
        """Listen to a worker from now on."""
        listen_to = asyncio.create_task(self._listen_to(worker))
        listen_to.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _boot(self, worker: WorkerProcess, takes_over: bool = False) -> bool:
        """Give a new worker its configuration; whether it accepts connections now.

        :param takes_over: it is to wait with that, as another one does
        """
        self._hear(worker)
        worker.listen(self._sockets)
        try:
            reason = await asyncio.wait_for(self._configure(worker, takes_over), BOOT_SECONDS)
            worker.channel.send(Learned(list(self._learned.items())))
        except TimeoutError:
            reason = f"it was not ready within {BOOT_SECONDS:.0f} s"
        except ConnectionError:
            return False
        if reason is not None:
            log.error("worker %d did not start: %s", worker.slot, reason)
            worker.process.kill()
            return False
        worker.ready = time.monotonic()
        return True

    async def _configure(self, worker: WorkerProcess, takes_over: bool = False) -> str | None:
        """Send a worker the configuration; None once it is in force there, else the reason.

        :raises ConnectionError: the worker died before it answered
        """
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        worker.configured[self._generation] = answer
        drained = frozenset(self.state.drained_backends)
        drain = None
        if self.state.drain is not None:
            drain = Drain(self.state.drain.seconds_left, self._config.drain.close_code)
        worker.channel.send(Configure(self._generation, self._config, self._registry, drained, drain, takes_over))
        return await answer

    async def _listen_to(self, worker: WorkerProcess) -> None:
        while (message := await worker.channel.receive()) is not None:
            if isinstance(message, Configured | Failed):
                answer = worker.configured.pop(message.generation, None)
                if answer is not None and not answer.done():
                    answer.set_result(message.reason if isinstance(message, Failed) else None)
            elif isinstance(message, Learned):
                self._pass_on(message, worker)
            elif isinstance(message, Drained):
                worker.drained = True
                self._progress.set()
            elif isinstance(message, Released | TakenOver):
                worker.answers.put_nowait(message)
            elif isinstance(message, Retired):
                worker.finished.set()
        worker.answers.put_nowait(None)
        worker.finished.set()
        for answer in worker.configured.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError(f"worker {worker.slot} died"))

    def _pass_on(self, learned: Learned, source: WorkerProcess) -> None:
        """Tell the other workers what one has learned, and keep it for those to come."""
        for key, state in learned.news:
            self._learned.pop(key, None)
            self._learned[key] = state
        while len(self._learned) > MAX_PATHS:
            del self._learned[next(iter(self._learned))]
        for worker in self._workers.values():
            if worker is not source:
                worker.channel.send(learned)

    def _tell_all(self, message: Message) -> None:
        for worker in self._workers.values():
            worker.channel.send(message)

    # --- the beginning and the end -----------------------------------------------------------------------------------

    async def _announce(self, ready: list[asyncio.Future[None]], started: Callable[[], None]) -> None:
        await asyncio.gather(*ready)
        addresses = ", ".join(str(listener.address) for listener in self._config.listen)
        log.info(
            "ready: %d workers on %s; admin on %s",
            self._config.workers,
            addresses,
            self._config.admin.address,
        )
        self._notifier.ready()
        started()

    def _fail(self, reason: str) -> None:
        self._fatal = reason
        self._orders.add(FATAL)

    async def _end(self) -> None:
        """Have the workers exit, and see them gone."""
        self._stopping = self.state.stopping = True
        self._notifier.stopping()
        if self.state.drain is not None:
            self.state.drain.over.set()
        self._tell_all(Stop())
        if self._keepers:
            _, left = await asyncio.wait(self._keepers, timeout=3)
            for worker in list(self._workers.values()):
                worker.process.kill()
            for keeper in left:
                keeper.cancel()
            await asyncio.gather(*self._keepers, return_exceptions=True)

    def _close_sockets(self) -> None:
        _close_listeners(self._sockets)
        self._sockets.clear()


def _close_listeners(sockets: Mapping[Address, list[socket.socket]]) -> None:
    for address, each in sockets.items():
        for sock in each:
            sock.close()
        forget_unix_socket(address)


def _done() -> asyncio.Future[None]:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done


def _warn_if_short(descriptors: Descriptors, config: Config) -> None:
    """Say so if this process, or a worker, may not have as many descriptors as ``max_tunnels`` takes."""
    if descriptors.tunnels < config.max_tunnels:
        log.warning(
            "descriptors are limited to %d a process, and max_tunnels is %d: %d tunnels can be open, and %d of them"
            " would outlive their worker; raise the hard limit (ulimit -Hn, LimitNOFILE=)",
            descriptors.limit,
            config.max_tunnels,
            min(descriptors.tunnels * config.workers, config.max_tunnels),
            descriptors.tunnels,
        )


def _how(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"


def _refuse_what_needs_a_restart(old: Config, new: Config) -> None:
    """:raises ValueError: the new configuration changes what is fixed while the gateway runs"""
    changed = [key for key in ("workers", "max_tunnels", "admin") if getattr(old, key) != getattr(new, key)]
    if changed:
        raise ValueError(f"{', '.join(changed)} cannot change while the gateway runs: restart it")
