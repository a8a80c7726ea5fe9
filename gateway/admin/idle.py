"""The distribution of live tunnels over how long they have been silent, by route."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate

from gateway.admin.live import LiveRow

IDLE_BUCKETS_SECONDS = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_BOUNDS_NS = tuple(seconds * 1_000_000_000 for seconds in IDLE_BUCKETS_SECONDS)


class IdleDistribution:
    """Tunnels counted by how long they have been silent."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS_NS) + 1)
        """tunnels in each bucket, not cumulative; the last is for silences beyond all bounds"""
        self.sum_ns = 0

    def add(self, idle_ns: int) -> None:
        """Count one tunnel."""
        self.counts[bisect_left(_BOUNDS_NS, idle_ns)] += 1
        self.sum_ns += idle_ns

    @property
    def tunnels(self) -> int:
        """How many tunnels were counted."""
        return sum(self.counts)

    @property
    def cumulative(self) -> list[int]:
        """Tunnels up to each bound, as Prometheus counts them; the last is the total."""
        return list(accumulate(self.counts))


def idle_by_route(rows: Iterable[LiveRow], routes: int) -> list[IdleDistribution]:
    """Return a distribution for each route, by its number. :param routes: how many the registry has"""
    found = [IdleDistribution() for _ in range(routes)]
    for row in rows:
        if row.route < routes:
            found[row.route].add(row.idle_ns)
    return found
