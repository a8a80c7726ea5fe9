"""Owners of rows that do one thing."""

from __future__ import annotations

from collections.abc import Callable

from gateway.tunnels.relay.owner import Nobody


class Ending(Nobody):
    """Calls back with the row of each tunnel that has ended."""

    def __init__(self, ended: Callable[[int], object]) -> None:
        self._ended = ended

    def tunnel_ended(self, row: int) -> None:
        self._ended(row)
