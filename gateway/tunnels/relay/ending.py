"""How a tunnel ends: FIN, resets, Close frames of the endpoints' and of the gateway's own, and what is noted of it.

The end as the sides see it:

* FIN of one side is passed on once everything before it was sent, and the other direction lives on.
* ``close_tunnel`` writes a Close frame into both directions, each at its next frame boundary, discards what comes
  after it, and waits for the endpoints' answers.
* A reset of one side is a FIN to the other, which is then read to its end too: to close a connection with bytes unread
  is to reset it, and what it has not received yet would be lost.
* When a backend vanishes, with FIN or a reset and no Close frame before, and the row has a code for that
  (``ON_LOSS_CODE``), the client is told with a Close frame before the FIN, at once or in its turn.
* Whatever takes longer than the route allows is cut: both sockets are closed.

Who began the end and why is noted once, by whichever came first (``_begin_end``).

This file is compiled by Cython where a compiler is at hand (types are in ``ending.pxd``) and runs as it is elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import EHOSTUNREACH, ENETUNREACH, ETIMEDOUT
from typing import TYPE_CHECKING

from gateway.protocol.closing import (
    GOING_AWAY,
)
from gateway.protocol.frames import (
    close_frame,
)
from gateway.protocol.scanner import (
    scan,
)
from gateway.protocol.scanner_state import (
    BROKEN,
    CLOSED,
    HEADER_LENGTH,
    OPEN,
    REMAINING,
    STATUS,
    STOP,
)
from gateway.tunnels.relay.streams import Streams
from gateway.tunnels.table.layout import (
    AT_BOUNDARY,
    BACKEND_SIDE,
    CAUSE,
    CLIENT,
    CLOSE_CODE_SENT,
    CLOSE_FRAME,
    CLOSE_NS,
    CLOSING,
    CLOSING_NS,
    CUT,
    DEADLINE_NS,
    DIRTY,
    DISCARD,
    DRAIN,
    END_IDLE_NS,
    END_QUEUED,
    END_QUIET_NS,
    END_SIDE,
    ENDED,
    FD,
    FIN,
    GATE,
    GATEWAY,
    INITIATOR,
    INTEREST,
    KIND,
    LAST_NS,
    LIVE,
    NEVER,
    NO_OWNER,
    ON_LOSS_CODE,
    PACED_CODE,
    PACED_NS,
    PASS,
    PENDING,
    PHASE,
    PONG_NS,
    RELAYING,
    RESET,
    SCANNER,
    SHUT,
    SIDE_0,
    SIDE_CELLS,
    STATE,
    T_VIOLATIONS,
    TOTAL_CELLS,
    TOTALS,
    WEBSOCKET,
    WRITE_STALL,
    WROTE_NS,
)

if TYPE_CHECKING:
    from gateway.tunnels.relay.kernel import Kernel


class Ending(Streams):
    """The streams of all tunnels of one worker, up to their ends."""

    def __init__(
        self,
        kernel: Kernel,
        cells: memoryview[int],
        descriptors: int,
        on_end: Callable[[int], None],
        on_loss: Callable[[int], int] | None = None,
    ) -> None:
        """
        :param on_end: called with the row of a tunnel that has ended, its sockets being closed already
        :param on_loss: called with the row of a tunnel whose backend has vanished; returns the clock at which the
            client is to be told. At once if absent
        """
        super().__init__(kernel, cells, descriptors)
        self.on_end = on_end
        self.on_loss = on_loss

    # --- the beginning of the end -------------------------------------------------------------------------------------

    def _begin_end(self, row: int, initiator: int, cause: int, about: int) -> None:
        """Note who began the end and why, once, and give the rest of it the time that the route allows.

        :param about: the side that it is about, -1 for neither
        """
        cells = self.cells
        if cells[row + CLOSING_NS]:
            return
        now = self.now
        cells[row + CLOSING_NS] = now
        cells[row + INITIATOR] = initiator
        cells[row + CAUSE] = cause
        cells[row + END_SIDE] = about
        for side in range(2):
            here = row + SIDE_0 + side * SIDE_CELLS
            cells[here + END_IDLE_NS] = now - max(cells[here + LAST_NS], cells[here + PONG_NS])
            cells[here + END_QUIET_NS] = self._quiet(row, side, now)
            cells[here + END_QUEUED] = cells[here + PENDING]
        if cells[row + KIND] == WEBSOCKET:
            cells[row + PACED_NS] = 0  # a drain has come too late for it
        self._look_at(row, self.now + cells[row + CLOSE_NS])

    def _quiet(self, row: int, side: int, now: int) -> int:
        """For how long nothing has gone either way on the connection of a side."""
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        there = row + SIDE_0 + (1 - side) * SIDE_CELLS
        return now - max(cells[here + LAST_NS], cells[here + PONG_NS], cells[there + LAST_NS], cells[here + WROTE_NS])

    def _stream_stopped(self, row: int, side: int) -> None:
        """The scanner of what comes from ``side`` has stopped, with a Close frame or for good."""
        cells = self.cells
        if cells[row + SIDE_0 + side * SIDE_CELLS + SCANNER + STATUS] == BROKEN:
            cells[cells[row + TOTALS] + side * TOTAL_CELLS + T_VIOLATIONS] += 1
        else:
            self._begin_end(row, side, CLOSE_FRAME, side)
            if cells[row + PACED_NS]:
                # A client that closes while it waits to be told that its backend has vanished need not wait longer.
                cells[row + PACED_NS] = self.now
                self._look_at(row, self.now)

    def _fin(self, row: int, side: int) -> None:
        """A side sent FIN: pass it on behind what is pending."""
        self.cells[row + SIDE_0 + side * SIDE_CELLS + ENDED] = 1
        self._begin_end(row, side, FIN, side)
        if side == BACKEND_SIDE and self._note_loss(row):
            self._tell_in_turn(row)
        elif not self._settle(row):
            self._watch(row, side)

    def _failed(self, row: int, side: int, error: int) -> None:
        """A side's connection failed. :param error: a negative errno"""
        if error in (-ETIMEDOUT, -EHOSTUNREACH, -ENETUNREACH) and not self.cells[row + CLOSING_NS]:
            # What was sent to it was not acknowledged for as long as a side may take no bytes.
            code = self.cells[row + ON_LOSS_CODE] if side == BACKEND_SIDE else 0
            self.give_up(row, side, code or GOING_AWAY, WRITE_STALL)
            return
        self._begin_end(row, side, RESET, side)
        vanished = side == BACKEND_SIDE and self.cells[row + SIDE_0 + SIDE_CELLS + ENDED] != 0 and self._note_loss(row)
        self._deaf(row, side)
        if vanished:
            self._tell_in_turn(row)

    def _deaf(self, row: int, side: int) -> None:
        """A side takes no bytes any more. It is read to its end all the same: that may hold a Close frame."""
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        self._begin_end(row, side, RESET, side)
        self._drop_pending(row, side)
        cells[here + GATE] = DISCARD
        cells[here + SHUT] = 1
        if not self._settle(row):
            self._watch(row, side)
            self._watch(row, 1 - side)

    # --- a backend that vanishes --------------------------------------------------------------------------------------

    def _note_loss(self, row: int) -> bool:
        """Note when the client is to be told that its backend's stream is over; until then it gets no FIN.

        False where it is not to be told: somebody had begun the end before, or the stream ended within a frame or could
        not be read as frames, so that no Close frame can stand behind it.
        """
        cells = self.cells
        stream = row + SIDE_0 + SIDE_CELLS + SCANNER
        if (
            not cells[row + ON_LOSS_CODE]
            or cells[row + PHASE] != RELAYING
            or cells[row + INITIATOR] != BACKEND_SIDE
            or cells[stream + STATUS] != OPEN
            or cells[stream + REMAINING]
            or cells[stream + HEADER_LENGTH]
            or cells[row + SIDE_0 + SHUT]
            or cells[row + SIDE_0 + ENDED]
            or cells[row + PACED_NS]
        ):
            return False
        cells[row + PACED_CODE] = cells[row + ON_LOSS_CODE]
        self.called = True
        cells[row + PACED_NS] = self.now if self.on_loss is None else self.on_loss(row)
        return True

    def _tell_in_turn(self, row: int) -> None:
        """Tell the client that its backend has vanished, at once or when its turn comes."""
        cells = self.cells
        if cells[row + PACED_NS] <= self.now:
            self._tell_of_loss(row)
        else:
            self._look_at(row, cells[row + PACED_NS])
            self._watch(row, BACKEND_SIDE)

    def _tell_of_loss(self, row: int) -> None:
        """Write the Close frame for a client whose backend has vanished, and give it the time to answer."""
        cells = self.cells
        cells[row + PACED_NS] = 0
        cells[row + PHASE] = CLOSING
        cells[row + CLOSING_NS] = self.now
        cells[row + CLOSE_CODE_SENT] = cells[row + PACED_CODE]
        cells[row + SIDE_0 + SIDE_CELLS + GATE] = DISCARD
        self._look_at(row, self.now + cells[row + CLOSE_NS])
        self._write_close(row, CLIENT)
        if cells[row + STATE] == LIVE and cells[row + PHASE] != CUT and not self._settle(row):
            self._watch(row, CLIENT)
            self._watch(row, BACKEND_SIDE)

    # --- the end of the end -------------------------------------------------------------------------------------------

    def _settle(self, row: int) -> bool:
        """Do what the state of both sides asks for: send FIN, or end the tunnel. True if it ended."""
        cells = self.cells
        client = row + SIDE_0
        backend = client + SIDE_CELLS
        if cells[client + PENDING] or cells[backend + PENDING]:
            done = False
        elif cells[client + ENDED] and cells[backend + ENDED]:
            done = True
        else:
            done = cells[row + PHASE] == CLOSING and self._said_goodbye(client) and self._said_goodbye(backend)
        if done:
            self.finish(row)
            return True
        self._pass_fin(client, backend)
        if not cells[row + PACED_NS] or cells[row + KIND] != WEBSOCKET:
            self._pass_fin(backend, client)
        return False

    def _pass_fin(self, source: int, sink: int) -> None:
        cells = self.cells
        if cells[source + ENDED] and not cells[sink + SHUT] and not cells[sink + PENDING]:
            self.kernel.shut(cells[sink + FD])
            cells[sink + SHUT] = 1

    def _said_goodbye(self, here: int) -> bool:
        """Whether nothing more need come from a side: it sent a Close frame, or FIN."""
        return self.cells[here + ENDED] != 0 or self.cells[here + SCANNER + STATUS] == CLOSED

    def finish(self, row: int) -> None:
        """End a tunnel now: let both sockets go, and tell the owner. The row is not touched afterwards."""
        cells = self.cells
        for side in range(2):
            here = row + SIDE_0 + side * SIDE_CELLS
            fd = cells[here + FD]
            self._drop_pending(row, side)
            if fd < 0:  # gone already: -1 is not a descriptor that has an owner
                continue
            if cells[here + INTEREST]:
                self.kernel.unwatch(fd)
                cells[here + INTEREST] = 0
            self.owners[fd] = NO_OWNER
            cells[here + FD] = -1
            if cells[here + ENDED] and cells[here + SHUT] and cells[here + GATE] != DISCARD:
                self.closing_fds.append(fd)  # FIN has gone both ways: no connection is left to end
            else:
                self.hang_up(fd)
        cells[row + PHASE] = CUT
        cells[row + DEADLINE_NS] = NEVER
        self.called = True
        self.on_end(row)

    # --- a Close frame of the gateway's own ---------------------------------------------------------------------------

    def close_tunnel(self, row: int, code: int, cause: int) -> None:
        """Close a tunnel with a Close frame to both sides, each at its next frame boundary.

        What can have none (an opaque tunnel, a stream that is broken) just ends, the latter when the time for it is up.
        A tunnel that is ending already is left alone.

        :param code: close code that both sides are told
        :param cause: index into ``layout.CAUSES``
        """
        cells = self.cells
        if cells[row + STATE] != LIVE or cells[row + PHASE] != RELAYING or cells[row + CLOSING_NS]:
            return
        self.now = self.kernel.now()
        cells[row + DIRTY] = 1
        self._begin_end(row, GATEWAY, cause, -1)
        self._close_streams(row, code)
        self.served(row)

    def close_in_turn(self, row: int) -> None:
        """Write the Close frames that ``PACED_NS`` is for: a drain's, or the client's where its backend vanished."""
        cells = self.cells
        if cells[row + STATE] != LIVE or not cells[row + PACED_NS]:
            return
        if cells[row + CLOSING_NS] and cells[row + KIND] != WEBSOCKET:
            self.finish(row)  # half-closed, it could go on for as long as it likes
        elif cells[row + CLOSING_NS]:
            self.now = self.kernel.now()
            self._tell_of_loss(row)
        else:
            cells[row + PACED_NS] = 0
            self.close_tunnel(row, cells[row + PACED_CODE], DRAIN)

    def give_up(self, row: int, side: int, code: int, cause: int) -> None:
        """End a tunnel because a side is dead: that side is let go, the other is told with a Close frame.

        :param code: close code that the other side is told; 0 for none, so that it only gets FIN
        :param cause: index into ``layout.CAUSES``
        """
        cells = self.cells
        if cells[row + CLOSING_NS]:
            self.finish(row)
            return
        self.now = self.kernel.now()
        here = row + SIDE_0 + side * SIDE_CELLS
        cells[row + DIRTY] = 1
        self._begin_end(row, GATEWAY, cause, side)
        self._drop_pending(row, side)
        cells[here + GATE] = DISCARD
        cells[here + SHUT] = 1
        cells[here + ENDED] = 1
        if code:
            self._close_streams(row, code)
        elif not self._settle(row):
            self._watch(row, side)
            self._watch(row, 1 - side)
        self.served(row)

    def _close_streams(self, row: int, code: int) -> None:
        """Begin to write Close frames to those sides that still take something."""
        cells = self.cells
        if cells[row + KIND] != WEBSOCKET:
            self.finish(row)
            return
        cells[row + PHASE] = CLOSING
        cells[row + CLOSE_CODE_SENT] = code
        for side in range(2):
            source = row + SIDE_0 + (1 - side) * SIDE_CELLS + SCANNER
            if cells[source + STATUS] == BROKEN or cells[row + SIDE_0 + side * SIDE_CELLS + SHUT]:
                continue
            if cells[source + REMAINING] or cells[source + HEADER_LENGTH]:
                cells[row + SIDE_0 + side * SIDE_CELLS + GATE] = AT_BOUNDARY
            else:
                self._write_close(row, side)
                if cells[row + STATE] != LIVE or cells[row + PHASE] == CUT:
                    return
        if not self._settle(row):
            self._watch(row, CLIENT)
            self._watch(row, BACKEND_SIDE)

    def _write_close(self, row: int, side: int) -> None:
        """Write the Close frame to a side, whose stream is at a frame boundary; whatever comes later is discarded."""
        cells = self.cells
        cells[row + SIDE_0 + side * SIDE_CELLS + GATE] = DISCARD
        if cells[row + SIDE_0 + (1 - side) * SIDE_CELLS + SCANNER + STATUS] == OPEN:
            mask = os.urandom(4) if side == BACKEND_SIDE else None
            self._write(row, side, close_frame(cells[row + CLOSE_CODE_SENT], "", mask))

    def _pass_on(self, row: int, side: int, got: int, totals: int) -> None:
        """Scan what was read from a side and send it to the other, as far as a Close of the gateway's own lets it."""
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        scanner = here + SCANNER
        gate = row + SIDE_0 + (1 - side) * SIDE_CELLS + GATE
        stopped = cells[scanner + STATUS]
        self._count(here, totals, got)
        start = 0
        if cells[gate] == AT_BOUNDARY:
            start = scan(cells, scanner, totals, self.kernel.data, 0, got, self.now, STOP)
            if cells[scanner + STATUS] == BROKEN:
                cells[gate] = PASS
            self._send(row, 1 - side, start)
            if cells[row + STATE] != LIVE or cells[row + PHASE] == CUT:
                return
            if cells[gate] and not cells[scanner + REMAINING] and not cells[scanner + HEADER_LENGTH]:
                self._write_close(row, 1 - side)
        elif cells[gate] != DISCARD:
            self._send(row, 1 - side, got)
        if start < got and cells[scanner + STATUS] == OPEN:
            scan(cells, scanner, totals, self.kernel.data, start, got, self.now, 0)
        if cells[scanner + STATUS] != stopped:
            self._stream_stopped(row, side)
        if cells[row + PHASE] != CUT:
            self._settle(row)
