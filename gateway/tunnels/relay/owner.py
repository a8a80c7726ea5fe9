"""What the relay reports, and to which object: the owner of the worker's rows."""

from __future__ import annotations

from typing import Protocol

from gateway.tunnels.table.layout import NEVER


class Owner(Protocol):
    """The owner of a worker's rows (``edge/owner.py``). Clocks are ``CLOCK_MONOTONIC`` in nanoseconds."""

    def tunnel_ended(self, row: int) -> None:
        """A tunnel has ended, and its sockets are closed: give its row back."""

    def side_answered(self, row: int, side: int, silence_ns: int) -> None:
        """A side whose interval is learned has answered what was sent to it after a silence of its connection."""

    def backend_lost(self, row: int) -> int:
        """A tunnel's backend has vanished. :returns: the clock at which the client gets its Close frame"""

    def tick(self, now: int) -> int:
        """The clock has come to what was given to ``Relay.tick_at``. :returns: when that is due next"""


class Nobody:
    """An owner that does nothing: before the worker has one."""

    def tunnel_ended(self, row: int) -> None:
        """Leave the row as it is."""

    def side_answered(self, row: int, side: int, silence_ns: int) -> None:
        """Learn nothing."""

    def backend_lost(self, row: int) -> int:
        """At once: any clock that has passed."""
        return 1

    def tick(self, now: int) -> int:
        """Nothing is due."""
        return NEVER
