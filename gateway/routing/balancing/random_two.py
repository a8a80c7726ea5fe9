"""``random_two``: of two backends drawn at random, the one with the lower load for its weight.

Michael Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (1996): nearly as even as looking at all,
and workers or machines that decide at the same moment, on what they knew a moment ago, do not all decide alike.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate
from random import Random

from gateway.routing.balancing.standing import Standing
from gateway.routing.balancing.target import Target
from gateway.routing.balancing.weights import Weights


class RandomTwo:
    """The less loaded of two that are drawn by weight."""

    __slots__ = ("_drawn_from", "_random", "_standing", "_sums", "_targets", "_weights")

    def __init__(self, weights: Weights, standing: Standing, random: Callable[[], float] | None = None) -> None:
        """:param random: gives numbers from 0 to 1, without 1"""
        self._targets: Sequence[Target] = ()
        self._weights = weights
        self._standing = standing
        self._random = random or Random().random
        self._drawn_from: list[int] = []
        self._sums: list[int] = []

    def use(self, candidates: Sequence[Target]) -> None:
        """As :meth:`gateway.routing.balancing.policy.Policy.use`."""
        self._targets = candidates
        self._weights.use(candidates)
        self._drawn_from = []

    def pick(
        self, key: bytes | str | None = None, tried: Collection[Target] = (), *, brief: bool = False
    ) -> Target | None:
        """As :meth:`gateway.routing.balancing.policy.Policy.pick`."""
        targets = self._targets
        weights = self._weights.now()
        if tried:
            left = [i for i, target in enumerate(targets) if target not in tried]
            targets = [targets[i] for i in left]
            weights = [weights[i] for i in left]
        if len(targets) < 2:
            return targets[0] if targets else None
        if weights is not self._drawn_from:
            self._drawn_from = weights
            self._sums = list(accumulate(weights))
        one = self._draw(self._sums[-1])
        # The second is drawn from what is left when the first one's share is cut out.
        start, weight = self._sums[one] - weights[one], weights[one]
        point = int(self._random() * (self._sums[-1] - weight))
        other = bisect(self._sums, point if point < start else point + weight)
        load = self._standing.load
        first, second = targets[one], targets[other]
        return first if load(first.number) * weights[other] <= load(second.number) * weights[one] else second

    def _draw(self, total: int) -> int:
        return bisect(self._sums, int(self._random() * total))
