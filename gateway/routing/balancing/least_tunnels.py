"""``least_tunnels``: the backend with the fewest tunnels and requests for its weight."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import lcm
from operator import mul

from gateway.routing.balancing.loads import Loads
from gateway.routing.balancing.standing import Standing
from gateway.routing.balancing.target import Target
from gateway.routing.balancing.turns import Turns
from gateway.routing.balancing.weights import Weights

MOST_MULTIPLE = 1 << 32


class LeastTunnels:
    """The backend with the least load for its weight; backends with equal loads take turns by weight.

    Loads are compared as fractions, exactly: 1/3 for weight 3 and 2/6 for weight 6 are equal.

    A request comes and goes. If it went strictly to the backend with the least load, one that has a tunnel more than
    another would get no request at all while there is one at a time. So for a request, backends count as equal that
    are within one of the least load, or within an eighth of it.
    """

    __slots__ = ("_factors", "_loads", "_next", "_targets", "_turns", "_weights")

    def __init__(self, weights: Weights, standing: Standing) -> None:
        self._targets: Sequence[Target] = ()
        self._weights = weights
        self._loads = Loads(standing)
        self._turns = Turns()
        self._factors: list[int] = []
        """a load times this can be compared with others; none if the weights have no common multiple worth it"""
        self._next = 0

    def use(self, candidates: Sequence[Target]) -> None:
        """As :meth:`gateway.routing.balancing.policy.Policy.use`."""
        self._targets = candidates
        self._weights.use(candidates)
        self._loads.use(candidates)
        self._turns.use(candidates)
        multiple = lcm(*(target.weight for target in candidates))
        self._factors = [] if multiple > MOST_MULTIPLE else [multiple // target.weight for target in candidates]

    def pick(
        self, key: bytes | str | None = None, tried: Collection[Target] = (), *, brief: bool = False
    ) -> Target | None:
        """As :meth:`gateway.routing.balancing.policy.Policy.pick`."""
        targets = self._targets
        if len(targets) < 2:
            return targets[0] if targets and targets[0] not in tried else None
        loads = self._loads.now()
        weights = self._weights.now()
        if self._weights.are_equal and not tried:
            chosen = self._next_of_equals(loads, brief)
        elif self._factors and not self._weights.grow and not tried:
            chosen = self._by_factor(loads, weights, brief)
        else:
            chosen = self._by_weight(loads, weights, tried, brief)
        if chosen < 0:
            return None
        loads[chosen] += 1
        return targets[chosen]

    def _next_of_equals(self, loads: list[int], brief: bool) -> int:
        """The next of those with the least load, where all have the same weight: what :meth:`_by_weight` would find,
        without a look at each."""
        least = min(loads)
        start = self._next
        chosen = -1
        if brief:
            most = least + 1 + (least >> 3)
            for i in range(start, len(loads)):
                if loads[i] <= most:
                    chosen = i
                    break
            else:
                chosen = next(i for i, load in enumerate(loads) if load <= most)
        else:
            try:
                chosen = loads.index(least, start)
            except ValueError:
                chosen = loads.index(least)
        self._next = chosen + 1
        return chosen

    def _by_factor(self, loads: list[int], weights: list[int], brief: bool) -> int:
        """As :meth:`_by_weight`, faster: loads are brought to a common denominator."""
        scaled = list(map(mul, loads, self._factors))
        least = min(scaled)
        first = scaled.index(least)
        if brief:
            load = loads[first]
            least = (load + 1 + (load >> 3)) * self._factors[first]
        elif scaled.count(least) == 1:
            return first
        return self._turns.take([i for i, each in enumerate(scaled) if each <= least], weights)

    def _by_weight(self, loads: list[int], weights: list[int], tried: Collection[Target], brief: bool) -> int:
        targets = self._targets
        left = [(i, load, weights[i]) for i, load in enumerate(loads) if not tried or targets[i] not in tried]
        if not left:
            return -1
        _, least, of_weight = left[0]
        for _, load, weight in left:
            if load * of_weight < least * weight:
                least, of_weight = load, weight
        if brief:
            least += 1 + (least >> 3)
        return self._turns.take([i for i, load, weight in left if load * of_weight <= least * weight], weights)
