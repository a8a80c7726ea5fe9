"""The state that a supervisor passes to the new program in an upgrade: everything that is not in the shared table.

It is version-independent JSON in a ``memfd``, with descriptor numbers, which stay valid across ``execv``. The sockets
of control channels and descriptor stores may hold unread messages, which the new program reads.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from gateway.admin.state import DrainState, GatewayState
from gateway.config.schema import Config
from gateway.processes.control import messages
from gateway.processes.sources import Answers, from_plain
from gateway.routing.registry import Registry
from gateway.tunnels.learning.learning import Key, State
from gateway.tunnels.moving.adoption import Connections
from gateway.tunnels.moving.mirrors import Mirrors, Names
from gateway.tunnels.table.layout import MAX_BACKENDS, MAX_ROUTES

FORM = 1
"""Format version of the state; a program reads no other. A key may be added without a new version if programs that
ignore it still work and programs that know it have a default."""

log = logging.getLogger("gateway")


class CannotInherit(Exception):
    """This program cannot take over the state of another; ``str()`` says why."""


@dataclass
class InheritedWorker:
    """One running worker."""

    slot: int
    pid: int
    control: int
    store: int
    started: float
    ready: float
    received: str
    """the incomplete message read from its control channel, in hexadecimal"""
    tunnels: list[tuple[int, Connections]]
    """in its descriptor store"""


@dataclass
class InheritedStore:
    """What is needed to go on using the service manager's store (``keeping.py``)."""

    record: int
    lifeline: int
    serial: int
    names: list[str]
    """of all descriptors in the store"""
    sockets: dict[str, list[int]]
    segments: list[tuple[str, int, list[int], int]]
    """name, descriptor, ids of live tunnels, and how many have ended"""


