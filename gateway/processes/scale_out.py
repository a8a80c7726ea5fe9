"""Notices that backends have come into service, and when those in service have stayed the same for long enough.

No I/O; the clock is an argument. The state outlives a supervisor: what comes into service while one takes over from
another is noticed, too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Literal, NamedTuple

log = logging.getLogger("gateway")


class Seen(NamedTuple):
    """What is known of one upstream, for the next supervisor. JSON makes it a list."""

    upstream: str
    in_service: tuple[int, ...]
    """numbers of backends"""
    due: float | None
    """when a rebalance begins if the same backends stay in service, in seconds of ``CLOCK_MONOTONIC``; None if none has
    come"""


class ScaleOuts:
    """Which backends of upstreams were in service when that was looked at last."""

    def __init__(self, changed: Callable[[], object]) -> None:
        """:param changed: called when :meth:`left` has another answer"""
        self._changed = changed
        self._seen: dict[str, frozenset[int]] = {}
        self._due: dict[str, float] = {}

    def look(
        self, upstream: str, in_service: Collection[int], settle: float, now: float
    ) -> frozenset[int] | Literal["due"] | None:
        """Look at an upstream once more.

        :param in_service: numbers of the backends that are in service now
        :param settle: how long they must stay the same, in seconds. ``now``: of ``CLOCK_MONOTONIC``
        :returns: backends that have come into service; ``due`` once, when they have settled
        """
        before = self._seen.get(upstream)
        now_in_service = frozenset(in_service)
        if before == now_in_service:
            if now < self._due.get(upstream, now + 1):
                return None
            del self._due[upstream]
            self._changed()
            return "due"
        self._seen[upstream] = now_in_service
        added = now_in_service - before if before is not None else frozenset()
        if added or upstream in self._due:
            self._due[upstream] = now + settle
        self._changed()
        return added or None

    def keep_only(self, upstreams: Collection[str]) -> None:
        """Forget all others: they do not rebalance by themselves."""
        gone = self._seen.keys() - set(upstreams)
        for name in gone:
            del self._seen[name]
            self._due.pop(name, None)
        if gone:
            self._changed()

    def left(self) -> list[Seen]:
        """Return what is known, for :meth:`resume`."""
        return [Seen(name, tuple(sorted(each)), self._due.get(name)) for name, each in self._seen.items()]

    def resume(self, left: Iterable[Sequence[Any]]) -> None:
        """Go on from what another supervisor knew."""
        for each in left:
            try:
                upstream, in_service, due = Seen(*each)
                self._seen[str(upstream)] = frozenset(map(int, in_service))
                if due is not None:
                    self._due[str(upstream)] = float(due)
            except (TypeError, ValueError):  # another version of the program wrote it
                log.warning("which backends were in service before is not known: %s", each)
