"""The supervisor: owns what must outlive a worker, and does what signals ask for.

Signal handlers only enqueue; one method serves each signal, one after another. Worker processes are in ``workers.py``,
upgrades in ``succession.py``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Collection

from gateway.build import relay_build
from gateway.config import ConfigError, load
from gateway.config.schema import Address, Config
from gateway.edge.descriptors import Descriptors
from gateway.observe.admin import AdminServer, start_admin
from gateway.observe.events import DIRECTORY
from gateway.observe.state import DrainState, GatewayState
from gateway.processes import upgrade
from gateway.processes.control import Drain, DrainBackends, ReopenLogs, Unlisten
from gateway.processes.fdstore import DescriptorStore
from gateway.processes.inheritance import Inheritance, InheritedWorker
from gateway.processes.limits import raise_descriptor_limit
from gateway.processes.listening import CannotListen, Listeners, forget_unix_socket, listen_alone
from gateway.processes.notify import Notifier, describe
from gateway.processes.orders import DRAIN_BACKENDS, FATAL, Order, Orders
from gateway.processes.succession import Succession
from gateway.processes.workers import Workers
from gateway.routing.registry import Registry, RegistryFull
from gateway.tunnels.layout import MAX_BACKENDS, MAX_ROUTES
from gateway.tunnels.table import Table
from gateway.version import VERSION

DRAIN_MARGIN_SECONDS = 10.0
"""What the service manager gives a drain beyond the time that it should take."""

SIGNALS = ("HUP", "TERM", "INT", "QUIT", "USR1", "USR2")
log = logging.getLogger("gateway")


class CannotStart(Exception):
    """The gateway cannot run; ``str()`` says why."""


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
        self._demo = demo
        self._inheritance = inheritance
        self._registry = Registry(MAX_ROUTES, MAX_BACKENDS)
        if inheritance is not None:
            self._registry.routes[:] = inheritance.routes
            self._registry.backends[:] = inheritance.backends
        self._registry.admit(config)
        self._listeners = Listeners(config.workers)
        self._orders = Orders()
        self._replacing: asyncio.Task[None] | None = None
        self._fatal: str | None = None
        self._workers: Workers
        self._succession: Succession
        self.state: GatewayState
        self._notifier = Notifier(os.environ, lambda: describe(self.state))

    async def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Run until told to stop.

        :param started: called when every worker accepts connections
        :raises CannotStart: an address cannot be listened on, or workers do not come up
        """
        descriptors = Descriptors(raise_descriptor_limit())
        inherited = self._inheritance
        table = self._open() if inherited is None else self._open_again(inherited)
        self.state = GatewayState(table, self._registry, self._config, self._path, demo=self._demo)
        loop = asyncio.get_running_loop()
        self._workers = Workers(
            self.state,
            self._config,
            self._listeners,
            [DescriptorStore(loop, descriptors.for_tunnels) for _ in range(table.slots)],
            {**os.environ, DIRECTORY: self._metrics},
            self._fail,
            1 if inherited is None else inherited.generation + 1,
        )
        self._succession = Succession(self._workers, self._orders, self._leave, self._demo)
        admin: AdminServer | None = None
        starting: asyncio.Task[None] | None = None
        watches: list[asyncio.Task[None]] = []
        for name in SIGNALS:
            loop.add_signal_handler(getattr(signal, f"SIG{name}"), self._orders.add, name)
        if inherited is not None:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, upgrade.SIGNALS)
        try:
            admin = await start_admin(self.state, self._admin_socket, self._metrics, self._orders)
            log.info("gateway %s (relay %s), configuration %s", VERSION, relay_build(), self._path)
            _warn_if_short(descriptors, self._config)
            if inherited is None:
                starting = asyncio.create_task(self._announce(self._workers.start(), started))
            else:
                self._succession.take_on(inherited)
                self._notifier.ready()  # those that run accept connections all the while
                starting = asyncio.create_task(self._succession.replace_all(inherited.version))
                self._replacing = starting
            watches = [asyncio.create_task(self._workers.watch_heartbeats())]
            watches.append(asyncio.create_task(self._notifier.keep_telling()))
            await self._serve_orders()
        finally:
            if starting is not None:
                starting.cancel()
            self._succession.cancel()
            self._orders.close("the gateway is shutting down")
            await self._end()
            for watch in watches:
                watch.cancel()
            for store in self._workers.stores:
                store.close()
            if admin is not None:
                await admin.close()
            else:
                self._admin_socket.close()
            self._listeners.close()
            forget_unix_socket(self._config.admin.address)
            table.close()
            shutil.rmtree(self._metrics, ignore_errors=True)
        if self._fatal is not None:
            raise CannotStart(self._fatal)

    def _open(self) -> Table:
        """Have everything that a gateway needs. :raises CannotStart: an address cannot be listened on"""
        config = self._config
        try:
            self._admin_socket = listen_alone(config.admin.address)
            try:
                self._listeners.add(self._listeners.open([listener.address for listener in config.listen]))
            except CannotListen:
                self._admin_socket.close()
                raise
        except CannotListen as error:
            raise CannotStart(str(error)) from None
        self._metrics = tempfile.mkdtemp(prefix="gateway-metrics-")
        return Table.create(config.workers, config.max_tunnels)

    def _open_again(self, inherited: Inheritance) -> Table:
        """Have what the program before has left."""
        for fd in inherited.descriptors():
            os.set_inheritable(fd, False)
        self._admin_socket = socket.socket(fileno=inherited.admin[1])
        sockets = {address: [socket.socket(fileno=fd) for fd in each] for address, each in inherited.listen}
        self._listeners.add({listener.address: sockets[str(listener.address)] for listener in self._config.listen})
        self._metrics = inherited.metrics
        return Table(inherited.table)

    # --- what it is told ---------------------------------------------------------------------------------------------

    async def _serve_orders(self) -> None:
        """Do what is asked for, until that is to exit."""
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
                self._workers.tell_all(ReopenLogs())
            elif order.name == "USR2":
                await self._succession.begin(order)
            elif order.name == "TERM":
                await self._term(order)
                return
            else:
                order.done()
                return

    async def _hup(self) -> None:
        """Reload: a configuration that is wrong changes nothing."""
        state = self.state
        try:
            config = await asyncio.to_thread(self._reload_config, self._path)
            _refuse_what_needs_a_restart(self._workers.config, config)
            self._registry.admit(config)
            new = self._listeners.open([listener.address for listener in config.listen])
        except (ConfigError, RegistryFull, CannotListen, ValueError) as error:
            state.last_reload_ok = False
            state.last_reload_error = str(error)
            log.error("reload failed, the configuration in force stays:\n%s", error)
            return
        before, drained = self._workers.config, self.state.drained_backends
        self._listeners.add(new)
        for worker in self._workers.serving():
            worker.listen(new)
        failures = await self._workers.configure_all(config, self._still_drained(config))
        state.last_reload_ok = not failures
        state.last_reload_error = "; ".join(failures) or None
        if failures:
            log.error("reload failed, the configuration before it stays in force: %s", state.last_reload_error)
            await self._workers.configure_all(before, drained)
            self._unlisten(new)
            for number, drain in drained.items():  # what was under way goes on
                self._workers.tell_all(DrainBackends(frozenset((number,)), drain.seconds_left, before.drain.close_code))
        else:
            self._unlisten(self._listeners.sockets.keys() - {listener.address for listener in config.listen})
            state.config = config
            state.last_reload_unix = time.time()
            log.info("reloaded %s", self._path)

    def _unlisten(self, addresses: Collection[Address]) -> None:
        """Stop listening. Workers accept what waits, and have the last descriptors of these sockets then."""
        addresses = list(addresses)
        self._listeners.close(addresses)
        for address in addresses:
            self._workers.tell_all(Unlisten(address))

    def _still_drained(self, config: Config) -> dict[int, DrainState]:
        """Drained backends that a configuration does not have: those that it has are in service again."""
        configured = {
            (name, str(each.address)) for name, upstream in config.upstreams.items() for each in upstream.backends
        }
        drained = self.state.drained_backends
        return {number: drain for number, drain in drained.items() if self._registry.backends[number] not in configured}

    def _drain_backends(self, backends: frozenset[int]) -> list[DrainState]:
        """Have backends sent nothing new, and their tunnels closed."""
        settings = self._workers.config.drain
        drains = {backend: DrainState(settings.period, self.state.table.live(backend)) for backend in backends}
        for backend, drain in drains.items():
            upstream, address = self._registry.backends[backend]
            log.info("draining %s of %s: %d tunnels over %g s", address, upstream, drain.tunnels, settings.period)
        # A new mapping: others may be reading the old one, in a thread.
        self.state.drained_backends = self.state.drained_backends | drains
        self._workers.tell_all(DrainBackends(backends, settings.period, settings.close_code))
        return list(drains.values())

    async def _term(self, order: Order) -> None:
        """Drain, until the last tunnel has ended. A second TERM hurries that, INT and QUIT cut it short."""
        settings = self._workers.config.drain
        self.state.stopping = True
        self.state.drain = DrainState(settings.period, self.state.table.tunnels())
        log.info("draining %d tunnels over %g s", self.state.drain.tunnels, settings.period)
        longest_close = max(route.timeouts.close for route in self._workers.config.routes)
        self._notifier.stopping(settings.period + longest_close + DRAIN_MARGIN_SECONDS)
        self._workers.tell_all(Drain(settings.period, settings.close_code))
        order.done(self.state.drain)
        self.state.drain.cut_short = True  # until it is over
        request: asyncio.Task[Order] | None = None
        while not self._workers.all_drained():
            request = request or asyncio.create_task(self._orders.get())
            progress = asyncio.create_task(self._workers.progress.wait())
            await asyncio.wait((progress, request), return_when=asyncio.FIRST_COMPLETED)
            progress.cancel()
            if not request.done():
                continue
            order, request = request.result(), None
            if order.name == "USR1":
                self._workers.tell_all(ReopenLogs())
            elif order.name == "TERM":
                log.info("%s: closing the tunnels that are left at once", order)
                self._workers.tell_all(Drain(0, settings.close_code))
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

    def _leave(self, received: dict[int, bytes], asking: list[int]) -> Inheritance:
        """What the next program needs.

        :param received: by slot: the beginning of a message
        :param asking: connections of clients of the admin API that wait for the result
        """
        state, workers, config = self.state, self._workers, self._workers.config
        return Inheritance(
            version=VERSION,
            path=self._path,
            workers=config.workers,
            max_tunnels=config.max_tunnels,
            admin=(str(config.admin.address), self._admin_socket.fileno()),
            listen=[
                (str(address), [sock.fileno() for sock in sockets])
                for address, sockets in self._listeners.sockets.items()
            ],
            table=state.table.fd,
            metrics=self._metrics,
            generation=workers.generation,
            routes=self._registry.routes,
            backends=self._registry.backends,
            learned=list(workers.learned.items()),
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
                    workers.stores[worker.slot].fileno(),
                    worker.started,
                    worker.ready or worker.started,
                    received.get(worker.slot, b"").hex(),
                    workers.stores[worker.slot].kept(),
                )
                for worker in workers.running.values()
            ],
        )

    # --- the beginning and the end -----------------------------------------------------------------------------------

    async def _announce(self, ready: list[asyncio.Future[None]], started: Callable[[], None]) -> None:
        await asyncio.gather(*ready)
        addresses = ", ".join(str(listener.address) for listener in self._workers.config.listen)
        log.info(
            "ready: %d workers on %s; admin on %s",
            self._workers.config.workers,
            addresses,
            self._workers.config.admin.address,
        )
        self._notifier.ready()
        started()

    def _fail(self, reason: str) -> None:
        self._fatal = reason
        self._orders.add(FATAL)

    async def _end(self) -> None:
        """Have the workers exit, and see them gone."""
        self.state.stopping = True
        self._notifier.stopping()
        if self.state.drain is not None:
            self.state.drain.over.set()
        await self._workers.end()


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


def _refuse_what_needs_a_restart(old: Config, new: Config) -> None:
    """:raises ValueError: the new configuration changes what is fixed while the gateway runs"""
    changed = [key for key in ("workers", "max_tunnels", "admin") if getattr(old, key) != getattr(new, key)]
    if changed:
        raise ValueError(f"{', '.join(changed)} cannot change while the gateway runs: restart it")
