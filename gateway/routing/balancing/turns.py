"""Turns by weight, as evenly spread as can be: smooth weighted round robin, as nginx has it.

Each turn, every candidate earns its weight in credit; the one with the most credit takes the turn and pays what all of
them earned. With weights 5, 1, 1 the turns are ``0 0 1 0 2 0 0``, not ``0 0 0 0 0 1 2``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class Turns:
    """Whose turn it is among some that are numbered from 0."""

    __slots__ = ("_credit", "_weights")

    def __init__(self, weights: Sequence[int]) -> None:
        self._weights = weights
        self._credit = [0] * len(weights)

    def take(self, candidates: Iterable[int]) -> int:
        """Return the candidate whose turn it is; -1 if there are none. Others neither earn nor pay."""
        credit = self._credit
        weights = self._weights
        best = -1
        total = 0
        for i in candidates:
            weight = weights[i]
            total += weight
            credit[i] += weight
            if best < 0 or credit[i] > credit[best]:
                best = i
        if best >= 0:
            credit[best] -= total
        return best
