"""The gateway's own Pings: inserted between the endpoints' frames, their Pongs removed again (RFC 6455 5.5.2, 5.5.3).

``ping`` writes a Ping at a frame boundary, ``_sift`` removes the Pong that answers it, and finds frames that a limit
refuses (``limiting.py``). A Pong that arrives in pieces is held back until it is whole. ``protocol/pings.py`` defines
both frames, ``sweep.py`` decides when one is due.

Compiled by Cython if a C compiler is available (types in ``pinging.pxd``), run as it is otherwise.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from typing import TYPE_CHECKING

from gateway.protocol.closing import (
    BROKE_PROTOCOL,
    TOO_LARGE,
)
from gateway.protocol.headers import PARTIAL as PARTIAL_HEADER
from gateway.protocol.headers import (
    announced,
)
from gateway.protocol.pings import (
    NOT_OURS,
    PARTIAL,
    own_pong,
    ping_frame,
    pong_size,
)
from gateway.protocol.scanner import (
    scan,
)
from gateway.protocol.scanner_state import (
    BROKEN,
    CLOSED,
    EXTENDED,
    HEADER_LENGTH,
    MESSAGE,
    OPEN,
    PASS_ONE,
    REMAINING,
    STATUS,
    STOP,
)
from gateway.tunnels.relay.deadlines import (
    asked_at,
    next_deadline,
)
from gateway.tunnels.relay.limiting import (
    Limiting,
)
from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    CLIENT,
    CLOSING_NS,
    DEADLINE_NS,
    DIRTY,
    FRAME_LIMIT,
    GAP_BOUNDS_NS,
    GATE,
    HELD,
    HELD_HIGH,
    HELD_LOW,
    LAST_NS,
    LIMITED,
    LIVE,
    MESSAGE_NS,
    NETWORK,
    PASS,
    PENDING,
    PING_AFTER_NS,
    PING_TAG,
    PINGED_NS,
    PINGS_ANSWERED,
    PINGS_SENT,
    PONG_DUE,
    PONG_NS,
    PONG_TIMEOUT_NS,
    RTT_BOUNDS_NS,
    RTT_NS,
    SCANNER,
    SECOND,
    SIDE_0,
    SIDE_CELLS,
    SILENCE_NS,
    STATE,
    T_GAPS,
    T_GAPS_SUM_NS,
    T_PINGS,
    T_PONGS,
    T_RTT_SUM_NS,
    T_RTTS,
    TALKS,
    TOTAL_CELLS,
    TOTALS,
    WROTE_NS,
)

if TYPE_CHECKING:
    pass


OPCODE_BITS = 0x0F


class Pinging(Limiting):
    """Streams that are kept alive."""

    def ping(self, row: int, side: int) -> bool:
        """Send a side a Ping. False if it may not be sent now: inside a frame, or while a Ping is unanswered."""
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        there = row + SIDE_0 + (1 - side) * SIDE_CELLS
        toward = there + SCANNER  # the stream the Ping is inserted into
        if (
            cells[row + STATE] != LIVE
            or cells[row + CLOSING_NS]
            or cells[here + PENDING]
            or cells[here + GATE] not in (PASS, PONG_DUE, LIMITED)
            or cells[there + GATE] not in (PASS, PONG_DUE, LIMITED)
            or cells[toward + STATUS] != OPEN
            or cells[here + SCANNER + STATUS] != OPEN
            or cells[toward + REMAINING]
            or cells[toward + HEADER_LENGTH]
            # Many libraries lose track of compression when a control frame comes between fragments.
            or cells[toward + MESSAGE] == EXTENDED
        ):
            return False
        self.now = now = self.kernel.now()
        asked = asked_at(cells, row, side)
        if asked and now < asked + cells[here + PONG_TIMEOUT_NS]:
            return False
        # Until the Ping is sent, no other worker may resume from this row.
        cells[row + DIRTY] = 1
        quiet = self._quiet(row, side, now)
        if quiet >= SECOND and quiet > cells[here + SILENCE_NS]:
            cells[here + SILENCE_NS] = quiet
        if not cells[here + PING_TAG]:
            cells[here + PING_TAG] = int.from_bytes(os.urandom(4), "big") | 1
        number = cells[here + PINGS_SENT] + 1
        cells[here + PINGS_SENT] = number
        cells[here + PINGED_NS] = now
        cells[here + WROTE_NS] = now
        cells[there + GATE] = PONG_DUE
        cells[cells[row + TOTALS] + side * TOTAL_CELLS + T_PINGS] += 1
        mask = int.from_bytes(os.urandom(4), "big") if side == BACKEND_SIDE else -1
        self._write(row, side, ping_frame(cells[here + PING_TAG], number, mask))
        self.served(row)
        return True

    # --- frame by frame -----------------------------------------------------------------------------------------------

    def _sift(self, row: int, side: int, got: int, totals: int) -> int:
        """Scan what was read from a side, where Pongs for the gateway are awaited or frames are limited. Remove those
        Pongs, and find the first frame that a limit refuses.

        Bytes that may begin such a Pong or frame are held back in the row, unscanned.

        :returns: how many bytes go to the other side. If ``refusal`` is not 0, a refused frame begins behind them, and
            ``left`` bytes of it are there
        """
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        scanner = here + SCANNER
        masked = side == CLIENT
        limit = cells[here + FRAME_LIMIT]
        data = self.kernel.data
        now = self.now
        pos = messages = size = 0
        self.refusal = 0
        while (
            pos < got
            and cells[scanner + STATUS] != BROKEN
            and (limit or cells[here + PINGS_ANSWERED] != cells[here + PINGS_SENT])
        ):
            if cells[scanner + REMAINING] or cells[scanner + HEADER_LENGTH]:
                pos = scan(cells, scanner, totals, data, pos, got, now, STOP)
                continue
            number = NOT_OURS
            if cells[here + PINGS_ANSWERED] != cells[here + PINGS_SENT]:
                number = own_pong(
                    data,
                    pos,
                    got,
                    masked,
                    cells[here + PING_TAG],
                    cells[here + PINGS_ANSWERED],
                    cells[here + PINGS_SENT],
                )
            if limit and number == NOT_OURS:
                size = announced(data, pos, got)
            if number == NOT_OURS and cells[scanner + STATUS] == CLOSED:
                # A Pong may directly follow a Close frame; anything else after Close is ignored (RFC 6455 5.5.1).
                cells[here + PINGS_ANSWERED] = cells[here + PINGS_SENT]
                if limit:
                    got = pos
            elif number == PARTIAL or (limit and number == NOT_OURS and size == PARTIAL_HEADER):
                self._end_silence(row, side, False)
                cells[here + PONG_NS] = now
                self._hold(here, pos, got)
                got = pos
            elif number != NOT_OURS:
                size = pong_size(masked)
                if pos + size < got:
                    buffer = self.kernel.buffer
                    buffer[pos : got - size] = buffer[pos + size : got]
                got -= size
                self._answered(row, side, number, totals)
            elif limit and size > limit:
                self.refusal = TOO_LARGE
                self.left = got - pos
                got = pos
            elif limit:
                messages += data[pos] & OPCODE_BITS != 0  # continuations go with their message (RFC 6455 5.4)
                size = scan(cells, scanner, totals, data, pos, got, now, PASS_ONE)
                if cells[scanner + STATUS] == BROKEN:
                    self.refusal = BROKE_PROTOCOL
                    self.left = got - pos
                    got = pos
                else:
                    pos = size
            else:
                pos = scan(cells, scanner, totals, data, pos, got, now, PASS_ONE)
        if pos < got and cells[scanner + STATUS] == OPEN:
            scan(cells, scanner, totals, data, pos, got, now, 0)
        if cells[here + PINGS_ANSWERED] == cells[here + PINGS_SENT]:
            cells[row + SIDE_0 + (1 - side) * SIDE_CELLS + GATE] = LIMITED if limit else PASS
        if cells[here + MESSAGE_NS]:
            self._charge(row, side, messages)
        return got

    # --- Pongs --------------------------------------------------------------------------------------------------------

    def _answered(self, row: int, side: int, number: int, totals: int) -> None:
        """A side answered one of the gateway's Pings."""
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        now = self.now
        self._end_silence(row, side, False)
        cells[here + PINGS_ANSWERED] = number
        cells[here + PONG_NS] = now
        cells[totals + T_PONGS] += 1
        if number == cells[here + PINGS_SENT] and cells[here + PINGED_NS]:
            rtt = now - cells[here + PINGED_NS]
            cells[here + RTT_NS] = rtt
            cells[here + PINGED_NS] = 0
            cells[totals + T_RTT_SUM_NS] += rtt
            cells[totals + T_RTTS + bisect_left(RTT_BOUNDS_NS, rtt)] += 1
        cells[row + DEADLINE_NS] = next_deadline(cells, row)

    def _hold(self, here: int, start: int, end: int) -> None:
        """Hold back bytes that may begin a Pong for the gateway, or a frame that is too large."""
        held = bytes(self.kernel.buffer[start:end]).ljust(16, b"\0")
        self.cells[here + HELD] = end - start
        self.cells[here + HELD_LOW] = int.from_bytes(held[:8], "little", signed=True)
        self.cells[here + HELD_HIGH] = int.from_bytes(held[8:], "little", signed=True)

    def _unhold(self, here: int, got: int) -> int:
        """Put the bytes held back in front of those just read; return how many there are together."""
        cells = self.cells
        size = cells[here + HELD]
        held = cells[here + HELD_LOW].to_bytes(8, "little", signed=True) + cells[here + HELD_HIGH].to_bytes(
            8, "little", signed=True
        )
        buffer = self.kernel.buffer
        buffer[size : size + got] = buffer[:got]
        buffer[:size] = held[:size]
        cells[here + HELD] = 0
        return size + got

    # --- silences -----------------------------------------------------------------------------------------------------

    def _end_silence(self, row: int, side: int, passed: bool) -> None:
        """Bytes came from a side. Call before updating ``LAST_NS``; ignored once the end has begun.

        :param passed: whether they go to the other side: false for a Pong to the gateway
        """
        cells = self.cells
        if cells[row + CLOSING_NS]:
            return
        here = row + SIDE_0 + side * SIDE_CELLS
        there = row + SIDE_0 + (1 - side) * SIDE_CELLS
        now = self.now
        if passed:
            quiet = self._quiet(row, 1 - side, now)
            if quiet >= SECOND and quiet > cells[there + SILENCE_NS]:
                cells[there + SILENCE_NS] = quiet
            talks = now - cells[here + LAST_NS] < cells[here + PING_AFTER_NS]
            cells[here + TALKS] = cells[here + TALKS] + 1 if talks else 0
        gap = now - max(cells[here + LAST_NS], cells[here + PONG_NS])
        if gap < SECOND:
            return
        totals = cells[row + TOTALS] + side * TOTAL_CELLS
        cells[totals + T_GAPS_SUM_NS] += gap
        cells[totals + T_GAPS + bisect_left(GAP_BOUNDS_NS, gap)] += 1
        silence = cells[here + SILENCE_NS]
        if silence:
            cells[here + SILENCE_NS] = 0
            if cells[here + NETWORK]:
                self.called = True
                self.owner.side_answered(row, side, silence)
        if passed:
            cells[here + LAST_NS] = now
        else:
            cells[here + PONG_NS] = now
        # Update the deadline as well, or the sweep plans a Ping that is no longer due.
        cells[row + DEADLINE_NS] = next_deadline(cells, row)
