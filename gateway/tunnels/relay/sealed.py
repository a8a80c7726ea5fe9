"""What comes from a side that uses TLS: records are opened, and the data in them takes the way of all data.

A read may end in the middle of a record. That half waits in a buffer made on demand, and the row stays ``DIRTY``: the
cell ``HALF`` of the session says how many bytes the process holds. Records without data are dealt with here: the answer
to a KeyUpdate (RFC 8446 4.6.3), close_notify (6.1), fatal alerts, and records that are invalid.

Compiled by Cython if a C compiler is available (types in ``sealed.pxd``), run as it is otherwise.
"""

from __future__ import annotations

from errno import ECONNRESET
from typing import TYPE_CHECKING

from gateway.protocol.closing import (
    GOING_AWAY,
)
from gateway.protocol.scanner_state import (
    CLOSED,
    STATUS,
)
from gateway.protocol.tls.content import CLOSED as CLOSE_NOTIFY
from gateway.protocol.tls.content import (
    FATAL_ALERT,
    HEADER_BYTES,
)
from gateway.protocol.tls.state import (
    ANSWER_DUE,
    HALF,
    IN_CLOSED,
)
from gateway.tunnels.relay.kernel import COMPILED
from gateway.tunnels.relay.pinging import (
    Pinging,
)
from gateway.tunnels.table.layout import (
    CLIENT,
    CUT,
    DIRTY,
    ENDED,
    FD,
    KIND,
    LIVE,
    ON_LOSS_CODE,
    PENDING,
    PHASE,
    PONG_NS,
    PROTOCOL_ERROR,
    SCANNER,
    SIDE_0,
    SIDE_CELLS,
    STATE,
    TLS,
    TRUNCATED,
    WEBSOCKET,
)

if TYPE_CHECKING:
    pass

LINE_CELLS = 8
"""Cells of a cache line."""


class Sealed(Pinging):
    """Streams of which either side may use TLS."""

    def _relay(self, row: int, side: int, got: int) -> None:
        """Relay what is in the buffer; see :class:`Reading`."""
        raise AssertionError("records alone are not relayed")

    def _read_nothing(self, row: int, side: int, got: int) -> None:
        """A read returned no bytes; see :class:`Reading`."""
        raise AssertionError("records alone do not end")

    def _read_records(self, row: int, side: int, most: int) -> None:
        """Read once from a TLS side, and relay the data of all records that are whole now. The row is dirty.

        :param most: bytes that may be in the process's hands afterwards, the half of a record from before included
        """
        cells = self.cells
        kernel = self.kernel
        here = row + SIDE_0 + side * SIDE_CELLS
        session = cells[here + TLS]
        if COMPILED:  # ready when the system call returns: version, sequence number, key; and what ``open`` may change
            kernel.prefetch(cells, session)
            kernel.prefetch(cells, session + LINE_CELLS)
            kernel.prefetch(cells, session + HALF)
        if cells[here + ENDED]:  # bytes behind close_notify are ignored (RFC 8446 6.1)
            kernel.recv_wire(cells[here + FD], 0, most)
            self.served(row)
            return
        half = cells[session + HALF]
        if half:
            kernel.wire[:half] = self.halves[2 * row + side]
        got = kernel.recv_wire(cells[here + FD], half, most)
        if got <= 0:
            if got == 0:
                self._note_truncation(row, side)
            self._read_nothing(row, side, got)
            return
        end = half + got
        # Until all of it is dealt with, no other worker may resume from this row.
        cells[session + HALF] = end
        put = self.records.open(cells, session, 0, end, kernel.data, 0)
        event = self.records.event
        alert = self.records.alert
        left = 0 if event else end - self.records.used
        # The first record that is sealed overwrites what is left in ``wire``.
        if left:
            self.halves[2 * row + side] = kernel.wire[end - left : end]
        elif half:
            del self.halves[2 * row + side]
        if put:
            self._relay(row, side, put)
            if cells[row + STATE] != LIVE or cells[row + PHASE] == CUT:
                return
        else:  # a sign of life all the same
            self._end_silence(row, side, False)
            cells[here + PONG_NS] = self.now
        cells[session + HALF] = left
        if event:
            self._end_records(row, side, event, alert)
        else:
            if cells[session + ANSWER_DUE] and not cells[here + PENDING]:
                self._send_message(row, side, self.records.answer(cells, session))
            if end == most:
                self._ask_anew(here)
        self.served(row)

    def complete_record(self, row: int, side: int) -> None:
        """Read what is missing of a record that a TLS side has sent half of, as far as it has come, and nothing behind
        it: so that the tunnel can move."""
        half = self.halves[2 * row + side]
        self.now = self.kernel.now()
        self.cells[row + DIRTY] = 1
        size = HEADER_BYTES
        if len(half) >= HEADER_BYTES:
            size += half[3] << 8 | half[4]
        self._read_records(row, side, size)

    def end_records(self, row: int, side: int) -> None:
        """A side had sent close_notify before the tunnel opened. Call it when all its data is fed."""
        if self.cells[row + STATE] == LIVE and not self.cells[row + SIDE_0 + side * SIDE_CELLS + ENDED]:
            self.now = self.kernel.now()
            self.cells[row + DIRTY] = 1
            self._read_nothing(row, side, 0)

    def _end_records(self, row: int, side: int, event: int, alert: int) -> None:
        """The records of a side have come to their end.

        :param event: of ``Records.open``
        :param alert: what is wrong with them, if they are invalid
        """
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        if event == CLOSE_NOTIFY:
            self._read_nothing(row, side, 0)
        elif event == FATAL_ALERT:
            cells[here + ENDED] = 1
            self._failed(row, side, -ECONNRESET)
        else:
            self._send_message(row, side, self.records.refuse(cells, cells[here + TLS], alert))
            self.kernel.shut(cells[here + FD])
            code = GOING_AWAY if side == CLIENT else cells[row + ON_LOSS_CODE]
            self.give_up(row, side, code if cells[row + KIND] == WEBSOCKET else 0, PROTOCOL_ERROR)

    def _note_truncation(self, row: int, side: int) -> None:
        """A side sent FIN without close_notify: data may be missing, unless its last message was a Close frame."""
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        if not cells[cells[here + TLS] + IN_CLOSED] and cells[here + SCANNER + STATUS] != CLOSED:
            cells[row + TRUNCATED] |= 1 << side

    def _hold_half(self, row: int, side: int, data: bytes) -> None:
        """Hold half a record of a side that another process, or the handshake, has read."""
        session = self.cells[row + SIDE_0 + side * SIDE_CELLS + TLS]
        if session:
            self.cells[session + HALF] = len(data)
            if data:
                self.halves[2 * row + side] = bytearray(data)
