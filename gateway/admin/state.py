"""The supervisor's view of the running gateway, for everything that observes it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from gateway.admin.history import History
from gateway.admin.rebalances import RebalanceState
from gateway.config.settings_balancing import Backend
from gateway.tunnels.table.layout import W_ADOPTED, W_PID, W_READY, W_STARTED_UNIX_NS

if TYPE_CHECKING:
    from gateway.config.schema import Config
    from gateway.routing.registry import Registry
    from gateway.tunnels.quotas.quotas import Quotas
    from gateway.tunnels.table.table import Table


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One worker, from its block in the table."""

    index: int
    """counted from 0; during an upgrade two workers share an index"""
    slot: int
    pid: int
    started_unix: float
    ready: bool


@dataclass(frozen=True, slots=True)
class UpgradeState:
    """The state of an upgrade in place."""

    ok: bool | None
    """None while it is in progress"""
    unix: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class CertificateState:
    """A certificate of a listener."""

    file: str
    names: tuple[str, ...]
    expires_unix: float
    error: str | None
    """what is wrong with its file; then this is the certificate that was there before"""


@dataclass(frozen=True, slots=True)
class CredentialState:
    """Users or keys: a file, or a URL where they are fetched."""

    source: str
    """a URL is without its query, which may be secret"""
    kind: Literal["users", "keys"]
    entries: int | None
    """how many are in use; None if there are none yet, as they could not be fetched"""
    unix: float | None
    """when a key set was last fetched; None for files"""
    error: str | None
    """what is wrong with it; then what was there before is in use"""


CHECK_RESULTS = ("passed", "failed", "timeout")
"""Of health checks."""

EJECTION_RESULTS = ("ejected", "prevented")
"""``prevented``: a backend stayed in service, as too few would have been left."""


@dataclass(frozen=True, slots=True)
class DiscoveryState:
    """How an upstream's backends are found."""

    source: str
    error: str | None
    """why the latest attempt failed; then the last answer stays in use"""
    unix: float | None
    """when there was an answer last; None before the first of this process"""


@dataclass(frozen=True, slots=True)
class BackendState:
    """Whether a backend is in service."""

    health: Literal["unknown", "up", "down"] | None
    """by its health checks; None if there are none"""
    since_unix: float | None
    """when it changed last; None for never"""
    reason: str | None
    """of that change"""
    ejected_until_unix: float | None
    """None unless it is ejected"""


@dataclass
class DrainState:
    """A drain: of the whole gateway, or of one backend."""

    period_seconds: float
    tunnels: int
    """open when it began"""
    started_unix: float = field(default_factory=time.time)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """set when the last tunnel has ended or the drain was cut short; only used when the whole gateway drains"""
    cut_short: bool = False
    by_health: bool = False
    """whether a backend drains because it is down, and until it is up"""
    _started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since the drain began."""
        return time.monotonic() - self._started

    @property
    def seconds_left(self) -> float:
        """Seconds until the last tunnel's turn."""
        return max(0.0, self.period_seconds - self.seconds)


