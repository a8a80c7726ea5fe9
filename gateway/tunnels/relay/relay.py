"""The relay: reads from one side of a tunnel, counts frames, sends to the other side.

A message costs one ``recv`` into the worker's buffer, one scan, one ``send``, and a few integers in the tunnel's row.
Bytes that the socket does not take are copied into a buffer made on demand, and the other side is not read until that
buffer is empty (backpressure): memory is bounded by the receive buffer, and a slow reader slows its sender down.

The class is built in nine files: ``streams.py`` sends and buffers, ``ending.py`` ends tunnels, ``failing.py`` ends
those that raise, ``limiting.py`` bounds them, ``pinging.py`` keeps them alive, ``sealed.py`` reads TLS records,
``metering.py`` reads a few messages, ``reading.py`` waits, reads and dispatches, and this file opens tunnels and moves
them between processes.

A worker may be killed between any two instructions. Its successor resumes each tunnel from the row and from the two
connections, which the supervisor holds as well (``adopt``). No byte is lost, repeated or reordered, because of
``DIRTY``:

* Code that serves a tunnel (an event, the sweep, a Close frame) sets it before it reads, sends or changes anything,
  and clears it after the last ``send`` and the last change. The calls in between are opaque to the compiler, so the
  order of the writes is kept, and other processes see everything a dead process wrote.
* It is cleared only while no bytes are pending and no half of a TLS record is held. A clean row therefore belongs to a
  tunnel with no bytes in flight in any process: everything read was sent, the scanners and the TLS sessions match the
  streams, and the kernel delivers what was sent.
* A dirty row is never resumed. Its streams end where they are: each peer has received a prefix of what the other sent,
  with no gap in it.

Compiled by Cython if a C compiler is available (types in ``relay.pxd``), run as it is otherwise.
"""

from __future__ import annotations

from select import EPOLLIN

from gateway.protocol.scanner_state import (
    BROKEN,
    MASKING,
    PEER,
    STATUS,
)
from gateway.tunnels.relay.deadlines import (
    next_deadline,
)
from gateway.tunnels.relay.reading import (
    Reading,
)
from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    CLIENT,
    CUT,
    DEADLINE_NS,
    DIRTY,
    EXPIRES_NS,
    FD,
    FRAME_LIMIT,
    GATE,
    INTEREST,
    KIND,
    LAST_NS,
    LIMITED,
    LIVE,
    MESSAGE_NS,
    NEVER,
    NO_OWNER,
    OPENED_NS,
    PENDING,
    PHASE,
    REGISTERED,
    RELEASED,
    SCANNER,
    SECOND,
    SIDE_0,
    SIDE_CELLS,
    STATE,
    WEBSOCKET,
)


