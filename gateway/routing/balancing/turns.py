"""Turns by weight, as evenly spread as can be: smooth weighted round robin, as nginx has it.

Each turn, every candidate earns its weight in credit; the one with the most credit takes the turn and pays what all of
them earned. With weights 5, 1, 1 the turns are ``0 0 1 0 2 0 0``, not ``0 0 0 0 0 1 2``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.routing.balancing.target import Target


class Turns:
    """Whose turn it is among some that are numbered from 0."""

    __slots__ = ("_credit", "_targets")

    def __init__(self) -> None:
        self._targets: Sequence[Target] = ()
        self._credit: list[int] = []

    def use(self, targets: Sequence[Target]) -> None:
        """Number these from now on. Those that were there before keep their credit."""
        before = {target.number: credit for target, credit in zip(self._targets, self._credit, strict=True)}
        self._targets = targets
        self._credit = [before.get(target.number, 0) for target in targets]

    def take(self, candidates: Iterable[int], weights: Sequence[int]) -> int:
        """Return the candidate whose turn it is; -1 if there are none. Others neither earn nor pay.

        :param weights: of all, by number
        """
        credit = self._credit
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
