"""What a supervisor leaves to the program that it becomes in an upgrade: everything that is not in the shared table.

It is JSON in a ``memfd``, with nothing in it that only one version could read, and numbers of descriptors, which stay
what they are when a process executes another program. Those of workers' control channels and of the descriptor store
may hold messages that nobody has read: they are read by the new program.
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
from gateway.tunnels.learning.learning import Key, State
from gateway.tunnels.moving.adoption import Connections
from gateway.tunnels.moving.mirrors import Mirrors, Names

FORM = 1
"""Of what is written. Another one cannot be read. A key may be added without another form if programs that ignore it
can go on, and if it has a default in programs that know it."""

log = logging.getLogger("gateway")


class CannotInherit(Exception):
    """The program cannot carry on what another one has begun; ``str()`` says why."""


@dataclass
class InheritedWorker:
    """One worker that runs."""

    slot: int
    pid: int
    control: int
    store: int
    started: float
    ready: float
    received: str
    """what was read from its control channel and is no whole message yet; in hexadecimal digits"""
    tunnels: list[tuple[int, Connections]]
    """in store"""


@dataclass
class InheritedStore:
    """What it takes to go on with the service manager's store (``keeping.py``)."""

    record: int
    lifeline: int
    serial: int
    names: list[str]
    """of all that is there"""
    sockets: dict[str, list[int]]
    segments: list[tuple[str, int, list[int], int]]
    """name, descriptor, tunnels that live and the number of those that have ended"""


@dataclass
class Inheritance:
    """All of it."""

    version: str
    """of the program that leaves it"""
    path: str
    workers: int
    max_tunnels: int
    admin: tuple[str, int]
    listen: list[tuple[str, list[int]]]
    """by address: one descriptor for each worker"""
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
    """that have come and were not served yet"""
    asking: list[int]
    """connections of clients of the admin API that wait to be told how the upgrade went"""
    drained_backends: list[tuple[int, float, int, float, float]]
    """number, period in seconds, tunnels when it began, when that was, and how many seconds ago"""
    running: list[InheritedWorker]
    mirrors: list[tuple[int, int]]
    """slots whose workers write another table than ``table``, and its descriptor (``tunnels/moving/mirrors.py``)"""
    store: InheritedStore | None = None
    names: dict[str, list[str]] = field(default_factory=dict)
    """IP addresses of names of backends"""
    control: int = messages.VERSION
    form: int = FORM

    def descriptors(self) -> list[int]:
        """All that belong to it."""
        found = [self.admin[1], *self.tables(), *self.asking]
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
        """All of it, for :meth:`parse`."""
        return json.dumps(asdict(self)).encode("ascii")

    def tables(self) -> list[int]:
        """Descriptors of all tables."""
        return [self.table, *{fd for _, fd in self.mirrors}]

    def carry_on(self, names: Names) -> Mirrors:
        """Take the tables over, and convert what is of another layout. :raises ValueError: that cannot be"""
        running = [worker.slot for worker in self.running]
        return Mirrors.inherit(self.table, self.max_tunnels, names, running, dict(self.mirrors))

    def write(self) -> int:
        """:returns: a descriptor, for :meth:`read`. :raises OSError: there is no room"""
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
        """Read what another program has written. :raises CannotInherit: this one cannot make sense of it"""
        try:
            with open(os.dup(fd), "rb") as file:
                file.seek(0)
                text = file.read()
        except OSError as error:
            raise CannotInherit(f"what the running program leaves cannot be read: {error}") from None
        return cls.parse(text)

    @classmethod
    def parse(cls, text: bytes, alone: bool = False) -> Inheritance:
        """Understand what another program has written. Keys that only a newer program knows are ignored.

        :param alone: none of its workers runs any more
        :raises CannotInherit: this program cannot make sense of it
        """
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise CannotInherit(f"what the running program leaves cannot be read: {error}") from None
        known = isinstance(found, dict) and found.get("form") == FORM
        if not known or not (alone or found.get("control") == messages.VERSION):
            raise CannotInherit("what the running program leaves is of another form: restart the gateway instead")
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
            raise CannotInherit(f"what the running program leaves is incomplete: {error}") from None
        return inherited

    def tell(self, state: GatewayState) -> None:
        """Have the gateway's state say what it has said before."""
        state.started_unix = self.started_unix
        state.last_reload_unix = time.time()
        state.worker_restarts = self.worker_restarts
        for number, period, tunnels, started_unix, _ in self.drained_backends:
            began = time.monotonic() - max(0.0, time.time() - started_unix)
            state.drained_backends[number] = DrainState(period, tunnels, started_unix, _started=began)

    def check(self, config: Config) -> None:
        """:raises CannotInherit: the configuration changes what an upgrade has to keep"""
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
    """The keys of a JSON object that a class of this program has. :raises TypeError: it is no object"""
    if not isinstance(found, dict):
        raise TypeError(f"{kind.__name__} is no object")
    names = {each.name for each in fields(kind)}
    unknown = found.keys() - names
    if unknown:
        log.debug("ignored what the running program leaves and this one does not know: %s", ", ".join(sorted(unknown)))
    return {name: value for name, value in found.items() if name in names}
