"""After which silence a route's sides are sent Pings now, and what is known to be cut."""

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
    """Of one side: the shortest times, where workers or networks differ."""

    interval_seconds: float | None
    """silence after which it is sent a Ping; None for never"""
    learned_cutoff_seconds: float | None
    """silence that is known to be cut; None while none is"""


def keepalive_now(blocks: Sequence[Block], side: int, config: Config, route: Route) -> KeepaliveNow:
    """How a side of a route is kept alive.

    Where no worker has noted an interval yet, it is the one that a tunnel would begin with.

    :param blocks: of the workers, for that route and side
    """
    settings = KeepaliveSide.of(getattr(config.keepalive_of(route), SIDES[side]))
    begins_with = Keepalive.of(settings).ping_after_ns
    if begins_with == NEVER_NS:
        return KeepaliveNow(None, None)
    interval = shortest(blocks, T_INTERVAL_NS) or begins_with
    cutoff = shortest(blocks, T_CUTOFF_NS)
    return KeepaliveNow(interval / NS, cutoff / NS if cutoff else None)
