"""Tunnels whose handling raised an exception: logged, counted and ended, while all others are served on.

The exception means a bug in the gateway or a corrupt row, and the state of the streams is unknown. So no Close frame is
sent: both connections are cut where they are, like those of a worker that died. If ending a tunnel raises as well, its
row is set aside so that nothing looks at it again.

Compiled by Cython if a C compiler is available (types in ``failing.pxd``), run as it is otherwise.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from gateway.tunnels.relay.ending import (
    Ending,
)
from gateway.tunnels.table.layout import (
    CUT,
    DEADLINE_NS,
    DIRTY,
    FD,
    GATEWAY,
    ID,
    INTEREST,
    LIVE,
    NEVER,
    NO_OWNER,
    PENDING,
    PHASE,
    RESERVED,
    SECOND,
    SIDE_0,
    SIDE_CELLS,
    STATE,
    T_FAULTS,
    TOTALS,
    WORKER_LOST,
)

if TYPE_CHECKING:
    from gateway.tunnels.relay.kernel import Kernel

QUIET_NS = 10 * SECOND
"""Between two log lines: one bug may hit thousands of tunnels at once."""

log = logging.getLogger("gateway")


class Failing(Ending):
    """Streams that can fail."""

    def __init__(self, kernel: Kernel, cells: memoryview[int], descriptors: int) -> None:
        """As of :class:`Streams`."""
        super().__init__(kernel, cells, descriptors)
        self.quiet_until = 0
        self.unlogged = 0

    def fail(self, row: int, doing: str, error: Exception) -> None:
        """End a tunnel because of an exception, with the cause ``worker_lost`` unless it was ending. Never raises.

        :param row: of the tunnel, which may have ended already
        :param doing: what failed, for the log: ``relaying``, ``adoption``
        :param error: the exception
        """
        cells = self.cells
        self.now = self.kernel.now()
        self._log_failure(cells[row + ID], doing, error)
        totals = cells[row + TOTALS]
        if 0 < totals < len(cells) - T_FAULTS:
            cells[totals + T_FAULTS] += 1
        if cells[row + STATE] != LIVE:
            return
        cells[row + DIRTY] = 1
        self._check_ownership(row)
        if cells[row + PHASE] != CUT:
            try:
                self._begin_end(row, GATEWAY, WORKER_LOST, -1)
                self.finish(row)
            except Exception as another:
                self._log_failure(cells[row + ID], "ending", another)
        if cells[row + STATE] == LIVE:
            self._cut_loose(row)

    def _log_failure(self, tunnel: int, doing: str, error: Exception) -> None:
        if self.now < self.quiet_until:
            self.unlogged += 1
            return
        more = f" ({self.unlogged} more failures since the last such line)" if self.unlogged else ""
        self.quiet_until = self.now + QUIET_NS
        self.unlogged = 0
        log.error(
            "tunnel %x: %s failed, so the tunnel is ended; this is a bug in the gateway, please report it%s",
            tunnel,
            doing,
            more,
            exc_info=error,
        )

    def _check_ownership(self, row: int) -> None:
        """Forget descriptors that are not this tunnel's: numbers from another process are other connections here."""
        cells = self.cells
        for side in range(2):
            here = row + SIDE_0 + side * SIDE_CELLS
            fd = cells[here + FD]
            if not (0 <= fd < len(self.owners) and self.owners[fd] == 2 * row + side):
                cells[here + FD] = -1
                cells[here + INTEREST] = 0

    def _cut_loose(self, row: int) -> None:
        """Shut down both connections and set the row aside, as ``RESERVED``: the slot's next worker frees it."""
        cells = self.cells
        for side in range(2):
            here = row + SIDE_0 + side * SIDE_CELLS
            fd = cells[here + FD]
            cells[here + FD] = -1
            cells[here + INTEREST] = 0
            cells[here + PENDING] = 0
            self.pending.pop(2 * row + side, None)
            self.halves.pop(2 * row + side, None)
            if fd >= 0:
                self.owners[fd] = NO_OWNER
                # The supervisor holds this connection as well, so that epoll would report it even after the close.
                with contextlib.suppress(OSError):
                    self.kernel.unwatch(fd)
                self.hang_up(fd)
        cells[row + PHASE] = CUT
        cells[row + DEADLINE_NS] = NEVER
        cells[row + STATE] = RESERVED
        self.called = True
