"""A rebalance, as its command, the admin API and the metrics show it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gateway.admin.api import Json, Object

CLOSED, ENDED = "closed", "ended"
"""What became of a tunnel that was to be moved: it was closed in its turn, or has ended by itself before."""


class RebalanceAsked(NamedTuple):
    """What an operator asks for."""

    upstream: str | None
    """None for all"""
    period_seconds: float
    dry_run: bool


class BackendShare(NamedTuple):
    """One backend of a rebalance."""

    address: str
    tunnels: int
    """that it has, without those that are leaving"""
    share: int
    """tunnels that it ought to have"""
    surplus: int
    """tunnels that are still to be closed"""


@dataclass
class RebalanceState:
    """The tunnels of one upstream move to where they belong, are to do so, or have done so."""

    upstream: str
    balance: str
    """its policy"""
    period_seconds: float
    automatic: bool = False
    """whether it began by itself (``rebalance`` of the upstream)"""
    closed: int = 0
    ended: int = 0
    """tunnels that ended by themselves before their turn"""
    left: int = 0
    """tunnels that are still to be closed"""
    fixed: int = 0
    """tunnels that belong elsewhere but are no WebSocket tunnels"""
    unknown: int = 0
    """under ``consistent_hash``: tunnels whose key is not known"""
    backends: tuple[BackendShare, ...] = ()
    error: str | None = None
    """why it was cut short"""
    is_over: bool = False
    started_unix: float = field(default_factory=time.time)
    seconds: float = 0.0
    """since it began, or how long it took"""

    @property
    def tunnels(self) -> int:
        """How many tunnels are moved in all."""
        return self.closed + self.ended + self.left


def rebalance(state: RebalanceState) -> Object:
    """One rebalance in the admin API. ``done`` with an ``error`` if it was cut short."""
    backends: list[Json] = [{**each._asdict()} for each in state.backends]
    return {
        "upstream": state.upstream,
        "balance": state.balance,
        "automatic": state.automatic,
        "started": round(state.started_unix, 3),
        "period": state.period_seconds,
        "seconds": round(state.seconds, 3),
        "done": state.is_over,
        "error": state.error,
        "tunnels": state.tunnels,
        "closed": state.closed,
        "ended": state.ended,
        "left": state.left,
        "fixed": state.fixed,
        "unknown": state.unknown,
        "backends": backends,
    }