class Relay(Reading):
    """All tunnels of one worker."""

    # --- for those who open tunnels -----------------------------------------------------------------------------------

    def open(
        self,
        row: int,
        client_fd: int,
        backend_fd: int,
        client_pending: bytes = b"",
        backend_pending: bytes = b"",
        client_half: bytes = b"",
        backend_half: bytes = b"",
    ) -> None:
        """Begin to relay. The other fields of the row are filled in, and the sessions of sides that use TLS
        (``Slice.begin_session``). epoll watches both descriptors for ``READING``, re-armed if the last read from one
        may have left bytes.

        :param client_pending: bytes that the client's socket did not take yet, sealed if it uses TLS;
            ``backend_pending`` likewise
        :param client_half: the half of a TLS record that was read from the client; ``backend_half`` likewise
        :raises OSError: never; a socket that failed shows when it is used
        """
        cells = self.cells
        self.now = self.kernel.now()
        cells[row + DIRTY] = 1
        for side in range(2):
            here = row + SIDE_0 + side * SIDE_CELLS
            fd = backend_fd if side else client_fd
            cells[here + FD] = fd
            cells[here + INTEREST] = EPOLLIN | REGISTERED
            cells[here + LAST_NS] = self.now
            cells[here + SCANNER + MASKING] = 1 - side
            cells[here + SCANNER + PEER] = -SIDE_CELLS if side else SIDE_CELLS
            if cells[row + KIND] != WEBSOCKET:
                cells[here + SCANNER + STATUS] = BROKEN
            elif cells[here + FRAME_LIMIT]:
                cells[row + SIDE_0 + (1 - side) * SIDE_CELLS + GATE] = LIMITED
            self.owners[fd] = 2 * row + side
            if cells[here + MESSAGE_NS]:
                self._ask_anew(here)
        cells[row + OPENED_NS] = self.now
        if cells[row + EXPIRES_NS] < self.now + SECOND:  # maybe before the next walk of the sweep
            self.wake_at(cells[row + EXPIRES_NS], row)
        cells[row + DEADLINE_NS] = min(next_deadline(cells, row), NEVER)
        cells[row + STATE] = LIVE
        self._hold_half(row, CLIENT, client_half)
        self._hold_half(row, BACKEND_SIDE, backend_half)
        if client_pending:
            self._keep(row, CLIENT, bytearray(client_pending))
        if backend_pending:
            self._keep(row, BACKEND_SIDE, bytearray(backend_pending))
        self.served(row)

    def feed(self, row: int, side: int, data: bytes) -> None:
        """Relay bytes that were read from a side before the tunnel opened.

        Until all are fed they are in no row, so the supervisor must not be given the connections before that.
        """
        size = self.kernel.receive_bytes
        for start in range(0, len(data), size):
            if self.cells[row + STATE] != LIVE or self.cells[row + PHASE] == CUT:
                return
            piece = data[start : start + size]
            self.kernel.buffer[: len(piece)] = piece
            self._relay(row, side, len(piece))

    def adopt(
        self,
        row: int,
        client_fd: int,
        backend_fd: int,
        client_pending: bytes = b"",
        backend_pending: bytes = b"",
        client_half: bytes = b"",
        backend_half: bytes = b"",
    ) -> None:
        """Resume a tunnel that another process has stopped serving. Its row is whole.

        :param client_pending: bytes that process still had for the client; ``backend_pending`` likewise. After a crash
            there are none, and the row must be clean
        :param client_half: the half of a TLS record that it had read from the client; ``backend_half`` likewise
        :raises OSError: epoll does not take a descriptor; the caller ends the tunnel with :meth:`finish`
        """
        cells = self.cells
        # If this tunnel crashes the process, the next successor finds the row dirty and drops it.
        cells[row + DIRTY] = 1
        for side in range(2):
            here = row + SIDE_0 + side * SIDE_CELLS
            fd = backend_fd if side else client_fd
            pending = backend_pending if side else client_pending
            cells[here + FD] = fd
            cells[here + INTEREST] = 0
            cells[here + PENDING] = len(pending)
            if pending:
                self.pending[2 * row + side] = bytearray(pending)
            self._hold_half(row, side, backend_half if side else client_half)
            self.owners[fd] = 2 * row + side
        cells[row + DEADLINE_NS] = next_deadline(cells, row)
        self._watch(row, CLIENT)
        self._watch(row, BACKEND_SIDE)
        if cells[row + SIDE_0 + MESSAGE_NS]:
            self._wait_to_speak(row)
        self.served(row)

    # --- for those who hand tunnels over ------------------------------------------------------------------------------

    def release(self, row: int) -> list[bytes]:
        """Stop serving a tunnel so that another process can. :meth:`resume` or :meth:`disown` must follow.

        :returns: bytes pending for the client and for the backend, and halves of records from the one and the other
        """
        cells = self.cells
        found = []
        halves = []
        for side in range(2):
            here = row + SIDE_0 + side * SIDE_CELLS
            if cells[here + INTEREST] and cells[here + FD] >= 0:
                self.kernel.unwatch(cells[here + FD])
                cells[here + INTEREST] = 0
            found.append(bytes(self.pending[2 * row + side]) if cells[here + PENDING] else b"")
            halves.append(bytes(self.halves.get(2 * row + side, b"")))
        cells[row + STATE] = RELEASED
        return found + halves

    def flush(self, row: int, side: int) -> None:
        """Send a side its pending bytes, as many as its socket takes."""
        self.now = self.kernel.now()
        self.cells[row + DIRTY] = 1
        self._flush(row, side)
        self.served(row)

    def resume(self, row: int) -> None:
        """Serve a released tunnel again: no other process took it."""
        self.cells[row + STATE] = LIVE
        self._watch(row, CLIENT)
        self._watch(row, BACKEND_SIDE)
        if self.cells[row + SIDE_0 + MESSAGE_NS]:
            self._wait_to_speak(row)

    def disown(self, row: int) -> None:
        """Drop a released tunnel that another process serves now. Connections stay open; the caller frees the row."""
        cells = self.cells
        for side in range(2):
            here = row + SIDE_0 + side * SIDE_CELLS
            self.pending.pop(2 * row + side, None)
            self._drop_half(row, side)
            cells[here + PENDING] = 0
            if cells[here + FD] >= 0:
                self.owners[cells[here + FD]] = NO_OWNER
            self.retire(cells[here + FD])
            cells[here + FD] = -1
