"""State and load of backends, as the shared table has them: what balancing goes by."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.tunnels.table.table import Table


class TableStanding:
    """State and load of backends, by their numbers. The form is that of ``routing/balancing/standing.py``."""

    def __init__(self, table: Table) -> None:
        self.load = table.load
        self.tunnels = table.live
        self.now_ns = time.monotonic_ns

    def changed(self) -> int:
        """A number that rises whenever a backend goes out of service or comes back."""
        return 0

    def is_out(self, number: int) -> bool:
        """Whether a backend gets nothing new: it is down by its health checks, or ejected."""
        return False

    def is_down(self, number: int) -> bool:
        """Whether it is down by its health checks."""
        return False

    def returned_ns(self, number: int) -> int:
        """When it came into service, or came back (``CLOCK_MONOTONIC``); 0 for long ago."""
        return 0