@dataclass
class GatewayState:
    """The running gateway. The supervisor keeps it current; the table in it is shared with the workers."""

    table: Table
    registry: Registry
    config: Config
    config_path: str
    max_tunnels: int
    """room for tunnels: as configured, or the result of ``auto`` at the start"""
    demo: bool = False
    started_unix: float = field(default_factory=time.time)
    last_reload_ok: bool = True
    last_reload_unix: float = field(default_factory=time.time)
    """when a configuration was last put in force"""
    last_reload_error: str | None = None
    worker_restarts: int = 0
    stopping: bool = False
    drain: DrainState | None = None
    """of the whole gateway, which then exits"""
    drained_backends: dict[int, DrainState] = field(default_factory=dict)
    """by number: backends that get nothing new"""
    discovered: dict[str, tuple[Backend, ...]] = field(default_factory=dict)
    """backends that were discovered, beside those that are configured, by upstream"""
    discoveries: dict[str, DiscoveryState] = field(default_factory=dict)
    """by upstream; only those that find backends"""
    discovery_errors: Counter[str] = field(default_factory=Counter)
    """how often backends of an upstream could not be found"""
    rebalances: dict[str, RebalanceState] = field(default_factory=dict)
    """by upstream: the latest, which may be under way"""
    rebalanced: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """tunnels that were to be moved, by upstream, backend and what became of them"""
    history: History = field(default_factory=History)
    """tunnels of each backend, over the last hour"""
    upgrade: UpgradeState | None = None
    """the latest upgrade"""
    certificates: list[CertificateState] = field(default_factory=list)
    """in use"""
    certificate_errors: dict[str, int] = field(default_factory=dict)
    """how often a certificate's file could not be used, by path"""
    credentials: list[CredentialState] = field(default_factory=list)
    """in use"""
    credential_errors: dict[str, int] = field(default_factory=dict)
    """how often a file of users or keys could not be used, by path"""
    key_set_fetches: Counter[tuple[str, bool]] = field(default_factory=Counter)
    """how often a route's key set was fetched, by the route's name and whether that succeeded"""
    backend_states: dict[int, BackendState] = field(default_factory=dict)
    """by number: those of the configuration"""
    health_checks: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """by upstream, backend and one of ``CHECK_RESULTS``"""
    ejections: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """by upstream, backend and one of ``EJECTION_RESULTS``"""
    slots: list[int] = field(default_factory=list)
    """each worker's slot, by its index"""
    quotas: Quotas | None = None
    """what clients use of their limits, shared with the workers like the table"""
    refresh: Callable[[bool], object] = lambda rows: None
    """brings the table up to date before it is read, and if the argument is true also its rows: after an upgrade, old
    workers may still write another table (``tunnels/moving/mirrors.py``)"""

    def backends_of(self, config: Config, upstream: str) -> tuple[Backend, ...]:
        """The backends of an upstream now: those that the configuration lists, then those that were discovered.

        :param config: as :attr:`config` was when a reader began, since a reload may change that meanwhile
        """
        return (*map(Backend.of, config.upstreams[upstream].backends), *self.discovered.get(upstream, ()))

    def __post_init__(self) -> None:
        if not self.slots:
            self.slots = list(range(self.table.workers))

    @property
    def workers(self) -> list[WorkerState]:
        """All workers, by index. A dead worker that is being replaced is listed as not ready. A worker replaced in an
        upgrade is listed until it has finished."""
        table, cells = self.table, self.table.cells
        found = []
        others = (slot for slot in range(table.slots) if slot not in self.slots and cells[table.worker(slot) + W_PID])
        for slot in sorted((*self.slots, *others), key=table.index_of):
            block = table.worker(slot)
            found.append(
                WorkerState(
                    table.index_of(slot),
                    slot,
                    cells[block + W_PID],
                    cells[block + W_STARTED_UNIX_NS] / 1e9,
                    cells[block + W_READY] == 1,
                )
            )
        return found

    @property
    def tunnels_adopted(self) -> int:
        """How many tunnels survived the crash or replacement of their worker since the gateway started."""
        table = self.table
        return sum(table.cells[table.worker(slot) + W_ADOPTED] for slot in range(table.slots))

    @property
    def ready(self) -> bool:
        """Whether handshakes are accepted: at least one worker is ready, and the gateway is not shutting down.

        During an upgrade this stays true: workers take over within a moment, and connections wait for that.
        """
        self.refresh(False)
        upgrading = self.upgrade is not None and self.upgrade.ok is None
        return not self.stopping and (upgrading or any(worker.ready for worker in self.workers))


def is_up(state: GatewayState, backend: int) -> bool:
    """Whether a backend is up by its health checks; without those, whether the latest connection to it succeeded.

    :param backend: its number
    """
    found = state.backend_states.get(backend)
    if found is not None and found.health is not None:
        return found.health != "down"
    return state.table.is_up(backend)
