"""The part of an event loop that a worker's edge uses, on a clock that a test turns."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

NS = 1_000_000_000


class Timer:
    """A call that is due at some time."""

    def __init__(self, call: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self.call: Callable[..., object] | None = call
        self._arguments = arguments

    def run(self) -> None:
        call, self.call = self.call, None
        if call is not None:
            call(*self._arguments)

    def cancel(self) -> None:
        """Never make it."""
        self.call = None


class FakeLoop:
    """Timers."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """:param clock: in nanoseconds"""
        self.errors: list[dict[str, Any]] = []
        self._clock = clock
        self._timers: list[tuple[int, int, Timer]] = []
        self._serial = itertools.count()

    def call_later(self, seconds: float, call: Callable[..., object], *arguments: Any) -> Timer:
        timer = Timer(call, arguments)
        heapq.heappush(self._timers, (self._clock() + int(seconds * NS), next(self._serial), timer))
        return timer

    def call_soon(self, call: Callable[..., object], *arguments: Any) -> Timer:
        return self.call_later(0, call, *arguments)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    @property
    def is_due(self) -> bool:
        """Whether a call is due."""
        return any(at <= self._clock() and timer.call is not None for at, _, timer in self._timers)

    def run_due(self) -> None:
        """Make the calls that are due now."""
        now = self._clock()
        due = []
        while self._timers and self._timers[0][0] <= now:
            due.append(heapq.heappop(self._timers)[2])
        for timer in due:
            timer.run()
