"""Loads of many backends at once, read from the shared table no more often than is worth it."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.routing.balancing.standing import Standing
from gateway.routing.balancing.target import Target

FRESH_NS = 70_000
"""For each backend: how long its load is good for. Reading one takes 0.7 us, so a worker spends at most a hundredth of
its time on that. A handshake takes about as long as the loads of two backends are good for."""


class Loads:
    """Tunnels and requests in flight of backends, over all workers: what was read lately, and what was picked since."""

    __slots__ = ("_fresh_ns", "_numbers", "_read_ns", "_standing", "_values")

    def __init__(self, standing: Standing) -> None:
        self._standing = standing
        self._numbers: list[int] = []
        self._values: list[int] = []
        self._fresh_ns = 0
        self._read_ns = 0

    def use(self, targets: Sequence[Target]) -> None:
        """Read the loads of these from now on."""
        self._numbers = [target.number for target in targets]
        self._fresh_ns = FRESH_NS * len(targets)
        self._values = []

    def now(self) -> list[int]:
        """The loads, in the order of the targets. A caller that picks one of them adds that to its load here."""
        standing = self._standing
        now_ns = standing.now_ns()
        if not self._values or now_ns - self._read_ns >= self._fresh_ns:
            self._values = list(map(standing.load, self._numbers))
            self._read_ns = now_ns
        return self._values
