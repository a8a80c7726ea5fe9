"""Rate-limits log lines about events that may occur thousands of times a second."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_SECONDS = 10.0


class Seldom:
    """Logs a line at once, then suppresses it for a while; the next line says how many were suppressed."""

    def __init__(self, log: Callable[..., None], clock: Callable[[], float] = time.monotonic) -> None:
        """:param log: a logger's method. :param clock: in seconds"""
        self._log = log
        self._clock = clock
        self._silent_until = -EVERY_SECONDS
        self._suppressed = 0

    def __call__(self, message: str, *arguments: object) -> None:
        """Log the line unless it is suppressed. Arguments are like a logger's."""
        now = self._clock()
        if now < self._silent_until:
            self._suppressed += 1
            return
        if self._suppressed:
            message += f" ({self._suppressed} more like this suppressed)"
        self._silent_until = now + EVERY_SECONDS
        self._suppressed = 0
        self._log(message, *arguments)
