"""``round_robin``: each backend in turn, by weight."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gateway.routing.balancing.target import Target
from gateway.routing.balancing.turns import Turns
from gateway.routing.balancing.weights import Weights


class RoundRobin:
    """Each backend in turn, by weight. Each worker takes turns of its own."""

    __slots__ = ("_all", "_next", "_targets", "_turns", "_weights")

    def __init__(self, weights: Weights) -> None:
        self._targets: Sequence[Target] = ()
        self._weights = weights
        self._turns = Turns()
        self._all = range(0)
        self._next = 0

    def use(self, candidates: Sequence[Target]) -> None:
        """As :meth:`gateway.routing.balancing.policy.Policy.use`."""
        self._targets = candidates
        self._weights.use(candidates)
        self._turns.use(candidates)
        self._all = range(len(candidates))

    def pick(
        self, key: bytes | str | None = None, tried: Collection[Target] = (), *, brief: bool = False
    ) -> Target | None:
        """As :meth:`gateway.routing.balancing.policy.Policy.pick`."""
        targets = self._targets
        weights = self._weights.now()
        if tried:
            chosen = self._turns.take([i for i in self._all if targets[i] not in tried], weights)
        elif not self._weights.are_equal:
            chosen = self._turns.take(self._all, weights)
        elif targets:
            # The same order as that of the turns, without the cost of a look at each.
            chosen = self._next if self._next < len(targets) else 0
            self._next = chosen + 1
        else:
            return None
        return targets[chosen] if chosen >= 0 else None
