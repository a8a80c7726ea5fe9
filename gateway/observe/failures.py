"""Failures of backends, collected for the supervisor, which may eject a backend for them (``eject`` of an upstream)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config.settings import Upstream
    from gateway.routing.balancing import Target

REPORT_SECONDS = 0.1
"""Between two reports at least, so that a flood of failures is no flood of messages."""


class Failures:
    """The failures that one worker has seen. They cost nothing where upstreams do not eject."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.report: Callable[[dict[int, int]], None] = lambda counts: None
        """called with failures since the last time, by the backends' numbers"""
        self._loop = loop
        self._ejecting: frozenset[str] = frozenset()
        self._counts: dict[int, int] = {}

    def use(self, upstreams: Mapping[str, Upstream]) -> None:
        """Count failures of those among these that eject backends."""
        self._ejecting = frozenset(name for name, upstream in upstreams.items() if upstream.ejects)

    def count(self, target: Target) -> None:
        """Count a failure: no connection, no answer or no valid one in time, or one of 5xx."""
        if target.upstream not in self._ejecting:
            return
        if not self._counts:
            self._loop.call_later(REPORT_SECONDS, self._flush)
        self._counts[target.number] = self._counts.get(target.number, 0) + 1

    def _flush(self) -> None:
        counts, self._counts = self._counts, {}
        self.report(counts)
