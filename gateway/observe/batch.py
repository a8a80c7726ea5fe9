"""Telling, put off and done in batches.

What metrics and the access log are told of a handshake or of a tunnel's end costs as much as the handshake itself when
it is done between system calls, whose code has driven its own out of the processor's caches; done dozens in a row it
costs a third (``make bench``, scenario ``handshake``). So it waits a moment, never longer than ``MAX_SECONDS``.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

MAX_SECONDS = 0.05
Count = Callable[[int], None]
MAX_WAITING = 64
"""Done at once when so much waits: a batch must not keep tunnels waiting for longer than a large message would."""


class Distribution(Protocol):
    """A histogram."""

    def observe_all(self, values: Sequence[float]) -> None:
        """Count values that were observed."""


class Batch:
    """Calls that are made a little later, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._counts: defaultdict[Count, int] = defaultdict(int)
        self._observed: defaultdict[Distribution, list[float]] = defaultdict(list)

    def count(self, counter: Count) -> None:
        """Count an event; ``counter`` is called with the number of those that have come by the next time."""
        self._counts[counter] += 1
        if self._timer is None:
            self._timer = self._loop.call_later(MAX_SECONDS, self.flush)

    def observe(self, distribution: Distribution, value: float) -> None:
        """Observe a value; ``distribution`` is told of all those that have come by the next time."""
        self._observed[distribution].append(value)
        if self._timer is None:
            self._timer = self._loop.call_later(MAX_SECONDS, self.flush)

    def add(self, call: Callable[..., None], *arguments: Any) -> None:
        """Make a call later. What it raises goes to the loop's exception handler, and ends no batch."""
        self._calls.append((call, arguments))
        if self._timer is None:
            self._timer = self._loop.call_later(MAX_SECONDS, self.flush)
        elif len(self._calls) >= MAX_WAITING:
            self.flush()

    def flush(self) -> None:
        """Make all calls that wait, and tell of all that was counted and observed, by those calls too."""
        calls, self._calls = self._calls, []
        for call, arguments in calls:
            self._call(call, *arguments)
        counts, self._counts = self._counts, defaultdict(int)
        for counter, count in counts.items():
            self._call(counter, count)
        observed, self._observed = self._observed, defaultdict(list)
        for distribution, values in observed.items():
            self._call(distribution.observe_all, values)
        if self._timer is not None and not self._calls:
            self._timer.cancel()
            self._timer = None

    def _call(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as error:  # one that cannot be told must not silence the others
            self._loop.call_exception_handler({"message": f"{call!r} failed", "exception": error})
