"""The supervisor: owns everything that must outlive a worker, and carries out signals and the admin API's orders.

Signal handlers only enqueue; orders are then served one after another. Worker processes are in ``workers.py``, reloads
in ``reloading.py``, drains in ``draining.py``, upgrades in ``succession.py``. ``opening.py`` opens or inherits what the
supervisor owns.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gateway.admin.history import keep_history
from gateway.admin.server import AdminServer, start_admin
from gateway.admin.state import GatewayState
from gateway.build import relay_build
from gateway.config import BadValue
from gateway.config.certificates import Certificates
from gateway.config.credentials import Credentials
from gateway.config.schema import Config
from gateway.edge.descriptors import Descriptors
from gateway.imports import trim_memory
from gateway.processes import upgrade
from gateway.processes.capacity import capacity, explain_capacity
from gateway.processes.certificates import CertificateWatch
from gateway.processes.control.messages import ReopenLogs
from gateway.processes.credentials import CredentialWatch
from gateway.processes.discovering import Discovering
from gateway.processes.draining import Draining
from gateway.processes.fdstore import DescriptorStore
from gateway.processes.forks import Template
from gateway.processes.health import BackendsHealth
from gateway.processes.inheritance import Inheritance, InheritedWorker
from gateway.processes.keeping import SEND_SECONDS
from gateway.processes.limits import raise_descriptor_limit
from gateway.processes.listening import CannotListen, forget_unix_socket
from gateway.processes.metrics_files import remove_metrics
from gateway.processes.notify import Notifier, describe
from gateway.processes.numbering import Numbering
from gateway.processes.opening import Opened, inherit, open_all
from gateway.processes.orders import DRAIN_BACKENDS, FATAL, REBALANCE, Orders
from gateway.processes.rebalancing import Rebalancing
from gateway.processes.reloading import Reloading
from gateway.processes.resolving import Resolving
from gateway.processes.resumption import StillServed
from gateway.processes.sources import to_plain
from gateway.processes.starting import Starter
from gateway.processes.succession import Succession
from gateway.processes.workers import Workers
from gateway.routing.registry import Registry
from gateway.tunnels.table.layout import MAX_BACKENDS, MAX_ROUTES
from gateway.version import VERSION

SIGNALS = ("HUP", "TERM", "INT", "QUIT", "USR1", "USR2")
FIRST_ANSWERS_SECONDS = 1.0
"""How long startup waits for lookups of backend names, so that the first requests can be routed."""

SAVE_SECONDS = 1.0
"""How soon changes are saved that workers cause: what they have learned, and restarts."""

log = logging.getLogger("gateway")


class CannotStart(Exception):
    """The gateway cannot run; ``str()`` says why."""


class Supervisor:
    """One running gateway."""

    def __init__(
        self,
        config: Config,
        path: str,
        reload: Callable[[str], Config],
        demo: bool = False,
        inheritance: Inheritance | None = None,
        template: Template | None = None,
    ) -> None:
        """
        :param path: where the configuration came from
        :param reload: reads the configuration again; raises :class:`ConfigError`
        :param inheritance: state of the previous program in this process, in an upgrade
        :param template: from which workers are started; if there is none, one starts with the first worker
        :raises RegistryFull: as :meth:`Registry.admit`
        """
        self._config = config
        self._path = path
        self._reload_config = reload
        self._demo = demo
        self._inheritance = inheritance
        self._template = template
        self._registry = Registry(MAX_ROUTES, MAX_BACKENDS)
        if inheritance is not None:
            self._registry.use(inheritance.registry)
        self._registry.admit(config)
        self._orders = Orders()
        self._replacing: asyncio.Task[None] | None = None
        self._fatal: str | None = None
        self._saving: asyncio.TimerHandle | None = None
        self._opened: Opened
        self._workers: Workers
        self._resolving: Resolving
        self._discovering: Discovering
        self._numbering: Numbering
        self._certificates: CertificateWatch
        self._credentials: CredentialWatch
        self._health: BackendsHealth
        self._draining: Draining
        self._reloading: Reloading
        self._rebalancing: Rebalancing
        self._succession: Succession
        self.state: GatewayState
        self._notifier = Notifier(os.environ, lambda: describe(self.state))

    async def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Run until a signal or the admin API stops the gateway.

        :param started: called when every worker accepts connections
        :raises CannotStart: the gateway cannot listen on an address, or workers do not start
        """
        descriptors = Descriptors(raise_descriptor_limit())
        inherited = self._inheritance
        try:
            certificates = await asyncio.to_thread(Certificates.read, self._config)
            credentials = await asyncio.to_thread(Credentials.read, self._config)
            opened = self._opened = (
                await open_all(
                    self._config, self._registry, capacity(self._config.max_tunnels, descriptors), self._demo
                )
                if inherited is None
                else inherit(self._config, self._registry, inherited)
            )
        except (CannotListen, StillServed, BadValue) as error:
            raise CannotStart(str(error)) from None
        self._take(opened, descriptors, certificates, credentials)
        loop = asyncio.get_running_loop()
        admin: AdminServer | None = None
        starting: asyncio.Task[None] | None = None
        relying: asyncio.Task[None] | None = None
        watches: list[asyncio.Task[None]] = []
        for name in SIGNALS:
            loop.add_signal_handler(getattr(signal, f"SIG{name}"), self._orders.add, name)
        if inherited is not None:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, upgrade.SIGNALS)
        orderly = False
        try:
            log.info("gateway %s (relay %s), configuration %s", VERSION, relay_build(), self._path)
            explain_capacity(self.state.max_tunnels, self._config, descriptors)
            relying = await self._keep()
            if opened.before is None:
                # After a resume or upgrade, tunnels and clients are waiting, and the names are known from before.
                await asyncio.gather(
                    self._resolving.first_answers(FIRST_ANSWERS_SECONDS),
                    self._discovering.first_answers(FIRST_ANSWERS_SECONDS),
                )
            else:
                self._rebalancing.resume(opened.before.rebalances)
            # Those that were found by now are as old as those that are configured: none has to start slowly.
            self._health.use(self._config)
            self._discovering.on_change = self._health.use
            if inherited is None:
                ready = self._workers.start()
                admin = await self._serve_admin()
                starting = asyncio.create_task(self._announce(ready, started))
            else:
                self._succession.take_on(inherited)
                self._notifier.ready()  # the old workers accept connections throughout
                starting = asyncio.create_task(self._succession.replace_all(inherited.version))
                self._replacing = starting
                admin = await self._serve_admin()
            watches = [asyncio.create_task(self._workers.watch_heartbeats())]
            watches.append(asyncio.create_task(self._certificates.run()))
            watches.append(asyncio.create_task(self._credentials.run()))
            watches.append(asyncio.create_task(self._numbering.run()))
            watches.append(asyncio.create_task(self._notifier.keep_reporting()))
            watches.append(asyncio.create_task(keep_history(self.state)))
            watches.append(asyncio.create_task(self._rebalancing.watch()))
            await self._serve_orders()
            orderly = True
        finally:
            for task in (starting, relying):
                if task is not None:
                    task.cancel()
            self._succession.cancel()
            self._orders.close("the gateway is shutting down")
            self._discovering.close()
            self._resolving.close()
            await self._rebalancing.close()
            keeping = opened.keeping
            if keeping is not None and not orderly:
                keeping.journal.close()  # leave the stored state as it is for the next supervisor
            await self._end()
            for watch in watches:
                watch.cancel()
            await self._credentials.close()
            await self._health.close()
            for store in self._workers.stores:
                if keeping is not None and orderly:
                    store.end()
                else:
                    store.close()
            if keeping is not None and orderly:
                await keeping.clear()
            if admin is not None:
                await admin.close()
            if keeping is None or orderly:
                opened.listeners.close()
                forget_unix_socket(self._config.admin.address)
                remove_metrics(opened.metrics)
            opened.close()
        if self._fatal is not None:
            raise CannotStart(self._fatal)

    def _take(
        self, opened: Opened, descriptors: Descriptors, certificates: Certificates, credentials: Credentials
    ) -> None:
        """Create the supervisor's parts from what was opened."""
        keeping, before = opened.keeping, opened.before
        keeper = None if keeping is None else keeping.journal
        loop = asyncio.get_running_loop()
        self.state = GatewayState(
            opened.table, self._registry, self._config, self._path, opened.max_tunnels, demo=self._demo
        )
        self.state.refresh = opened.mirrors.refresh
        self.state.quotas = opened.quotas
        self._workers = Workers(
            self.state,
            self._config,
            certificates,
            credentials,
            opened.listeners,
            [DescriptorStore(loop, descriptors.for_tunnels, keeper) for _ in range(opened.table.slots)],
            opened.mirrors,
            opened.quotas,
            Starter(self._template),
            opened.metrics,
            self._fail,
            1 if before is None else before.generation + 1,
        )
        self._health = BackendsHealth(self.state, self._workers)
        self._workers.on_failures = self._health.failed
        self._resolving = Resolving(self._resolved, None if before is None else before.names)
        self._discovering = Discovering(self._workers, self._resolving, None if before is None else before.answers())
        self._numbering = Numbering(self.state, self._discovering.keys)
        self._certificates = CertificateWatch(self.state, self._use_certificates)
        self._certificates.use(certificates)
        known = {} if before is None else before.key_sets
        self._credentials = CredentialWatch(
            self.state,
            self._workers.use_credentials,
            self._workers.use_key_sets,
            self._workers.keys_fetched,
            known,
        )
        self._workers.on_keys_wanted = self._credentials.key_sets.wanted
        self._credentials.use(credentials)
        self._workers.key_sets = self._credentials.key_sets.texts
        self._draining = Draining(self._workers, self._orders, self._notifier)
        self._reloading = Reloading(
            self._workers,
            opened.listeners,
            self._discovering,
            self._resolving,
            self._certificates,
            self._credentials,
            self._health,
            self._path,
            self._reload_config,
        )
        self._rebalancing = Rebalancing(self._workers, self._save, self._save_soon)
        self._succession = Succession(self._workers, self._orders, self._leave, self._demo)
        if before is not None:
            before.apply_to(self.state)
            self._rebalancing.scale_outs.resume(before.in_service)
        self._discovering.use(self._config)
        if before is not None:
            self._workers.learned.update(before.learned)
        if opened.slots is not None:
            self.state.slots = opened.slots
        for slot, tunnels in opened.tunnels.items():
            self._workers.stores[slot].restore(tunnels)
        if keeping is not None:
            self._workers.inherited = [keeping.lifeline]
            self._workers.on_change = self._save_soon
            opened.mirrors.on_settled = self._save

    def _resolved(self, names: dict[str, tuple[str, ...]]) -> None:
        """Names of backends have other addresses."""
        self._workers.resolved(names)
        self._health.use_names(names)

    def _use_certificates(self, certificates: Certificates) -> None:
        """Certificates were renewed."""
        self._workers.use_certificates(certificates)
        self._health.use_certificates()

    # --- what must outlive this process ------------------------------------------------------------------------------

    async def _keep(self) -> asyncio.Task[None] | None:
        """Store everything with the service manager before new workers rely on it.

        :returns: the task that goes on with it if the manager takes longer
        """
        keeping = self._opened.keeping
        if keeping is not None:
            keeping.keep_sockets(self._opened.admin, self._opened.listeners.sockets)
            keeping.journal.open()
            relying = asyncio.create_task(keeping.rely(self._save))
            await asyncio.wait((relying,), timeout=SEND_SECONDS)
            return relying
        return None

    def _save(self) -> bool:
        """Save the state for a supervisor that resumes after this one; return whether it was saved."""
        keeping = self._opened.keeping
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        if keeping is None or self._workers.stopping:
            return False
        keeping.keep_sockets(self._opened.admin, self._opened.listeners.sockets)
        return keeping.save(self._account())

    def _save_soon(self) -> None:
        if self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(SAVE_SECONDS, self._save)

    # --- orders ------------------------------------------------------------------------------------------------------

    async def _serve_orders(self) -> None:
        """Serve orders until one of them is to exit."""
        while (order := await self._orders.get()).name != FATAL:
            log.info("%s", order)
            if self._replacing is not None and order.name not in ("USR1", "INT", "QUIT"):
                await self._replacing
            if order.name == "HUP":
                self._notifier.reloading()
                await self._reloading.reload()
                self._save()
                self._notifier.reloaded()
                if self.state.last_reload_error is None:
                    order.done()
                else:
                    order.refuse(self.state.last_reload_error)
            elif order.name == DRAIN_BACKENDS:
                drains = self._draining.drain_backends(order.backends)
                self._save()
                order.done(drains)
            elif order.name == REBALANCE and order.rebalance is not None:
                try:
                    order.done(await self._rebalancing.order(order.rebalance))
                except Exception as error:
                    log.exception("the rebalance could not be planned")
                    order.refuse(f"it could not be planned: {error}")
            elif order.name == "USR1":
                self._workers.send_to_all(ReopenLogs())
            elif order.name == "USR2":
                await self._succession.begin(order)
            elif order.name == "TERM":
                if self._opened.keeping is not None:
                    self._opened.keeping.stop_relying()
                await self._draining.drain(order)
                return
            else:
                order.done()
                return

    def _leave(self, received: dict[int, bytes], asking: list[int]) -> Inheritance:
        """Collect the state for the next program.

        :param received: incomplete messages from workers, by slot
        :param asking: connections of admin API clients that wait for the result
        :raises upgrade.NotUpgraded: the service manager has not accepted all descriptors yet
        """
        stores, keeping = self._workers.stores, self._opened.keeping
        if keeping is not None and not keeping.settled:
            raise upgrade.NotUpgraded("the service manager has not accepted all descriptors yet; try again")
        return replace(
            self._account(),
            signals=self._orders.signals(),
            asking=asking,
            running=[
                InheritedWorker(
                    worker.slot,
                    worker.process.pid,
                    worker.channel.fileno(),
                    stores[worker.slot].fileno(),
                    worker.started,
                    worker.ready or worker.started,
                    received.get(worker.slot, b"").hex(),
                    stores[worker.slot].kept(),
                )
                for worker in self._workers.running.values()
            ],
            store=None if keeping is None or keeping.gave_up else keeping.leave(),
        )

    def _account(self) -> Inheritance:
        """Collect the state that any later supervisor of this gateway needs."""
        state, opened, workers = self.state, self._opened, self._workers
        sockets = opened.listeners.sockets
        return Inheritance(
            version=VERSION,
            path=self._path,
            workers=workers.config.workers,
            max_tunnels=state.max_tunnels,
            admin=(str(workers.config.admin.address), opened.admin.fileno()),
            listen=[(str(address), [sock.fileno() for sock in each]) for address, each in sockets.items()],
            table=state.table.fd,
            metrics=opened.metrics,
            generation=workers.generation,
            routes=self._registry.routes,
            backends=self._registry.backends,
            generations=self._registry.generations,
            learned=list(workers.learned.items()),
            started_unix=state.started_unix,
            last_reload_unix=state.last_reload_unix,
            worker_restarts=state.worker_restarts,
            drained_backends=[
                (number, drain.period_seconds, drain.tunnels, drain.started_unix, drain.seconds)
                for number, drain in state.drained_backends.items()
            ],
            signals=[],
            asking=[],
            running=[],
            mirrors=opened.mirrors.left(),
            names={name: list(addresses) for name, addresses in self._resolving.known().items()},
            quotas=opened.quotas.fd,
            key_sets=self._credentials.key_sets.texts,
            discovered=to_plain(self._discovering.answers()),
            rebalances=[*self._rebalancing.left()],
            in_service=[*self._rebalancing.scale_outs.left()],
            rebalanced=[(*labels, count) for labels, count in list(state.rebalanced.items())],
            drained_by_health=[number for number, drain in state.drained_backends.items() if drain.by_health],
        )

    # --- start and exit ----------------------------------------------------------------------------------------------

    async def _serve_admin(self) -> AdminServer:
        return await start_admin(self.state, self._opened.admin, self._opened.metrics, self._orders)

    async def _announce(self, ready: list[asyncio.Future[Any]], started: Callable[[], None]) -> None:
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
        trim_memory()

    def _fail(self, reason: str) -> None:
        self._fatal = reason
        self._orders.add(FATAL)

    async def _end(self) -> None:
        """Stop the workers and wait until they have exited."""
        self.state.stopping = True
        self._notifier.stopping()
        if self.state.drain is not None:
            self.state.drain.over.set()
        await self._workers.end()
