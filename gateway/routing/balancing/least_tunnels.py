"""``least_tunnels``: the backend with the fewest tunnels and requests for its weight."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from gateway.routing.balancing.target import Target
from gateway.routing.balancing.turns import Turns


class LeastTunnels:
    """The backend with the least load for its weight; backends with equal loads take turns by weight.

    Loads are compared as fractions, exactly: 1/3 for weight 3 and 2/6 for weight 6 are equal.

    A request comes and goes. If it went strictly to the backend with the least load, one that has a tunnel more than
    another would get no request at all while there is one at a time. So for a request, backends count as equal that
    are within one of the least load, or within an eighth of it.
    """

    __slots__ = ("_load", "_targets", "_turns")

    def __init__(self, targets: Sequence[Target], load: Callable[[int], int]) -> None:
        """:param load: tunnels and requests in flight that all workers together have to a backend, by its number"""
        self._targets = targets
        self._load = load
        self._turns = Turns([target.weight for target in targets])

    def pick(
        self, key: bytes | str | None = None, tried: Collection[Target] = (), *, brief: bool = False
    ) -> Target | None:
        """As :meth:`gateway.routing.balancing.policy.Policy.pick`."""
        targets = self._targets
        if len(targets) == 1:
            return None if tried else targets[0]
        load_of = self._load
        loads = [
            (i, load_of(target.number), target.weight)
            for i, target in enumerate(targets)
            if not tried or target not in tried
        ]
        if not loads:
            return None
        _, least, of_weight = loads[0]
        for _, load, weight in loads:
            if load * of_weight < least * weight:
                least, of_weight = load, weight
        if brief:
            least += 1 + (least >> 3)
        return targets[self._turns.take([i for i, load, weight in loads if load * of_weight <= least * weight])]
