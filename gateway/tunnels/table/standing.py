"""State and load of backends, as the shared table has them: what balancing goes by."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway.tunnels.table.layout import H_STATES, HEALTH_DOWN, S_EJECTED_NS, S_HEALTH, S_RETURNED_NS

if TYPE_CHECKING:
    from gateway.tunnels.table.table import Table


class TableStanding:
    """State and load of backends, by their numbers. The form is that of ``routing/balancing/standing.py``."""

    def __init__(self, table: Table) -> None:
        self.load = table.load
        self.tunnels = table.live
        self.now_ns = time.monotonic_ns
        self._cells = table.cells
        self._state_at = table.state_at

    def changed(self) -> int:
        """A number that rises whenever a backend goes out of service or comes back.

        The supervisor raises it at the end of an ejection too, so that nothing here has to watch the clock.
        """
        return self._cells[H_STATES]

    def is_out(self, number: int) -> bool:
        """Whether a backend gets nothing new: it is down by its health checks, or ejected."""
        cells, at = self._cells, self._state_at(number)
        return cells[at + S_HEALTH] == HEALTH_DOWN or cells[at + S_EJECTED_NS] != 0

    def is_down(self, number: int) -> bool:
        """Whether it is down by its health checks."""
        return self._cells[self._state_at(number) + S_HEALTH] == HEALTH_DOWN

    def returned_ns(self, number: int) -> int:
        """When it came into service, or came back (``CLOCK_MONOTONIC``); 0 for long ago."""
        return self._cells[self._state_at(number) + S_RETURNED_NS]
