"""Deadlines of connections that are no tunnels: one walk a quarter of a second, in place of a timer for each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from gateway.tunnels.relay.poller import Poller

INTERVAL_SECONDS = 0.25
log = logging.getLogger("gateway")


class Waiting(Protocol):
    """A connection that must get on by a deadline."""

    deadline_ns: int
    """on ``CLOCK_MONOTONIC``; it may change at any time"""

    def late(self) -> None:
        """The deadline has passed: set another one, or :meth:`Deadlines.discard` this."""

    def abandon(self) -> None:
        """Close everything that belongs to the connection: :meth:`late` raised."""


class Deadlines:
    """All connections of a worker that have a deadline."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """:param clock: in nanoseconds"""
        self._loop = loop
        self._clock = clock
        self._waiting: set[Waiting] = set()
        self._timer = loop.call_later(INTERVAL_SECONDS, self._walk)
        self.on_failure: Callable[[], None] = lambda: None
        """counts a deadline that raised"""
        self.add = self._waiting.add
        self.discard = self._waiting.discard

    def __len__(self) -> int:
        return len(self._waiting)

    def all(self) -> list[Waiting]:
        """Those that wait now."""
        return list(self._waiting)

    def close(self) -> None:
        """Walk no more."""
        self._timer.cancel()

    def _walk(self) -> None:
        self._timer = self._loop.call_later(INTERVAL_SECONDS, self._walk)
        self.look(self._clock())

    def look(self, now_ns: int) -> None:
        """Report to all whose deadline has passed. One that raises is logged, counted and closed; the others go on."""
        for waiting in [waiting for waiting in self._waiting if waiting.deadline_ns <= now_ns]:
            if waiting not in self._waiting:
                continue  # another one's end has ended it
            try:
                waiting.late()
            except Exception:
                log.exception("the deadline of %r failed; its connection is closed", waiting)
                self.on_failure()
                self._waiting.discard(waiting)
                Poller.abandon(waiting.late)
