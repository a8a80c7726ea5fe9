"""Detects workers that hang: the process runs, but has not swept its tunnels for a while (``W_HEARTBEAT_NS``)."""

from __future__ import annotations

INTERVAL_SECONDS = 1.0
SILENCE_SECONDS = 10.0
PAUSE_SECONDS = 3.0
"""If two checks are further apart than this, the watch itself was stopped or had no CPU."""


class Watch:
    """Checks heartbeats every ``INTERVAL_SECONDS``; all clocks are ``CLOCK_MONOTONIC`` in seconds.

    A worker hangs if it was silent for ``SILENCE_SECONDS`` while the watch itself ran without a pause. Suspending the
    machine, or stopping the whole process group, does not make workers look hung.
    """

    def __init__(self, now: float) -> None:
        self._since = self._last = now

    def look(self, now: float) -> None:
        """Note that the watch is running; call before each round of :meth:`hangs`."""
        if now - self._last > PAUSE_SECONDS:
            self._since = now
        self._last = now

    def hangs(self, heartbeat: float) -> bool:
        """Whether a worker hangs. :param heartbeat: when it last showed a sign of life, such as its start"""
        return self._last - max(heartbeat, self._since) > SILENCE_SECONDS
