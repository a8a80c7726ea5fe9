"""Limits of a tunnel that its route sets: how large a frame may be, and how many messages a second a side may send.

**Frames.** A side with a ``FRAME_LIMIT`` has the gate ``LIMITED`` toward the other side, so that its bytes are looked
at frame by frame (``pinging.py``). A header that TCP has cut is held back in the row, 13 bytes at most, until the
length is known. A frame above the limit gets its sender Close 1009 and the other side a Close of its own; none of it is
relayed. Since frames of a broken stream cannot be measured, a frame that violates RFC 6455 is refused as well, with
1002, and nothing is relayed behind a Close frame (5.5.1).

**Messages.** Each message costs its sender ``MESSAGE_NS``. ``NEXT_MESSAGE_NS`` is when the next one would be due at
that rate, its "theoretical arrival time" (GCRA, ITU-T I.371); a side may be ahead of it by ``MESSAGE_BURST_NS``. A side
that may send no more is not read, except for the rest of a frame: nothing is dropped, and TCP slows the sender down. A
message is counted with its first frame; control frames count as well, continuations do not. So that a read brings no
more messages than are allowed, it is bounded, or the socket is peeked into first (``metering.py``). With TLS, one
record may bring more: then the debt grows, and the side waits the longer. The same is true of what a client has sent
ahead of the answer to its handshake.

A side that waits is woken by the relay's own clock, since a sweep a second would be too coarse.

Compiled by Cython if a C compiler is available (types in ``limiting.pxd``), run as it is otherwise.
"""

from __future__ import annotations

from heapq import heappop
from typing import TYPE_CHECKING

from gateway.protocol.closing import (
    BROKE_PROTOCOL,
    GOING_AWAY,
    SERVICE_RESTART,
)
from gateway.protocol.scanner import (
    scan,
)
from gateway.protocol.scanner_state import (
    OPEN,
    STATUS,
)
from gateway.tunnels.relay.failing import (
    Failing,
)
from gateway.tunnels.table.layout import (
    CLIENT,
    CLOSING_NS,
    CUT,
    ENDED,
    EXPIRES_NS,
    GATEWAY,
    LIMIT,
    LIVE,
    MESSAGE_BURST_NS,
    MESSAGE_NS,
    NEXT_MESSAGE_NS,
    PENDING,
    PHASE,
    PROTOCOL_ERROR,
    SCANNER,
    SECOND,
    SIDE_0,
    SIDE_CELLS,
    STATE,
)

if TYPE_CHECKING:
    from gateway.tunnels.relay.kernel import Kernel


LATEST_NS = SECOND // 10
"""How much time for messages a client gets back if it is woken late."""


class Limiting(Failing):
    """Streams that are limited."""

    def __init__(self, kernel: Kernel, cells: memoryview[int], descriptors: int) -> None:
        """As of :class:`Streams`."""
        super().__init__(kernel, cells, descriptors)
        self.refusal = 0  # what the latest call of ``_sift`` found: close code for the sender, 0 for no refused frame
        self.left = 0  # and how many bytes there are of that frame and behind it
        self.woken = 0  # the row that is read because its client waited long enough; else 0

    # --- frames -------------------------------------------------------------------------------------------------------

    def _refuse(self, row: int, side: int, start: int, totals: int) -> None:
        """End a tunnel because of a frame of which nothing is relayed. It lies in the buffer from ``start`` on.

        All frames before it are relayed, so the other side's Close frame can follow them.
        """
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        end = start + self.left
        self._count(here, totals, self.left)
        self._begin_end(row, GATEWAY, PROTOCOL_ERROR if self.refusal == BROKE_PROTOCOL else LIMIT, -1)
        self._close_streams(row, side, self.refusal, GOING_AWAY if side == CLIENT else SERVICE_RESTART)
        if cells[row + STATE] != LIVE or cells[row + PHASE] == CUT:
            return
        if cells[here + SCANNER + STATUS] == OPEN:  # there may be an answer to our Close frame behind it
            scan(cells, here + SCANNER, totals, self.kernel.data, start, end, self.now, 0)
            if cells[here + SCANNER + STATUS] != OPEN:
                self._stream_stopped(row, side)
                self._settle(row)

    # --- messages -----------------------------------------------------------------------------------------------------

    def _allowed(self, here: int) -> int:
        """How many messages a side may send now, where they cost time; less than 1 for none."""
        cells = self.cells
        return (self.now + cells[here + MESSAGE_BURST_NS] - self._paid_until(here)) // cells[here + MESSAGE_NS]

    def _paid_until(self, here: int) -> int:
        """When a side's next message is due. What it did not send in the past is lost, unless it was not read then."""
        return max(self.cells[here + NEXT_MESSAGE_NS], self.now - LATEST_NS if self.woken else self.now)

    def _charge(self, row: int, side: int, messages: int) -> None:
        """A side whose messages cost time has sent some, or none: stop reading it where it may send no more."""
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        if messages:
            cells[here + NEXT_MESSAGE_NS] = self._paid_until(here) + messages * cells[here + MESSAGE_NS]
            if self._speaks_at(here) > self.now:
                self._wait_to_speak(row)
        if not self._may_speak(row, here):
            self._watch(row, side)

    def _wait_to_speak(self, row: int) -> None:
        """Have a client that waits for its next message be read when that may come, and looked at once a second."""
        self.wake_at(min(self._speaks_at(row + SIDE_0), self.now + SECOND), row)

    # --- waking -------------------------------------------------------------------------------------------------------

    def _wake_rows(self) -> None:
        """Do what is due for the rows whose time has come."""
        wakes = self.wakes
        while wakes and wakes[0][0] <= self.now:
            row = heappop(wakes)[1]
            try:
                self._wake(row)
            except Exception as error:
                self.fail(row, "waking", error)

    def _wake(self, row: int) -> None:
        """Look what is due for a row, which may be another tunnel's by now."""
        cells = self.cells
        if cells[row + STATE] != LIVE or cells[row + PHASE] == CUT:
            return
        if self.now >= cells[row + EXPIRES_NS] and not cells[row + CLOSING_NS]:
            self.expire(row)
        elif cells[row + SIDE_0 + MESSAGE_NS]:
            if not self._may_speak(row, row + SIDE_0):
                self._wait_to_speak(row)
            elif self._is_readable(row):
                self.woken = row
                try:
                    self._read_metered(row, CLIENT)
                finally:
                    self.woken = 0
            if cells[row + STATE] == LIVE and cells[row + PHASE] != CUT:
                self._watch(row, CLIENT)

    def _is_readable(self, row: int) -> bool:
        """Whether nothing but the cost of its messages may keep a client from being read."""
        cells = self.cells
        client = row + SIDE_0
        return not cells[client + ENDED] and not cells[client + SIDE_CELLS + PENDING] and not cells[row + CLOSING_NS]

    def _read_metered(self, row: int, side: int) -> None:
        """Read from a side whose messages cost time; see :class:`Metering`."""
        raise AssertionError("limits alone do not read")
