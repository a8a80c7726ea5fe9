"""Ejection: a backend where requests and handshakes keep failing gets nothing for a while.

Successes count nothing: a backend that fails one request in two should be ejected, too. At least half of an upstream's
backends stay in service whatever fails: so many failures at once are more likely to have their cause here or on the
way, and the rest could not carry the load of all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

LONGEST = 8
"""How many times as long as the first ejection the longest is."""


class Rule(NamedTuple):
    """When a backend is ejected."""

    failures: int
    within_ns: int
    for_ns: int
    """the first time; twice as long each time that it fails again soon"""


class Ejection:
    """The failures of one backend, and how long it is ejected for them."""

    __slots__ = ("_failures", "_last_ns", "_times", "until_ns")

    def __init__(self, until_ns: int = 0) -> None:
        """:param until_ns: until when it is ejected already"""
        self.until_ns = until_ns
        """0 while it is not ejected"""
        self._failures: deque[tuple[int, int]] = deque()
        self._times = 1
        self._last_ns = 0

    def failed(self, count: int, rule: Rule, now_ns: int) -> bool:
        """Count failures. :returns: whether they are too many"""
        if self.until_ns:
            return False  # of what was under way when it was ejected
        failures = self._failures
        # Any that are needed for no decision need no memory.
        failures.append((now_ns, min(count, rule.failures)))
        while failures[0][0] <= now_ns - rule.within_ns or len(failures) > rule.failures:
            failures.popleft()
        return sum(each for _, each in failures) >= rule.failures

    def eject(self, rule: Rule, now_ns: int) -> None:
        """Eject it. If it comes back and is ejected again before it has served as long as it was out, for longer."""
        if self._last_ns and now_ns - self._last_ns < self._times * rule.for_ns:
            self._times = min(2 * self._times, LONGEST)
        else:
            self._times = 1
        self.until_ns = now_ns + self._times * rule.for_ns
        self._failures.clear()

    def is_over(self, now_ns: int) -> bool:
        """Whether its time is up."""
        return 0 < self.until_ns <= now_ns

    def end(self, now_ns: int) -> None:
        """It is in service again."""
        self.until_ns = 0
        self._last_ns = now_ns
        self._failures.clear()


Decision = Literal["no", "eject", "spare"]


def decide(
    ejections: Mapping[int, Ejection],
    number: int,
    count: int,
    rule: Rule,
    now_ns: int,
    down: Collection[int] = (),
) -> Decision:
    """Decide about a backend that has failed.

    :param ejections: of all backends of the upstream that may get something new, by number
    :param count: how often it has failed since last time
    :param down: those that are down by their health checks
    :returns: ``spare`` if it ought to be ejected and too many others are out already. Nothing but the count of
        failures has changed; after ``eject`` the caller has to call :meth:`Ejection.eject`
    """
    if number in down or not ejections[number].failed(count, rule, now_ns):
        return "no"
    left = sum(not ejection.until_ns and each not in down for each, ejection in ejections.items()) - 1
    return "eject" if 2 * left >= len(ejections) else "spare"
