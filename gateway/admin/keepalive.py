"""The Ping intervals in force for a route's sides, and their learned cutoffs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gateway.admin.totals import Block, shortest
from gateway.config.schema import Config, Route
from gateway.config.settings import KeepaliveSide
from gateway.routing.limits import NEVER_NS, Keepalive
from gateway.tunnels.table.layout import SIDES, T_CUTOFF_NS, T_INTERVAL_NS

NS = 1e9


class KeepaliveNow(NamedTuple):
    """The keepalive of one side: the shortest times, if workers or networks differ."""

    interval_seconds: float | None
    """silence after which the side is sent a Ping; None for never"""
    learned_cutoff_seconds: float | None
    """shortest silence that is known to be cut; None while none is known"""


def keepalive_now(blocks: Sequence[Block], side: int, config: Config, route: Route) -> KeepaliveNow:
    """Return how a side of a route is kept alive.

    If no worker has recorded an interval yet, it is the one that a new tunnel would start with.

    :param blocks: the workers' totals for that route and side
    """
    settings = KeepaliveSide.of(getattr(config.keepalive_of(route), SIDES[side]))
    begins_with = Keepalive.of(settings).ping_after_ns
    if begins_with == NEVER_NS:
        return KeepaliveNow(None, None)
    interval = shortest(blocks, T_INTERVAL_NS) or begins_with
    cutoff = shortest(blocks, T_CUTOFF_NS)
    return KeepaliveNow(interval / NS, cutoff / NS if cutoff else None)
