"""``round_robin``: each backend in turn, by weight."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gateway.routing.balancing.target import Target
from gateway.routing.balancing.turns import Turns


class RoundRobin:
    """Each backend in turn, by weight. Each worker takes turns of its own."""

    __slots__ = ("_all", "_targets", "_turns")

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self._turns = Turns([target.weight for target in targets])
        self._all = range(len(targets))

    def pick(
        self, key: bytes | str | None = None, tried: Collection[Target] = (), *, brief: bool = False
    ) -> Target | None:
        """As :meth:`gateway.routing.balancing.policy.Policy.pick`."""
        targets = self._targets
        if len(targets) == 1:
            return None if tried else targets[0]
        if tried:
            chosen = self._turns.take(i for i in self._all if targets[i] not in tried)
        else:
            chosen = self._turns.take(self._all)
        return targets[chosen] if chosen >= 0 else None
