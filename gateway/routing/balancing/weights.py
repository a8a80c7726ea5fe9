"""Weights of backends. Those of backends that have just come into service grow (slow start)."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.routing.balancing.standing import Standing
from gateway.routing.balancing.target import Target

SECOND = 1_000_000_000
SCALE = 1024
"""Of all weights here: a growing one has so many steps for each unit of the configured weight."""


class Weights:
    """The weights that apply now, in the order of the targets: the configured ones times :data:`SCALE`.

    A backend that came into service ``t`` ago has ``t / slow_start`` of its weight, and at least one step.
    """

    __slots__ = ("_full", "_growing", "_next_ns", "_now", "_slow_ns", "_standing", "are_equal")

    def __init__(self, standing: Standing, slow_start_ns: int = 0) -> None:
        """:param slow_start_ns: how long a weight grows; 0 for not at all"""
        self._standing = standing
        self._slow_ns = slow_start_ns
        self._full: list[int] = []
        self._now: list[int] = []
        self._growing: list[tuple[int, int]] = []
        self._next_ns = 0
        self.are_equal = True
        """whether all of them are, and none grows"""

    def use(self, targets: Sequence[Target]) -> None:
        """Give the weights of these from now on."""
        self._full = [target.weight * SCALE for target in targets]
        self._now = []
        self._growing = []
        if self._slow_ns:
            returned = [self._standing.returned_ns(target.number) for target in targets]
            self._growing = [(i, since_ns) for i, since_ns in enumerate(returned) if since_ns > 0]
        self._next_ns = 0
        self.now()

    def now(self) -> list[int]:
        """The weights at this moment."""
        if not self._growing:
            return self._now if self._now else self._settle()
        now_ns = self._standing.now_ns()
        if now_ns < self._next_ns:
            return self._now
        self._growing = [each for each in self._growing if now_ns - each[1] < self._slow_ns]
        if not self._growing:
            return self._settle()
        self.are_equal = False
        self._next_ns = now_ns + self._slow_ns // SCALE
        self._now = self._full[:]
        for i, since_ns in self._growing:
            self._now[i] = max(self._full[i] * max(now_ns - since_ns, 0) // self._slow_ns, 1)
        return self._now

    @property
    def grow(self) -> bool:
        """Whether some of them grow."""
        return bool(self._growing)

    def _settle(self) -> list[int]:
        self._now = self._full
        self.are_equal = len(set(self._full)) <= 1
        return self._now
