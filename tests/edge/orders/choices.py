"""Trying every way in which something can go: it is run again and again, and chooses differently each time."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import factorial
from typing import TypeVar

from tests.support.deadline import SOAK

IN_ORDER = 200
AT_RANDOM = 100
"""Of more ways than :data:`IN_ORDER`, those come first and then this many at random, the same ones each time. With
``GATEWAY_SOAK=1`` all are tried."""

T = TypeVar("T")
Path = list[int]


class Choices:
    """The choices of one run: those of a path first, then the first of each, or any."""

    def __init__(self, path: Path, rng: random.Random | None = None) -> None:
        """:param rng: chooses beyond the path; without it the first is taken"""
        self.taken: list[tuple[int, int]] = []
        """what was chosen, and of how many"""
        self._path = path
        self._rng = rng

    def one_of(self, count: int) -> int:
        """Choose a number below ``count``."""
        if count <= 1:
            return 0
        at = len(self.taken)
        if at < len(self._path):
            chosen = self._path[at]
            assert chosen < count, "this run differs from the previous one: it depends on more than its choices"
        else:
            chosen = self._rng.randrange(count) if self._rng is not None else 0
        self.taken.append((chosen, count))
        return chosen

    def order(self, items: list[T]) -> list[T]:
        """Choose one of the orders of some items."""
        left = list(items)
        number = self.one_of(factorial(len(left)))
        found = []
        while left:
            number, at = divmod(number, len(left))
            found.append(left.pop(at))
        return found

    @property
    def path(self) -> Path:
        """What was chosen."""
        return [chosen for chosen, _ in self.taken]


def cuts(stop: int, step: int = 1, start: int = 1) -> list[int]:
    """Places to cut something in two: the first, the last, and others between. :param step: with ``GATEWAY_SOAK=1``"""
    return sorted({*range(start, stop, step if SOAK else 2 * step + 1), stop - 1})


def every(run: Callable[[Choices], None], most: int) -> int:
    """Run with every combination of choices; of many, with some. :returns: how many runs that were

    :raises AssertionError: there are more than ``most``
    """
    path: Path = []
    runs = 0
    while True:
        choices = Choices(path)
        _run(run, choices)
        runs += 1
        taken = choices.taken
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        if not taken:
            return runs
        if runs == IN_ORDER and not SOAK:
            for seed in range(AT_RANDOM):
                _run(run, Choices([], random.Random(seed)))
            return runs + AT_RANDOM
        assert runs < most, f"there are more than {most} ways"
        path = [chosen for chosen, _ in taken]
        path[-1] += 1


def _run(run: Callable[[Choices], None], choices: Choices) -> None:
    try:
        run(choices)
    except BaseException as error:
        error.add_note(f"choices: {choices.path}")
        raise
