"""When tunnels end whose credentials expire: few of them just then, many spread out behind that."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.tunnels.table.layout import NEVER

if TYPE_CHECKING:
    from gateway.edge.access.granted import Expiry

NS = 1_000_000_000
STEP_SECONDS = 0.01
MAX_SECONDS_KNOWN = 4096
"""Seconds of expiry that are counted; hours of those that are used."""

FURTHEST_SECONDS = 10 * 365 * 86400
"""No tunnel gets there."""


class Expiries:
    """Counts the tunnels of this worker that expire in the same second, and spaces them evenly."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """:param clock: in seconds since 1970"""
        self._clock = clock
        self._counts: dict[int, int] = {}

    def end_of(self, expiry: Expiry | None, now_ns: int) -> tuple[int, int]:
        """When a tunnel that opens now is to be closed, and with which code: the cells EXPIRES_NS and EXPIRY_CODE.

        Later changes of the machine's clock make no difference.

        :param expiry: of its client's credentials; None if they do not expire
        :param now_ns: ``CLOCK_MONOTONIC``
        """
        return (NEVER, 0) if expiry is None else (self._end_ns(expiry, now_ns), expiry.close_code)

    def _end_ns(self, expiry: Expiry, now_ns: int) -> int:
        """The first that expires in a second is closed when it does, each further one 10 ms later, and those that do
        not fit into the spread beside the first ones again."""
        left_seconds = expiry.at_unix - self._clock()
        if left_seconds > FURTHEST_SECONDS:
            return NEVER
        if left_seconds <= 0:
            return now_ns
        second = int(expiry.at_unix)
        count = self._counts.get(second, 0)
        if not count and len(self._counts) >= MAX_SECONDS_KNOWN:
            self._forget()
        self._counts[second] = count + 1
        slots = max(1, round(expiry.spread_seconds / STEP_SECONDS))
        return now_ns + int((left_seconds + count % slots * STEP_SECONDS) * NS)

    def _forget(self) -> None:
        """Forget seconds that have passed; where they are all to come, those that come first."""
        now = self._clock()
        left = sorted(second for second in self._counts if second >= now)
        self._counts = {second: self._counts[second] for second in left[-MAX_SECONDS_KNOWN // 2 :]}
