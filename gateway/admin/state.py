"""What the supervisor knows of the running gateway, for everything that observes it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.tunnels.table.layout import W_ADOPTED, W_PID, W_READY, W_STARTED_UNIX_NS

if TYPE_CHECKING:
    from gateway.config.schema import Config
    from gateway.routing.registry import Registry
    from gateway.tunnels.table.table import Table


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One worker, as its block of the table tells."""

    index: int
    """counted from 0; during an upgrade two workers have the same"""
    slot: int
    pid: int
    started_unix: float
    ready: bool


@dataclass(frozen=True, slots=True)
class UpgradeState:
    """How an upgrade in place went, or goes."""

    ok: bool | None
    """None while it is under way"""
    unix: float
    error: str | None = None


@dataclass
class DrainState:
    """A drain: of the whole gateway, or of one backend."""

    period_seconds: float
    tunnels: int
    """open when it began"""
    started_unix: float = field(default_factory=time.time)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """set when the last tunnel has ended, or nobody waits for it any more; of a whole gateway's drain only"""
    cut_short: bool = False
    _started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._started

    @property
    def seconds_left(self) -> float:
        """Until the last tunnel has its turn."""
        return max(0.0, self.period_seconds - self.seconds)


@dataclass
class GatewayState:
    """The running gateway. The supervisor keeps it current; the table in it is everybody's."""

    table: Table
    registry: Registry
    config: Config
    config_path: str
    max_tunnels: int
    """room for tunnels: what is configured, or what ``auto`` came to at the start"""
    demo: bool = False
    started_unix: float = field(default_factory=time.time)
    last_reload_ok: bool = True
    last_reload_unix: float = field(default_factory=time.time)
    """when a configuration was last put in force"""
    last_reload_error: str | None = None
    worker_restarts: int = 0
    stopping: bool = False
    drain: DrainState | None = None
    """of the whole gateway, which exits then"""
    drained_backends: dict[int, DrainState] = field(default_factory=dict)
    """by number: those that get nothing new"""
    upgrade: UpgradeState | None = None
    """the latest that was asked for"""
    slots: list[int] = field(default_factory=list)
    """where each worker runs, by its index"""
    refresh: Callable[[bool], object] = lambda rows: None
    """brings the table up to date before somebody looks at it, and its rows if that is asked for: workers of the
    program before an upgrade may write another one (``tunnels/moving/mirrors.py``)"""

    def __post_init__(self) -> None:
        if not self.slots:
            self.slots = list(range(self.table.workers))

    @property
    def workers(self) -> list[WorkerState]:
        """All workers, by index. One that has died and is being replaced is not ready; one that was replaced in an
        upgrade is there until it has finished."""
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
        """Tunnels that outlived a worker, one that crashed or was replaced, since the gateway was started."""
        table = self.table
        return sum(table.cells[table.worker(slot) + W_ADOPTED] for slot in range(table.slots))

    @property
    def ready(self) -> bool:
        """Whether handshakes are accepted: some worker is ready, and the gateway is not shutting down.

        In an upgrade one worker takes over from another within a moment, and connections wait for it.
        """
        self.refresh(False)
        upgrading = self.upgrade is not None and self.upgrade.ok is None
        return not self.stopping and (upgrading or any(worker.ready for worker in self.workers))
