"""A tunnel whose serving raised: it is logged, counted and ended, and all other tunnels are served on.

An exception here is a mistake in the gateway, or a row that says what cannot be. Nothing is known of the streams then,
so that no Close frame is sent: both connections are cut where they are, as those of a worker that died. Rows whose end
raises too are put where nothing looks at them again.

This file is compiled by Cython where a compiler is at hand (types are in ``failing.pxd``) and runs as it is elsewhere.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
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
"""After a line in the log, until the next one: a mistake may hit thousands of tunnels at once."""

log = logging.getLogger("gateway")


class Failing(Ending):
    """The streams of all tunnels of one worker, up to their ends, whatever goes wrong."""

    def __init__(
        self,
        kernel: Kernel,
        cells: memoryview[int],
        descriptors: int,
        on_end: Callable[[int], None],
        on_loss: Callable[[int], int] | None = None,
    ) -> None:
        """As of :class:`Ending`."""
        super().__init__(kernel, cells, descriptors, on_end, on_loss)
        self.quiet_until = 0
        self.unlogged = 0

    def fail(self, row: int, doing: str, error: Exception) -> None:
        """End a tunnel because of an exception, with the cause ``worker_lost`` unless it was ending. Never raises.

        :param row: of the tunnel, which may have ended already
        :param doing: what raised, as a noun: ``relaying``, ``adoption``
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
        """Forget descriptors that are not of this tunnel: of a row from another process, they are other connections."""
        cells = self.cells
        for side in range(2):
            here = row + SIDE_0 + side * SIDE_CELLS
            fd = cells[here + FD]
            if not (0 <= fd < len(self.owners) and self.owners[fd] == 2 * row + side):
                cells[here + FD] = -1
                cells[here + INTEREST] = 0

    def _cut_loose(self, row: int) -> None:
        """End both connections, and leave the row to the next worker of the slot, which finds a handshake in it."""
        cells = self.cells
        for side in range(2):
            here = row + SIDE_0 + side * SIDE_CELLS
            fd = cells[here + FD]
            cells[here + FD] = -1
            cells[here + INTEREST] = 0
            cells[here + PENDING] = 0
            self.pending.pop(2 * row + side, None)
            if fd >= 0:
                self.owners[fd] = NO_OWNER
                # The supervisor holds this connection, too: epoll would go on reporting it after the close.
                with contextlib.suppress(OSError):
                    self.kernel.unwatch(fd)
                self.hang_up(fd)
        cells[row + PHASE] = CUT
        cells[row + DEADLINE_NS] = NEVER
        cells[row + STATE] = RESERVED
        self.called = True
