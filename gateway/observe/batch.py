"""Deferred reporting: metrics and log lines are batched.

Reporting a handshake or a tunnel's end costs as much as the handshake itself if it is done between system calls, which
evict its code from the processor's caches. Done dozens in a row, it costs a third of that (``make bench``, scenario
``handshake``). So it is deferred, by at most ``MAX_SECONDS``.

Compiled by Cython if a C compiler is available (types in ``batch.pxd``), run as it is otherwise.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

MAX_SECONDS = 0.05
Count = Callable[[int], None]
MAX_WAITING = 64
"""So many calls are made at once, so that they delay tunnels no longer than a large message would."""


class Distribution(Protocol):
    """A histogram."""

    def observe_all(self, values: Sequence[float]) -> None:
        """Count observed values."""


class Batch:
    """Calls that are deferred a little, and made in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._counts: defaultdict[Count, int] = defaultdict(int)
        self._observed: defaultdict[Distribution, list[float]] = defaultdict(list)

    def count(self, counter: Count) -> None:
        """Count an event; at the next flush, ``counter`` is called with the number of events since the last one."""
        self._counts[counter] += 1
        if self._timer is None:
            self._timer = self._loop.call_later(MAX_SECONDS, self.flush)

    def count_in_each(self, counters: Iterable[Count], count: int) -> None:
        """Have each of these counters count so many events. Bound to its counters, it is one for :meth:`count`."""
        for counter in counters:
            self._call(counter, count)

    def observe(self, distribution: Distribution, value: float) -> None:
        """Observe a value; the next flush passes all observed values to ``distribution``."""
        self._observed[distribution].append(value)
        if self._timer is None:
            self._timer = self._loop.call_later(MAX_SECONDS, self.flush)

    def add(self, call: Callable[..., None], *arguments: Any) -> None:
        """Defer a call. If it raises, the loop's exception handler is called and the batch goes on."""
        self._calls.append((call, arguments))
        if self._timer is None:
            self._timer = self._loop.call_later(MAX_SECONDS, self.flush)
        elif len(self._calls) >= MAX_WAITING:
            self._make_calls()

    def flush(self) -> None:
        """Make all deferred calls, then report all counts and observations, including those of the calls."""
        self._make_calls()
        counts, self._counts = self._counts, defaultdict(int)
        for counter, count in counts.items():
            self._call(counter, count)
        observed, self._observed = self._observed, defaultdict(list)
        for distribution, values in observed.items():
            self._call(distribution.observe_all, values)
        if self._timer is not None and not self._calls:
            self._timer.cancel()
            self._timer = None

    def _make_calls(self) -> None:
        calls, self._calls = self._calls, []
        for call, arguments in calls:
            self._call(call, *arguments)

    def _call(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as error:  # one failing call must not stop the others
            self._loop.call_exception_handler({"message": f"{call!r} failed", "exception": error})
