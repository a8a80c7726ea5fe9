"""``consistent_hash``: requests with the same key go to the same backend, wherever they come in.

Loads are bounded (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016): a backend that
has far more than its share gets no further keys, which go to their next choices meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gateway.routing.balancing.loads import Loads
from gateway.routing.balancing.rendezvous import CHOICE_BITS, Rendezvous, bucket_of
from gateway.routing.balancing.standing import Standing
from gateway.routing.balancing.target import Target

SPARE = 50
"""Tunnels and requests that a backend may have beyond its bound. Keys that are spread at random never make that
difference, however few or many they are; so only a key that many clients share is ever moved."""

_CHOICE = (1 << CHOICE_BITS) - 1


class ConsistentHash:
    """The first choice of a key that can be had."""

    __slots__ = ("_bound", "_candidates", "_loads", "_order", "_places", "_standing", "_weight")

    def __init__(self, targets: Sequence[Target], standing: Standing, bound: float | None) -> None:
        """
        :param targets: all that keys may prefer, candidates or not: they decide the order
        :param bound: the most load of a backend as a multiple of its share; None for any
        """
        self._order = Rendezvous.of([(target.label, target.weight) for target in targets])
        self._standing = standing
        self._bound = None if bound is None else round(bound * 1000)
        self._loads = Loads(standing)
        self._places: list[Target | None] = []
        self._candidates: Sequence[Target] = ()
        self._weight = 0

    def use(self, candidates: Sequence[Target]) -> None:
        """As :meth:`gateway.routing.balancing.policy.Policy.use`."""
        by_label = {target.label: target for target in candidates}
        self._places = [None, *(by_label.get(label) for label in self._order.labels)]
        self._candidates = candidates
        self._weight = sum(target.weight for target in candidates)
        self._loads.use(candidates)

    def pick(
        self, key: bytes | str | None = None, tried: Collection[Target] = (), *, brief: bool = False
    ) -> Target | None:
        """As :meth:`gateway.routing.balancing.policy.Policy.pick`."""
        if not self._candidates:
            return None
        bucket = bucket_of(key if isinstance(key, bytes) else (key or "").encode())
        places = self._places
        choices = self._order.top(bucket)
        while choices:
            target = places[choices & _CHOICE]
            if target is not None and target not in tried and self._has_room(target):
                return target
            choices >>= CHOICE_BITS
        left = [
            target
            for place in self._order.order(bucket)
            if (target := places[place + 1]) is not None and target not in tried
        ]
        return next((target for target in left if self._has_room(target)), left[0] if left else None)

    def home(self, bucket: int) -> Target | None:
        """The backend where a bucket's keys belong, whatever the loads are; None if there is no candidate.

        :param bucket: as :func:`gateway.routing.balancing.rendezvous.bucket_of` says
        """
        choices = self._order.top(bucket)
        while choices:
            if (target := self._places[choices & _CHOICE]) is not None:
                return target
            choices >>= CHOICE_BITS
        return next((each for place in self._order.order(bucket) if (each := self._places[place + 1])), None)

    def may_have(self, target: Target, load: int, total: int) -> bool:
        """Whether a backend may get one more.

        :param load: that it has
        :param total: load of all candidates
        """
        if self._bound is None or load < SPARE:
            return True
        return (load - SPARE) * self._weight * 1000 < self._bound * total * target.weight

    def _has_room(self, target: Target) -> bool:
        load = self._standing.load(target.number)
        return load < SPARE or self.may_have(target, load, sum(self._loads.now()))
