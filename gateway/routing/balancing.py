"""In which order the backends of an upstream are tried."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from gateway.config.address import Address


@dataclass(frozen=True, slots=True)
class Target:
    """A backend to connect to."""

    number: int
    """as the shared table knows it"""
    upstream: str
    address: Address
    weight: int
    label: str
    """its address as metrics show it"""


class RoundRobin:
    """Each in turn, by weight, spread as evenly as can be: nginx's smooth weighted round robin."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self._credit = [0] * len(targets)

    def pick(self, tried: Collection[Target] = ()) -> Target | None:
        """The next backend, leaving out those already ``tried``; None when there is no other."""
        best = -1
        total = 0
        for i, target in enumerate(self._targets):
            if target in tried:
                continue
            total += target.weight
            self._credit[i] += target.weight
            if best < 0 or self._credit[i] > self._credit[best]:
                best = i
        if best < 0:
            return None
        self._credit[best] -= total
        return self._targets[best]


class LeastTunnels:
    """The one with the fewest tunnels for its weight; among equals, each in turn."""

    def __init__(self, targets: Sequence[Target], live: Callable[[int], int]) -> None:
        """:param live: tunnels that all workers together hold to a backend, by its number"""
        self._targets = targets
        self._live = live
        self._turn = 0

    def pick(self, tried: Collection[Target] = ()) -> Target | None:
        """The next backend, leaving out those already ``tried``; None when there is no other."""
        targets = self._targets
        count = len(targets)
        if count < 2:
            return None if tried or not targets else targets[0]
        self._turn = (self._turn + 1) % count
        best = None
        best_load = 0.0
        for i in range(count):
            target = targets[(self._turn + i) % count]
            if target in tried:
                continue
            load = (self._live(target.number) + 1) / target.weight
            if best is None or load < best_load:
                best, best_load = target, load
        return best


Balancer = RoundRobin | LeastTunnels
