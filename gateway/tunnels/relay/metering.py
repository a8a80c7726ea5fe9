"""Reading from a side whose messages cost time: no more of them than it may send now (``limiting.py``).

So many bytes are read as could not hold more messages than that. Where these are few, the relay first looks where whole
messages, or TLS records, end: otherwise they would be cut to pieces, and half a record would wait in the process.

Compiled by Cython if a C compiler is available (types in ``metering.pxd``), run as it is otherwise.
"""

from __future__ import annotations

from gateway.protocol.headers import (
    SHORTEST_FRAME,
    end_of_messages,
)
from gateway.protocol.scanner_state import (
    HEADER_LENGTH,
    OPEN,
    REMAINING,
    STATUS,
)
from gateway.protocol.tls.content import (
    HEADER_BYTES,
)
from gateway.protocol.tls.state import (
    HALF,
)
from gateway.tunnels.relay.kernel import COMPILED
from gateway.tunnels.relay.sealed import (
    Sealed,
)
from gateway.tunnels.table.layout import (
    CLOSING_NS,
    DIRTY,
    FD,
    HELD,
    SCANNER,
    SIDE_0,
    SIDE_CELLS,
    TLS,
)

NOT_READ = -1
PEEKED_BELOW = 512
"""If fewer bytes may be read, the socket is peeked into."""

PEEKED_BYTES = 4096
"""How far, at least."""

USUAL_MESSAGE = 1024
"""Bytes: a peek goes as far as so many for each message that is allowed."""

LARGEST_RECORD = 17 * 1024
"""Bytes that no TLS record exceeds (RFC 8446 5.2)."""


class Metering(Sealed):
    """Streams whose messages cost time."""

    def _read_metered(self, row: int, side: int) -> None:
        """Read from a side once, as ``_relay`` does, but no more messages than it may send now."""
        cells = self.cells
        kernel = self.kernel
        here = row + SIDE_0 + side * SIDE_CELLS
        if cells[row + CLOSING_NS] or cells[here + SCANNER + STATUS] != OPEN:
            self._relay(row, side, NOT_READ)
            return
        cells[row + DIRTY] = 1
        if COMPILED:  # ready when the system call returns
            kernel.prefetch(cells, row + SIDE_0 + (1 - side) * SIDE_CELLS)
        messages = max(self._allowed(here), 0)
        rest = cells[here + SCANNER + REMAINING]
        if not messages and not rest:  # since the event came
            self._watch(row, side)
            self.served(row)
            return
        size = min(rest + messages * SHORTEST_FRAME, kernel.receive_bytes)
        if cells[here + TLS]:
            self._read_metered_records(row, side, size)
            return
        is_cut = False
        if messages and size < PEEKED_BELOW and not cells[here + HELD] and not cells[here + SCANNER + HEADER_LENGTH]:
            size = min(rest + max(PEEKED_BYTES, messages * USUAL_MESSAGE), kernel.receive_bytes)
            got = kernel.peek(cells[here + FD], size)
            if got <= 0:
                self._read_nothing(row, side, got)
                return
            is_cut = got == size
            size = end_of_messages(kernel.data, rest, got, messages)
            is_cut = is_cut or size < got
        got = kernel.recv_part(cells[here + FD], size)
        if got <= 0:
            self._read_nothing(row, side, got)
            return
        is_cut = is_cut or got == size
        self._relay(row, side, got)
        if is_cut:
            self._ask_anew(here)  # if it is still to be read

    def _read_metered_records(self, row: int, side: int, size: int) -> None:
        """Read the first TLS record from a side, and more while they fit into ``size`` bytes."""
        cells = self.cells
        kernel = self.kernel
        here = row + SIDE_0 + side * SIDE_CELLS
        half = cells[cells[here + TLS] + HALF]
        if half:
            record = self.halves[2 * row + side]
            most = HEADER_BYTES if half < HEADER_BYTES else HEADER_BYTES + (record[3] << 8 | record[4])
        elif size >= LARGEST_RECORD:
            most = size
        else:
            got = kernel.peek(cells[here + FD], LARGEST_RECORD)
            if got <= 0:
                self._read_records(row, side, kernel.receive_bytes)
                return
            most = self._whole_records(got, size)
        self._read_records(row, side, most)

    def _whole_records(self, got: int, size: int) -> int:
        """Where the first record in the buffer ends, or the last within ``size`` bytes; ``got`` if none is whole."""
        data = self.kernel.data
        pos = 0
        while got - pos >= HEADER_BYTES:
            end = pos + HEADER_BYTES + (data[pos + 3] << 8 | data[pos + 4])
            if end > got or (pos and end > size):
                break
            pos = end
        return pos or got
