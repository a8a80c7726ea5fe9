"""``least_tunnels``: the backend with the fewest tunnels and requests for its weight."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gateway.routing.balancing.loads import Loads
from gateway.routing.balancing.standing import Standing
from gateway.routing.balancing.target import Target
from gateway.routing.balancing.turns import Turns
from gateway.routing.balancing.weights import Weights


class LeastTunnels:
    """The backend with the least load for its weight; backends with equal loads take turns by weight.

    Loads are compared as fractions, exactly: 1/3 for weight 3 and 2/6 for weight 6 are equal.

    A request comes and goes. If it went strictly to the backend with the least load, one that has a tunnel more than
    another would get no request at all while there is one at a time. So for a request, backends count as equal that
    are within one of the least load, or within an eighth of it.
    """

    __slots__ = ("_loads", "_next", "_targets", "_turns", "_weights")

    def __init__(self, weights: Weights, standing: Standing) -> None:
        self._targets: Sequence[Target] = ()
        self._weights = weights
        self._loads = Loads(standing)
        self._turns = Turns()
        self._next = 0

    def use(self, candidates: Sequence[Target]) -> None:
        """As :meth:`gateway.routing.balancing.policy.Policy.use`."""
        self._targets = candidates
        self._weights.use(candidates)
        self._loads.use(candidates)
        self._turns.use(candidates)

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
