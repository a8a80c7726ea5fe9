"""Whether a backend is up, by the results of its health checks."""

from __future__ import annotations

from typing import Literal

Health = Literal["unknown", "up", "down"]
JITTER = 0.1
"""By which part of itself the time between two checks varies, so that checks of many gateways spread out."""


class Checked:
    """The state of one backend. It changes after so many equal results in a row."""

    __slots__ = ("_failed", "_good", "health")

    def __init__(self, health: Health = "unknown") -> None:
        """:param health: as it was found before; ``unknown`` counts as up"""
        self.health: Health = health
        self._good = 0
        self._failed = 0

    def result(self, good: bool, healthy_after: int, unhealthy_after: int) -> bool:
        """Take the result of a check.

        :param healthy_after: how many good ones in a row make it up; ``unhealthy_after`` likewise
        :returns: whether the state has changed
        """
        before = self.health
        if good:
            self._good, self._failed = self._good + 1, 0
            if self._good >= healthy_after:
                self.health = "up"
        else:
            self._good, self._failed = 0, self._failed + 1
            if self._failed >= unhealthy_after:
                self.health = "down"
        return self.health != before


def first_pause(every: float, random: float) -> float:
    """Seconds until the first check: anywhere within the first interval, a second at most.

    :param every: seconds between two checks
    :param random: at least 0 and less than 1
    """
    return min(every, 1.0) * random


def next_pause(every: float, spent: float, random: float) -> float:
    """Seconds from the end of a check until the next. :param spent: how many the check took"""
    return max(every * (1 + JITTER * (2 * random - 1)) - spent, 0.0)
