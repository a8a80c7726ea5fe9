"""The pool of worker processes: starts and configures them, and replaces those that die or hang.

One task (:meth:`Workers.keep`) keeps one slot filled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence

from gateway.admin.state import DrainState, GatewayState
from gateway.config.certificates import Certificates
from gateway.config.credentials import Credentials
from gateway.config.schema import Config
from gateway.config.settings import Backend, Settings, backends_tls_of, listeners_of
from gateway.processes.children import exit_status, how_it_ended
from gateway.processes.control.channel import Channel
from gateway.processes.control.messages import (
    Configure,
    Configured,
    Drain,
    Drained,
    Failed,
    Failures,
    KeysFetched,
    KeysWanted,
    Learned,
    Message,
    Released,
    Resolved,
    Retire,
    Retired,
    Stop,
    TakenOver,
    UseCertificates,
    UseCredentials,
)
from gateway.processes.fdstore import DescriptorStore, store_pair
from gateway.processes.forks import Request
from gateway.processes.heartbeat import INTERVAL_SECONDS, Watch
from gateway.processes.listening import Listeners
from gateway.processes.starting import Starter, TemplateLost
from gateway.processes.worker_process import WorkerProcess
from gateway.tunnels.learning.learning import MAX_PATHS, Key, State
from gateway.tunnels.moving.mirrors import Mirrors
from gateway.tunnels.quotas.quotas import Quotas
from gateway.tunnels.table.layout import W_HEARTBEAT_NS, W_PID, W_READY

BOOT_SECONDS = 30.0
CONFIGURE_SECONDS = 30.0
STOP_SECONDS = 3.0
FIRST_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 10.0
MAX_PAUSE_SECONDS = 1.0
"""Longest pause before replacing a worker that had started: its tunnels wait for the successor."""

STABLE_SECONDS = 10.0
"""A worker that lived this long was not broken from the start, so its successor starts without a pause."""

MAX_FAILED_BOOTS = 5
log = logging.getLogger("gateway")


class Workers:
    """All workers of one gateway, by slot."""

    def __init__(
        self,
        state: GatewayState,
        config: Config,
        certificates: Certificates,
        credentials: Credentials,
        listeners: Listeners,
        stores: Sequence[DescriptorStore],
        mirrors: Mirrors,
        quotas: Quotas,
        starter: Starter,
        metrics: str,
        fail: Callable[[str], None],
        generation: int = 1,
    ) -> None:
        """
        :param config: for the workers; :meth:`configure_all` changes it
        :param certificates: of its listeners
        :param credentials: of its routes
        :param stores: by slot
        :param mirrors: of workers that write a table other than ``state.table``
        :param metrics: directory of the workers' metrics files
        :param fail: called with the reason if workers cannot be started
        :param generation: of ``config``
        """
        self.state = state
        self.config = config
        self.certificates = certificates
        self.credentials = credentials
        self.key_sets: dict[str, str] = {}
        """those that were fetched, by URL"""
        self.generation = generation
        self.stores = stores
        self.mirrors = mirrors
        self.quotas = quotas
        self.running: dict[int, WorkerProcess] = {}
        """by slot"""
        self.kept: set[int] = set()
        """slots that :meth:`keep` keeps filled"""
        self.replaced: set[int] = set()
        """slots whose tunnels move to another slot; a worker that dies there gets a successor while tunnels are left"""
        self.keepers: list[asyncio.Task[None]] = []
        self.learned: dict[Key, State] = {}
        """what workers have learned about network paths, latest last"""
        self.discovered: Callable[[Config], dict[str, tuple[Backend, ...]]] = lambda config: {}
        """returns the backends that were discovered for a configuration, by upstream"""
        self.names = Resolved({})
        """addresses of backend names"""
        self.progress = asyncio.Event()
        """set when a worker has drained; cleared by :meth:`all_drained`"""
        self.stopping = False
        self.inherited: list[int] = []
        """descriptors that every worker inherits and keeps open as long as it lives"""
        self.on_change: Callable[[], None] = lambda: None
        """called when the state that a later supervisor needs has changed"""
        self.on_keys_wanted: Callable[[str], None] = lambda url: None
        """called with the URL of a key set that lacks a key"""
        self.on_failures: Callable[[Mapping[int, int]], None] = lambda counts: None
        """called with the failures of backends that a worker reports, by number"""
        self._receiving: set[asyncio.Task[None]] = set()
        self._listeners = listeners
        self.starter = starter
        self._metrics = metrics
        self._fail = fail

    def start(self) -> list[asyncio.Future[None]]:
        """Start a worker in each slot in use; return futures that are done when the workers accept connections."""
        loop = asyncio.get_running_loop()
        ready = [loop.create_future() for _ in self.state.slots]
        self.keepers = [
            asyncio.create_task(self.keep(slot, future)) for slot, future in zip(self.state.slots, ready, strict=True)
        ]
        return ready

    def keep_running(self, worker: WorkerProcess) -> None:
        """Keep the slot of a running worker filled."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ready.set_result(None)
        self.keepers.append(asyncio.create_task(self.keep(worker.slot, ready, worker)))

    def all_drained(self) -> bool:
        """Whether every worker has drained. A worker that died during the drain left its tunnels to its successor."""
        self.progress.clear()
        return sum(worker.drained for worker in self.serving()) == self.config.workers

    async def end(self) -> None:
        """Stop the workers and wait until they have exited; kill those that take too long."""
        self.stopping = True
        self.send_to_all(Stop())
        if self.keepers:
            _, left = await asyncio.wait(self.keepers, timeout=STOP_SECONDS)
            for worker in list(self.running.values()):
                worker.process.kill()
            for keeper in left:
                keeper.cancel()
            await asyncio.gather(*self.keepers, return_exceptions=True)
        await self.starter.close()

    def serving(self) -> list[WorkerProcess]:
        """Return the workers that have not been replaced in an upgrade."""
        return [worker for worker in self.running.values() if not worker.retired]

    async def configure_all(
        self,
        config: Config,
        drained_backends: dict[int, DrainState],
        certificates: Certificates,
        credentials: Credentials,
    ) -> list[str]:
        """Apply a configuration in every worker, and in later ones; return the failures."""
        self.config = config
        self.certificates = certificates
        self.credentials = credentials
        self.state.drained_backends = drained_backends
        self.generation += 1
        answers = [self._configure(worker, CONFIGURE_SECONDS) for worker in self.serving()]
        failures = []
        for answer in await asyncio.gather(*answers, return_exceptions=True):
            if isinstance(answer, BaseException):
                failures.append("a worker did not answer" if isinstance(answer, TimeoutError) else str(answer))
            elif answer is not None:
                failures.append(answer)
        return failures

    async def keep(self, slot: int, ready: asyncio.Future[None], running: WorkerProcess | None = None) -> None:
        """Keep a slot filled until the gateway stops, or another slot replaces it.

        :param running: the worker that is already running there
        """
        self.kept.add(slot)
        try:
            await self._keep(slot, ready, running)
        finally:
            self.kept.discard(slot)

    async def _keep(self, slot: int, ready: asyncio.Future[None], running: WorkerProcess | None) -> None:
        backoff = 0.0
        failed_boots = 0
        while running is not None or not self.stopping:
            lived = 0.0
            try:
                if running is None:
                    await self.stores[slot].settled()
                    if self.stopping:
                        return
                worker = running or await self.spawn(slot)
                worker.retired |= slot in self.replaced
            except OSError as error:
                log.error("cannot start worker %d: %s", slot, error)
                failed_boots += 1
            else:
                if running is not None or await self.boot(worker, takes_over=worker.retired):
                    failed_boots = 0
                    if not ready.done():
                        ready.set_result(None)
                else:
                    failed_boots += 1
                running = None
                status = await exit_status(worker.process)
                lived = time.monotonic() - worker.started
                await self._clean_up(worker)
                if self.stopping:
                    return  # without clearing the slot: another worker may be taking over tunnels from it
                if worker.retired:
                    if status:
                        log.error("replaced worker %s %s", worker.name, how_it_ended(status))
                    await self.stores[slot].settled()
                    if self.stopping:
                        return
                    if failed_boots >= MAX_FAILED_BOOTS or not self._leaves_tunnels(slot):
                        self.clear(slot)
                        return
                    continue
                log.error("worker %d (pid %d) %s after %.1f s", slot, worker.process.pid, how_it_ended(status), lived)
            if not ready.done() or failed_boots >= MAX_FAILED_BOOTS:
                self._fail(f"worker {slot} does not start; see its messages above")
                return
            self.state.worker_restarts += 1
            self.on_change()
            # Replace it at once the first time: connections are waiting. Back off if workers keep dying young.
            longest = MAX_BACKOFF_SECONDS if failed_boots else MAX_PAUSE_SECONDS
            backoff = 0.0 if lived >= STABLE_SECONDS else min(backoff * 2 or FIRST_BACKOFF_SECONDS, longest)
            if failed_boots or backoff > FIRST_BACKOFF_SECONDS:
                await asyncio.sleep(backoff)

    def retire(self, worker: WorkerProcess, way: int) -> None:
        """Make a worker finish, since another one has replaced it. :param way: descriptor for :class:`Retire`"""
        worker.retired = worker.retire_sent = True
        self.replaced.add(worker.slot)
        worker.channel.send(Retire(way))
        self.progress.set()  # a drain has one worker fewer to wait for

    def _leaves_tunnels(self, slot: int) -> bool:
        """Whether a replaced worker died with tunnels left, which a successor can hand over."""
        return slot in self.replaced and (bool(self.stores[slot]) or any(self.state.table.rows(slot)))

    async def spawn(self, slot: int) -> WorkerProcess:
        """Start a worker process. :raises OSError: the system has no room for the process or its descriptors"""
        try:
            return await self._spawn(slot)
        except TemplateLost as error:
            log.error("%s; starting worker %d from another one", error, slot)
            return await self._spawn(slot)

    async def _spawn(self, slot: int) -> WorkerProcess:
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            control, its_control = socket.socketpair()
            ours.enter_context(control)
            theirs.enter_context(its_control)
            store, its_store = store_pair()
            ours.enter_context(store)
            theirs.enter_context(its_store)
            descriptors = [its_control.fileno(), its_store.fileno(), self.state.table.fd, self.quotas.fd]
            request = Request(slot, self._metrics, [*descriptors, *self.inherited])
            process = await self.starter.start(request)
            ours.pop_all()
        self.stores[slot].serve(store)
        worker = self.running[slot] = WorkerProcess(slot, process, Channel(control))
        return worker

    async def _clean_up(self, worker: WorkerProcess) -> None:
        """Clean up after a worker that has exited. Its tunnels wait for a successor."""
        del self.running[worker.slot]
        self.stores[worker.slot].detach()
        await worker.channel.close()
        self.mirrors.settle(worker.slot)
        block = self.state.table.worker(worker.slot)
        self.state.table.cells[block + W_READY] = 0
        self.state.table.cells[block + W_PID] = 0

    async def watch_heartbeats(self) -> None:
        """Kill workers that hang; they are replaced like workers that died."""
        table = self.state.table
        watch = Watch(time.monotonic())
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            watch.look(time.monotonic())
            self.starter.reap_orphans()
            self.mirrors.refresh(rows=False)
            for worker in self.running.values():
                heartbeat = table.cells[table.worker(worker.slot) + W_HEARTBEAT_NS] / 1e9
                if worker.ready is not None and watch.hangs(max(heartbeat, worker.ready)):
                    log.error("worker %d (pid %d) hangs; killing it", worker.slot, worker.process.pid)
                    worker.process.kill()
                    worker.ready = None

    def receive_from(self, worker: WorkerProcess) -> None:
        """Start receiving messages from a worker."""
        receiving = asyncio.create_task(self._receive_from(worker))
        self._receiving.add(receiving)
        receiving.add_done_callback(self._receiving.discard)

    async def boot(self, worker: WorkerProcess, takes_over: bool = False) -> bool:
        """Configure a new worker; return whether it started.

        :param takes_over: it must not accept connections yet: the worker that it replaces still does
        """
        if await self._boot(worker, takes_over):
            worker.ready = time.monotonic()
            return True
        if not self.stopping:
            await self.starter.renew()  # the fault may be the template's, or mended in what is installed now
        return False

    async def _boot(self, worker: WorkerProcess, takes_over: bool) -> bool:
        self.receive_from(worker)
        worker.listen(self._listeners.sockets)
        worker.channel.send(self.names)
        try:
            reason = await self._configure(worker, BOOT_SECONDS, takes_over)
            worker.channel.send(Learned(list(self.learned.items())))
        except TimeoutError:
            reason = f"not ready within {BOOT_SECONDS:.0f} s"
        except ConnectionError:
            return False
        if reason is not None:
            log.error("worker %d did not start: %s", worker.slot, reason)
            worker.process.kill()
            return False
        return True

    async def _configure(self, worker: WorkerProcess, seconds: float, takes_over: bool = False) -> str | None:
        """Send a worker the configuration; return None once it is in force there, otherwise the reason.

        :raises TimeoutError: it has not answered within so many seconds
        :raises ConnectionError: the worker died before it answered
        """
        answer = worker.answer_about(self.generation)
        drained = frozenset(self.state.drained_backends)
        drain = None
        if self.state.drain is not None:
            drain = Drain(self.state.drain.seconds_left, self.config.drain.close_code)
        worker.channel.send(
            Configure(self.generation, self.settings(), self.state.registry, drained, drain, takes_over)
        )
        async with asyncio.timeout(seconds):
            return await answer

    def settings(self) -> Settings:
        """Return the configuration in force as workers get it."""
        settings = Settings.of(self.config, self.certificates, self.credentials)
        upstreams = {
            name: upstream._replace(backends=self.backends_of(self.config, name))
            for name, upstream in settings.upstreams.items()
        }
        return settings._replace(credentials=self._texts(), upstreams=upstreams)

    async def _receive_from(self, worker: WorkerProcess) -> None:
        while (message := await worker.channel.receive()) is not None:
            try:
                self._process(message, worker)
            except Exception:
                log.exception("worker %s: its message %s could not be processed", worker.name, type(message).__name__)
        worker.ended()

    def _process(self, message: Message, worker: WorkerProcess) -> None:
        """Process a message from a worker."""
        if isinstance(message, Configured | Failed):
            answer = worker.configured.pop(message.generation, None)
            if answer is not None and not answer.done():
                answer.set_result(message.reason if isinstance(message, Failed) else None)
        elif isinstance(message, Learned):
            self._share(message, worker)
        elif isinstance(message, KeysWanted):
            self.on_keys_wanted(message.source)
        elif isinstance(message, Failures):
            self.on_failures(message.counts)
        elif isinstance(message, Drained):
            worker.drained = True
            self.progress.set()
        elif isinstance(message, Released | TakenOver):
            worker.answers.put_nowait(message)
        elif isinstance(message, Retired):
            worker.reported_done = True
            worker.finished.set()

    def _share(self, learned: Learned, source: WorkerProcess) -> None:
        """Send what one worker has learned to the others, and keep it for later ones."""
        for key, state in learned.news:
            self.learned.pop(key, None)
            self.learned[key] = state
        while len(self.learned) > MAX_PATHS:
            del self.learned[next(iter(self.learned))]
        self.on_change()
        for worker in self.running.values():
            if worker is not source:
                worker.channel.send(learned)

    def resolved(self, names: dict[str, tuple[str, ...]]) -> None:
        """Send backend addresses to all workers, and to later ones. :param names: IP addresses by name"""
        self.names = Resolved(names)
        self.send_to_all(self.names)
        self.on_change()

    def backends_of(self, config: Config, upstream: str) -> tuple[Backend, ...]:
        """The backends of an upstream now: those that a configuration lists, then those that were discovered."""
        found = self.discovered(config).get(upstream, ())
        return (*map(Backend.of, config.upstreams[upstream].backends), *found)

    def use_certificates(self, certificates: Certificates) -> None:
        """Have all workers, and later ones, show and trust these certificates from now on."""
        self.certificates = certificates
        of_backends = backends_tls_of(self.config, certificates)
        self.send_to_all(UseCertificates(listeners_of(self.config, certificates), of_backends))

    def use_credentials(self, credentials: Credentials) -> None:
        """Have all workers, and later ones, check users and tokens by these files from now on."""
        self.credentials = credentials
        self.send_to_all(UseCredentials(self._texts()))

    def use_key_sets(self, key_sets: dict[str, str]) -> None:
        """The same for key sets that were fetched. :param key_sets: all of them, by URL"""
        self.key_sets = key_sets
        self.send_to_all(UseCredentials(self._texts()))
        self.on_change()

    def keys_fetched(self, url: str) -> None:
        """Have all workers stop waiting for a key set: whatever the attempt has brought was sent to them before."""
        self.send_to_all(KeysFetched(url))

    def _texts(self) -> dict[str, str]:
        return {**self.credentials.texts, **self.key_sets}

    def send_to_all(self, message: Message) -> None:
        """Send a message to every running worker."""
        for worker in self.running.values():
            worker.channel.send(message)

    async def end_worker(self, worker: WorkerProcess) -> None:
        """Kill a worker that serves nothing, and clean up after it."""
        worker.process.kill()
        await exit_status(worker.process)
        await self._clean_up(worker)
        self.clear(worker.slot)

    def clear(self, slot: int) -> None:
        """Clear a slot that is no longer used: its stored tunnels, and its part of the table and the quotas."""
        self.stores[slot].end()
        self.state.table.clear(slot, len(self.state.registry.routes), len(self.state.registry.backends))
        self.quotas.clear(slot)
