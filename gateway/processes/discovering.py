"""Finds backends while the gateway runs, in the supervisor for all workers: by DNS, or in files.

``sources.py`` says where, ``asking.py`` asks name servers, ``target_files.py`` watches files. What one finds is put in
force without a reload: workers are sent the new lists of backends (:class:`UseBackends`). A source that fails keeps its
last answer, so a dead name server or a half-written file takes no backend away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from gateway.admin.state import DiscoveryState, DrainState
from gateway.config.schema import Address, Config
from gateway.config.settings_balancing import Backend
from gateway.processes.asking import ask
from gateway.processes.control.messages import DrainBackends, UseBackends
from gateway.processes.resolving import Resolving
from gateway.processes.sources import Answers, Before, Found, NotFound, Source, sources_of
from gateway.processes.target_files import TargetFiles
from gateway.processes.workers import Workers
from gateway.routing.registry import BackendKey, RegistryFull

LEAST_SECONDS = 1.0
"""Between two questions, however short a TTL is."""

RETRY_SECONDS = 5.0
"""At most, from a failure to the next question."""

NEW_NAMES_SECONDS = 0.5
"""How long new backends that are given by name wait for their addresses."""

MOST_LOGGED = 10
"""At most this many addresses go into one log line."""

log = logging.getLogger("gateway")


@dataclass
class _Known:
    """What is known of a source."""

    backends: tuple[Backend, ...] | None = None
    """None before the first answer"""
    tried: bool = False
    error: str | None = None
    """why the latest attempt failed"""
    unix: float | None = None
    """when there was an answer last"""
    asking: asyncio.Task[None] | None = None


class Discovering:
    """The backends that one gateway discovers."""

    def __init__(
        self,
        workers: Workers,
        resolving: Resolving,
        before: Answers | None = None,
        question: Callable[[Source, Before], Awaitable[Found]] = ask,
    ) -> None:
        """
        :param resolving: looks up backends that files list by name
        :param before: answers that a previous supervisor had
        :param question: asks a name server
        """
        self._workers = workers
        self._state = workers.state
        self._resolving = resolving
        self._before = dict(before or {})
        self._question = question
        self._known: dict[Source, _Known] = {}
        self._configs: tuple[Config, ...] = ()
        self._applied: dict[str, Source] = {}
        """sources of upstreams when lists were last put in force"""
        self._gone: set[int] | None = None
        """numbers of backends that are drained because they are no longer found; None before the first look"""
        self._files = TargetFiles(self._found_in_file, self._failed_file, self._recovered_file)
        self._watching: asyncio.Task[None] | None = None
        self._looking: set[asyncio.Task[None]] = set()
        self._settling: asyncio.Task[None] | None = None
        self._progress = asyncio.Event()
        """set when a source was tried"""
        self._dirty = False
        self._held = 0
        self._crowded = False
        """whether the table has no numbers left for some backends"""
        self.on_change: Callable[[Config], None] = lambda config: None
        """called with the configuration in force when other backends are"""
        workers.discovered = self.current_of

    # --- configuration ------------------------------------------------------------------------------------------------

    def use(self, *configs: Config) -> None:
        """Find the backends of exactly these configurations from now on, and look up their names."""
        self._configs = configs
        wanted = {source for config in configs for source in sources_of(config).values()}
        for source in self._known.keys() - wanted:
            known = self._known.pop(source)
            if known.asking is not None:
                known.asking.cancel()
        for source in sorted(wanted - self._known.keys(), key=str):
            backends = self._before.pop(source, None)
            known = self._known[source] = _Known(backends, tried=backends is not None)
            if source.kind != "file":
                known.asking = asyncio.create_task(self._keep_asking(source, known))
        self._before.clear()
        files = {source.name: source for source in wanted if source.kind == "file"}
        self._files.watch(files, lambda path: self._known[files[path]].backends)
        if files:
            self._look_at_files()
            if self._watching is None:
                self._watching = asyncio.create_task(self._files.run())
        self._resolve()
        self._settle_soon()

    def current_of(self, config: Config) -> dict[str, tuple[Backend, ...]]:
        """Return the backends that were discovered for a configuration, by upstream; all have numbers.

        Those that an upstream lists itself are left out.
        """
        found: dict[str, tuple[Backend, ...]] = {}
        for name, source in sources_of(config).items():
            listed = {backend.address for backend in config.upstreams[name].backends}
            known = self._known.get(source)
            backends = () if known is None else known.backends or ()
            found[name] = tuple(backend for backend in backends if backend.address not in listed)
        return self._numbered(found)

    def keys(self) -> set[BackendKey]:
        """The backends that must keep their numbers: configured and discovered ones."""
        configs = (self._state.config, self._workers.config, *self._configs)
        found = {
            (name, str(backend.address))
            for config in configs
            for name, upstream in config.upstreams.items()
            for backend in upstream.backends
        }
        for lists in (self._state.discovered, *map(self.current_of, configs)):
            found |= _keys(lists)
        return found

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Send workers no lists meanwhile: they are getting another configuration, with the lists of now."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            self._settle_soon()

    async def first_answers(self, seconds: float) -> None:
        """Wait until every source was tried once, but at most this long; then put in force what was found."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not all(known.tried for known in self._known.values()):
                    self._progress.clear()
                    await self._progress.wait()
                self._resolve()
                await self._resolving.first_answers(seconds)
        if not self._held:
            self._apply()

    def answers(self) -> Answers:
        """Return the last answers of all sources, for a later supervisor."""
        return {source: known.backends for source, known in self._known.items() if known.backends is not None}

    def close(self) -> None:
        """Stop finding backends."""
        tasks = [known.asking for known in self._known.values()] + [self._watching, self._settling, *self._looking]
        for task in tasks:
            if task is not None:
                task.cancel()

    def _numbered(self, found: dict[str, tuple[Backend, ...]]) -> dict[str, tuple[Backend, ...]]:
        """Leave out backends that the table has no numbers for."""
        registry = self._state.registry
        try:
            registry.admit_backends(_keys(found))
        except RegistryFull as error:
            if not self._crowded:
                log.error("discovery: %s; the others get no requests", error)
            self._crowded = True
        else:
            self._crowded = False
            return found
        fitting: dict[str, tuple[Backend, ...]] = {}
        for name, backends in found.items():
            kept = []
            for backend in backends:
                with contextlib.suppress(RegistryFull):
                    registry.admit_backends([(name, str(backend.address))])
                    kept.append(backend)
            fitting[name] = tuple(kept)
        return fitting

    def _resolve(self) -> None:
        """Look up names: of backends and auth servers, and those that files list."""
        addresses: list[Address] = []
        for config in self._configs:
            addresses += config.backend_addresses()
        for known in self._known.values():
            addresses += [backend.address for backend in known.backends or ()]
        self._resolving.use(addresses)

    # --- name servers and files ---------------------------------------------------------------------------------------

    async def _keep_asking(self, source: Source, known: _Known) -> None:
        before = Before(known.backends)
        try:
            await self._ask_again_and_again(source, known, before)
        finally:
            before.close()

    async def _ask_again_and_again(self, source: Source, known: _Known, before: Before) -> None:
        while True:
            before.came.clear()
            try:
                found = await self._question(source, before)
            except NotFound as error:
                self._failed(source, known, str(error))
                seconds = min(source.every, RETRY_SECONDS)
            except Exception as error:  # of any kind: this goes on asking
                log.exception("discovery: %s cannot be asked", source)
                self._failed(source, known, str(error))
                seconds = min(source.every, RETRY_SECONDS)
            else:
                self._answered(source, known, found.backends, found.mistake is None)
                if found.mistake is not None:
                    self._failed(source, known, found.mistake)
                before.backends = found.backends
                seconds = min(source.every, found.ttl)
            await asyncio.sleep(LEAST_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, seconds - LEAST_SECONDS)):
                    await before.came.wait()

    def _look_at_files(self) -> None:
        async def look() -> None:
            await self._files.look()
            for source, known in self._known.items():
                known.tried |= source.kind == "file"
            self._progress.set()

        task = asyncio.create_task(look())
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    def _found_in_file(self, path: str, backends: tuple[Backend, ...], complete: bool) -> None:
        for source, known in self._of_file(path):
            self._answered(source, known, backends, complete)

    def _failed_file(self, path: str, error: str) -> None:
        for source, known in self._of_file(path):
            self._failed(source, known, error)

    def _recovered_file(self, path: str) -> None:
        for source, known in self._of_file(path):
            if known.backends is not None:
                self._answered(source, known, known.backends)

    def _of_file(self, path: str) -> list[tuple[Source, _Known]]:
        return [each for each in self._known.items() if each[0].kind == "file" and each[0].name == path]

    def _answered(self, source: Source, known: _Known, backends: tuple[Backend, ...], complete: bool = True) -> None:
        """:param complete: whether nothing was wrong with it; else :meth:`_failed` is called, too"""
        if complete:
            if known.error is not None:
                log.info("discovery: %s can be used again: %s", source, _counted(len(backends)))
            known.error = None
        known.unix = time.time()
        known.tried = True
        self._progress.set()
        if backends != known.backends:
            known.backends = backends
            self._settle_soon()
        self._show()

    def _failed(self, source: Source, known: _Known, error: str) -> None:
        found = (sources_of(config).items() for config in self._configs)
        upstreams = sorted({name for items in found for name, each in items if each == source})
        if known.error is None:
            instead = (
                f"its last answer stays in use: {_counted(len(known.backends))}"
                if known.backends
                else "there are none from before, and requests get 503 unless others are configured"
            )
            log.warning("discovery: upstream %s: %s: %s; %s", ", ".join(upstreams), source, error, instead)
        known.error = error
        known.tried = True
        self._progress.set()
        for name in upstreams:
            self._state.discovery_errors[name] += 1
        self._show()

    def _show(self) -> None:
        self._state.discoveries = {
            name: DiscoveryState(str(source), known.error, known.unix)
            for name, source in sources_of(self._workers.config).items()
            if (known := self._known.get(source)) is not None
        }

    # --- in force -----------------------------------------------------------------------------------------------------

    def _settle_soon(self) -> None:
        """Put in force what was found soon, so that many answers at once become one change."""
        self._dirty = True
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle())

    async def _settle(self) -> None:
        while self._dirty and not self._held:
            self._dirty = False
            self._resolve()
            await self._resolving.first_answers(NEW_NAMES_SECONDS)
            if self._held:
                self._dirty = True
            else:
                self._apply()

    def _apply(self) -> None:
        """Have all workers use the backends of now."""
        state, workers = self._state, self._workers
        config = workers.config
        before, now = state.discovered, self.current_of(config)
        sources = sources_of(config)
        gone: set[int] = set()
        changed = [name for name in config.upstreams if before.get(name, ()) != now.get(name, ())]
        for name in changed:
            is_same = self._applied.get(name) == sources.get(name)
            upstream = config.upstreams[name]
            left = _keys({name: before.get(name, ())}) - _keys({name: now.get(name, ())})
            left -= {(name, str(backend.address)) for backend in upstream.backends}
            came = _keys({name: now.get(name, ())}) - _keys({name: before.get(name, ())})
            log.info("discovery: upstream %s: %s; now %s", name, _said(came, left), _counted(len(now.get(name, ()))))
            # A reload that takes a source away closes no tunnels, as it closes none of backends that it takes away.
            if is_same and upstream.discover is not None and upstream.discover.on_gone == "drain":
                gone |= {state.registry.backend(*key) for key in left}
        self._applied = sources
        state.discovered = now
        self._show()
        new = self._change_drains(gone)
        if changed:
            self.on_change(config)
            lists = {name: workers.backends_of(config, name) for name in changed}
            workers.send_to_all(UseBackends(lists, state.registry, frozenset(state.drained_backends)))
            self._drain(new)
            workers.on_change()

    def _change_drains(self, gone: set[int]) -> set[int]:
        """Count backends that are gone as drained, and those that have come back as in service.

        :returns: those that were not drained before
        """
        state = self._state
        keys = self.keys()
        drained = state.drained_backends
        if self._gone is None:
            self._gone = {number for number in drained if state.registry.backends[number] not in keys}
        back = {number for number in self._gone if number not in drained or state.registry.backends[number] in keys}
        self._gone -= back
        new = gone - drained.keys()
        self._gone |= new
        if new or back & drained.keys():
            state.refresh(True)
            period = self._workers.config.drain.period
            # Replace the mapping: a thread may be reading the old one.
            state.drained_backends = {number: each for number, each in drained.items() if number not in back} | {
                number: DrainState(period, state.table.live(number)) for number in new
            }
        return new

    def _drain(self, gone: set[int]) -> None:
        """Close the tunnels of backends that are gone, over the drain period."""
        settings = self._workers.config.drain
        if gone and self._state.drain is None:  # else all tunnels are being closed
            self._workers.send_to_all(DrainBackends(frozenset(gone), settings.period, settings.close_code))


def _said(came: set[BackendKey], left: set[BackendKey]) -> str:
    """What has changed, for the log."""
    parts = []
    for keys, verb in ((came, "found"), (left, "gone")):
        if keys:
            some = sorted(address for _, address in keys)[:MOST_LOGGED]
            more = f" and {len(keys) - MOST_LOGGED} more" if len(keys) > MOST_LOGGED else ""
            parts.append(f"{verb} {', '.join(some)}{more}")
    return "; ".join(parts) or "weights or other properties have changed"


def _counted(backends: int) -> str:
    return f"{backends} backend{'s' * (backends != 1)}"


def _keys(lists: dict[str, tuple[Backend, ...]]) -> set[BackendKey]:
    return {(name, str(backend.address)) for name, backends in lists.items() for backend in backends}