@dataclass
class Inheritance:
    """The whole state."""

    version: str
    """of the program that wrote it"""
    path: str
    workers: int
    max_tunnels: int
    admin: tuple[str, int]
    listen: list[tuple[str, list[int]]]
    """by address: one descriptor per worker"""
    table: int
    metrics: str
    generation: int
    routes: list[str]
    backends: list[tuple[str, str]]
    learned: list[tuple[Key, State]]
    started_unix: float
    last_reload_unix: float
    worker_restarts: int
    signals: list[str]
    """received but not served yet"""
    asking: list[int]
    """connections of admin API clients that wait for the result of the upgrade"""
    drained_backends: list[tuple[int, float, int, float, float]]
    """number, period in seconds, tunnels when the drain began, when that was, and how many seconds ago"""
    running: list[InheritedWorker]
    mirrors: list[tuple[int, int]]
    """slots whose workers write a table other than ``table``, and its descriptor (``tunnels/moving/mirrors.py``)"""
    store: InheritedStore | None = None
    names: dict[str, list[str]] = field(default_factory=dict)
    """IP addresses by backend name"""
    quotas: int = -1
    """a descriptor (``tunnels/quotas/``)"""
    drained_by_health: list[int] = field(default_factory=list)
    """those of ``drained_backends`` that drain because they are down"""
    key_sets: dict[str, str] = field(default_factory=dict)
    """those that were fetched last, by URL"""
    generations: list[int] = field(default_factory=list)
    """of the numbers of ``backends``"""
    discovered: Any = field(default_factory=list)
    """backends that were discovered last (``sources.py``)"""
    rebalances: list[tuple[str, float, int, int, int, int, bool, float]] = field(default_factory=list)
    """those under way (``rebalancing.py``)"""
    rebalanced: list[tuple[str, str, str, int]] = field(default_factory=list)
    """tunnels that were to be moved, by upstream, backend and result"""
    in_service: list[tuple[str, tuple[int, ...], float | None]] = field(default_factory=list)
    """backends of upstreams that rebalance by themselves, and when that is due (``scale_out.py``)"""
    control: int = messages.VERSION
    form: int = FORM

    @property
    def registry(self) -> Registry:
        """The numbers of routes and backends."""
        return Registry(MAX_ROUTES, MAX_BACKENDS, self.routes, self.backends, self.generations)

    def descriptors(self) -> list[int]:
        """Return all descriptors in it."""
        found = [self.admin[1], *self.tables(), *self.asking]
        if self.quotas >= 0:
            found.append(self.quotas)
        for _, each in self.listen:
            found += each
        for worker in self.running:
            found += (worker.control, worker.store)
            for _, connections in worker.tunnels:
                found += connections
        if self.store is not None:
            found += (self.store.record, self.store.lifeline, *(fd for _, fd, _, _ in self.store.segments))
        return found

    def text(self) -> bytes:
        """Return the whole state as JSON, for :meth:`parse`."""
        return json.dumps(asdict(self)).encode("ascii")

    def tables(self) -> list[int]:
        """Return the descriptors of all tables."""
        return [self.table, *{fd for _, fd in self.mirrors}]

    def carry_on(self, names: Names) -> Mirrors:
        """Take over the tables, converting those with another layout. :raises ValueError: one cannot be converted"""
        running = [worker.slot for worker in self.running]
        return Mirrors.inherit(self.table, self.max_tunnels, names, running, dict(self.mirrors))

    def write(self) -> int:
        """Write the state to a ``memfd``. :returns: its descriptor, for :meth:`read`. :raises OSError: no room"""
        fd = os.memfd_create("gateway-inheritance")
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(self.text())
        except BaseException:
            os.close(fd)
            raise
        return fd

    @classmethod
    def read(cls, fd: int) -> Inheritance:
        """Read the state that another program wrote. :raises CannotInherit: this program cannot use it"""
        try:
            with open(os.dup(fd), "rb") as file:
                file.seek(0)
                text = file.read()
        except OSError as error:
            raise CannotInherit(f"the saved state cannot be read: {error}") from None
        return cls.parse(text)

    @classmethod
    def parse(cls, text: bytes, alone: bool = False) -> Inheritance:
        """Parse the state that another program wrote. Keys that only a newer program knows are ignored.

        :param alone: none of its workers is running any more
        :raises CannotInherit: this program cannot use it
        """
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise CannotInherit(f"the saved state cannot be read: {error}") from None
        known = isinstance(found, dict) and found.get("form") == FORM
        if not known or not (alone or found.get("control") == messages.VERSION):
            raise CannotInherit("the saved state has another format: restart the gateway instead")
        try:
            store = found.pop("store", None)
            running = [InheritedWorker(**_known(InheritedWorker, worker)) for worker in found.pop("running")]
            for worker in running:
                worker.tunnels = [(tunnel, (client, backend)) for tunnel, (client, backend) in worker.tunnels]
            kept = InheritedStore(**_known(InheritedStore, store)) if store else None
            inherited = cls(**_known(cls, found), running=running, store=kept)
            inherited.backends = [(upstream, address) for upstream, address in inherited.backends]
            inherited.learned = [((route, side, net), State(*state)) for (route, side, net), state in inherited.learned]
        except (KeyError, TypeError, ValueError) as error:
            raise CannotInherit(f"the saved state is incomplete: {error}") from None
        return inherited

    def answers(self) -> Answers:
        """Backends that were discovered last; none if another program has written them in a form of its own."""
        try:
            return from_plain(self.discovered)
        except ValueError as error:
            log.warning("the backends that were discovered last are lost: %s", error)
            return {}

    def apply_to(self, state: GatewayState) -> None:
        """Set the gateway's state to what it was before."""
        state.started_unix = self.started_unix
        state.last_reload_unix = time.time()
        state.worker_restarts = self.worker_restarts
        state.rebalanced.update({(upstream, backend, result): n for upstream, backend, result, n in self.rebalanced})
        for number, period, tunnels, started_unix, _ in self.drained_backends:
            began = time.monotonic() - max(0.0, time.time() - started_unix)
            by_health = number in self.drained_by_health
            state.drained_backends[number] = DrainState(
                period, tunnels, started_unix, by_health=by_health, _started=began
            )

    def check(self, config: Config) -> None:
        """:raises CannotInherit: the configuration changes something that an upgrade cannot change"""
        now = {
            "workers": config.workers,
            "max_tunnels": self.max_tunnels if config.max_tunnels == "auto" else config.max_tunnels,
            "admin.address": str(config.admin.address),
            "listen": sorted(str(listener.address) for listener in config.listen),
        }
        before = {
            "workers": self.workers,
            "max_tunnels": self.max_tunnels,
            "admin.address": self.admin[0],
            "listen": sorted(address for address, _ in self.listen),
        }
        changed = [key for key in now if now[key] != before[key]]
        if changed:
            raise CannotInherit(f"{', '.join(changed)} cannot change in an upgrade (listen can in a reload)")


def _known(kind: type[Any], found: Any) -> dict[str, Any]:
    """Return the keys of a JSON object that are fields of a class. :raises TypeError: it is not an object"""
    if not isinstance(found, dict):
        raise TypeError(f"{kind.__name__} is not an object")
    names = {each.name for each in fields(kind)}
    unknown = found.keys() - names
    if unknown:
        log.debug("ignored unknown keys in the saved state: %s", ", ".join(sorted(unknown)))
    return {name: value for name, value in found.items() if name in names}
