"""Which workers hang: their process is there, and has not come round to its sweep for long (``W_HEARTBEAT_NS``)."""

from __future__ import annotations

INTERVAL_SECONDS = 1.0
SILENCE_SECONDS = 10.0
PAUSE_SECONDS = 3.0
"""A look this long after the one before says that whoever looks was stopped too, or had no CPU."""


class Watch:
    """Looks at heartbeats once in ``INTERVAL_SECONDS``; all clocks are ``CLOCK_MONOTONIC`` in seconds.

    A worker hangs if it was silent for ``SILENCE_SECONDS`` during which this watch itself ran without a pause. On a
    machine that was suspended, or in a group of processes that was stopped as a whole, workers are as well as before.
    """

    def __init__(self, now: float) -> None:
        self._since = self._last = now

    def look(self, now: float) -> None:
        """Note that the watch runs; before every round of :meth:`hangs`."""
        if now - self._last > PAUSE_SECONDS:
            self._since = now
        self._last = now

    def hangs(self, heartbeat: float) -> bool:
        """Whether a worker hangs. :param heartbeat: when it last gave a sign of life, be it that it was started"""
        return self._last - max(heartbeat, self._since) > SILENCE_SECONDS
