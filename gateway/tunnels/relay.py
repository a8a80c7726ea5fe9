"""The relay: what is read from one side of a tunnel is sent to the other, with its frames counted on the way.

For each message: one ``recv`` into the worker's buffer, one scan, one ``send``, and integers in the tunnel's row. What
the socket did not take is copied into a buffer made on demand, and until that is empty the other side is not read:
memory is bounded by the receive buffer, and a slow reader slows its sender down (backpressure).

The end of a tunnel, as the sides see it:

* FIN of one side is passed on once everything before it was sent, and the other direction lives on.
* ``close_tunnel`` writes a Close frame into both directions, each at its next frame boundary, discards what comes
  after it, and waits for the endpoints' answers.
* A reset of one side is a FIN to the other, which is then read to its end too: to close a connection with bytes unread
  is to reset it, and what it has not received yet would be lost.
* When a backend vanishes, with FIN or a reset and no Close frame before, and the row has a code for that
  (``ON_LOSS_CODE``), the client is told with a Close frame before the FIN, at once or in its turn.
* Whatever takes longer than the route allows is cut: both sockets are closed.

Who began the end and why is noted once, by whichever came first (``_begin_end``).

This file is compiled by Cython where a compiler is at hand (types are in ``relay.pxd``) and runs as it is elsewhere.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from errno import EAGAIN, EINTR
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT

from gateway.protocol.frames import close_frame
from gateway.protocol.scanner import scan
from gateway.protocol.scanner_state import BROKEN, CLOSED, HEADER_LENGTH, MASKING, OPEN, REMAINING, STATUS
from gateway.tunnels import kernel
from gateway.tunnels.layout import (
    AT_BOUNDARY,
    BACKEND_SIDE,
    BYTES,
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
    ON_LOSS_CODE,
    OPENED_NS,
    PACED_CODE,
    PACED_NS,
    PASS,
    PENDING,
    PHASE,
    RELAYING,
    RESET,
    ROW_CELLS,
    SCANNER,
    SHUT,
    SIDE_0,
    SIDE_CELLS,
    STALLED_NS,
    STATE,
    T_BYTES,
    T_VIOLATIONS,
    TOTAL_CELLS,
    TOTALS,
    WEBSOCKET,
    WRITE_STALL_NS,
)

REGISTERED = 1 << 30  # in INTEREST: epoll knows the descriptor, whatever it watches it for
NO_OWNER = 0  # where the table's header lies, and no row
NOT_READ = -1
BUSY = 8  # events at a time
TURN = 256  # events before asyncio gets its turn, however busy tunnels are


class Relay:
    """All tunnels of one worker."""

    def __init__(
        self,
        kernel: kernel.Kernel,
        cells: memoryview[int],
        descriptors: int,
        on_end: Callable[[int], None],
        on_loss: Callable[[int], int] | None = None,
    ) -> None:
        """
        :param kernel: the worker's system calls
        :param cells: the shared table
        :param descriptors: one more than the largest descriptor that may be seen
        :param on_end: called with the row of a tunnel that has ended, its sockets being closed already
        :param on_loss: called with the row of a tunnel whose backend has vanished; returns the clock at which the
            client is to be told. At once if absent
        """
        self.kernel = kernel
        self.cells = cells
        # Which row and side a descriptor belongs to: 2 * row + side. Pages of descriptors that never were cost nothing.
        self.owners = memoryview(mmap.mmap(-1, 4 * descriptors)).cast("i")
        self.pending: dict[int, bytearray] = {}
        self.closing_fds: list[int] = []
        self.on_end = on_end
        self.on_loss = on_loss
        self.now = self.kernel.now()

    # --- the loop -----------------------------------------------------------------------------------------------

    def poll(self, timeout_ms: int) -> list[tuple[int, int]]:
        """Wait for events and serve those of tunnels; return the others as (descriptor, event mask)."""
        kernel = self.kernel
        owners = self.owners
        others: list[tuple[int, int]] = []
        can_wait = timeout_ms != 0
        served = 0
        while True:
            # Descriptors that were let go are closed only here, when no event at hand can mean them: their numbers are
            # used again at once.
            if self.closing_fds:
                for fd in self.closing_fds:
                    kernel.close(fd)
                self.closing_fds.clear()
            count = kernel.wait(timeout_ms)
            self.now = self.kernel.now()
            for i in range(count):
                fd = kernel.event_fd(i)
                owner = owners[fd]
                mask = kernel.event_mask(i)
                if owner == NO_OWNER:
                    others.append((fd, mask))
                elif mask == EPOLLIN:
                    self._relay(owner >> 1, owner & 1, NOT_READ)
                else:
                    self._ready(owner >> 1, owner & 1, mask)
            # While much comes in, and nothing of it is asyncio's, asyncio's own work between two waits is saved. It had
            # nothing to do, or it would not have let us wait.
            served += count
            if others or not can_wait or count < BUSY or served > TURN:
                return others
            timeout_ms = 0

    def _ready(self, row: int, side: int, mask: int) -> None:
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        if mask & EPOLLOUT:
            self._flush(row, side)
        if cells[here + INTEREST] & EPOLLIN:
            if mask & (EPOLLIN | EPOLLHUP | EPOLLERR):
                self._relay(row, side, NOT_READ)
        elif mask & (EPOLLHUP | EPOLLERR) and cells[here + ENDED] and cells[row + STATE] == LIVE:
            self._lost(row, side)

    # --- the hot path ---------------------------------------------------------------------------------------------

    def _relay(self, row: int, side: int, got: int) -> None:
        """Read once from a side and send what came to the other.

        :param got: ``NOT_READ``, or how many bytes of the side lie in the buffer already
        """
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        there = row + SIDE_0 + SIDE_CELLS - side * SIDE_CELLS
        cells[row + DIRTY] = 1
        if got == NOT_READ:
            got = self.kernel.recv(cells[here + FD])
            if got <= 0:
                self._read_nothing(row, side, got)
                return
        totals = cells[row + TOTALS] + side * TOTAL_CELLS
        now = self.now
        cells[here + LAST_NS] = now
        cells[here + BYTES] += got
        cells[totals + T_BYTES] += got
        if cells[there + GATE]:
            self._pass_gate(row, side, got, totals)
            return
        if cells[here + SCANNER + STATUS] == OPEN:
            scan(cells, here + SCANNER, totals, self.kernel.data, 0, got, now, False)
            if cells[here + SCANNER + STATUS]:
                self._stream_stopped(row, side)
        if cells[there + PENDING]:
            self._keep(row, 1 - side, self.kernel.buffer[:got])
            return
        sent = self.kernel.send(cells[there + FD], 0, got)
        if sent != got:
            self._sent(row, 1 - side, sent, got)
        elif not cells[here + PENDING]:
            # Nothing of this tunnel is in this process's hands, unless the other direction is stalled.
            cells[row + DIRTY] = 0

    def _read_nothing(self, row: int, side: int, got: int) -> None:
        """There was nothing to read from a side: it sent FIN (0), or ``got`` is a negative errno."""
        cells = self.cells
        if not cells[row + SIDE_0 + PENDING] and not cells[row + SIDE_0 + SIDE_CELLS + PENDING]:
            cells[row + DIRTY] = 0
        if got == 0:
            self._fin(row, side)
        elif got != -EAGAIN and got != -EINTR:
            self._lost(row, side)

    def _send(self, row: int, side: int, end: int) -> None:
        """Send the buffer up to ``end`` to a side, off the hot path: something may be pending for it."""
        there = row + SIDE_0 + side * SIDE_CELLS
        if self.cells[there + PENDING]:
            self._keep(row, side, self.kernel.buffer[:end])
        else:
            self._sent(row, side, self.kernel.send(self.cells[there + FD], 0, end), end)

    def _sent(self, row: int, side: int, sent: int, end: int) -> None:
        """A side's socket took ``sent`` bytes of the buffer up to ``end``, or failed: keep what it did not take."""
        if sent == end:
            if not self.cells[row + SIDE_0 + (1 - side) * SIDE_CELLS + PENDING]:
                self.cells[row + DIRTY] = 0
        elif sent >= 0:
            self._keep(row, side, self.kernel.buffer[sent:end])
        elif sent == -EAGAIN or sent == -EINTR:
            self._keep(row, side, self.kernel.buffer[:end])
        else:
            self._deaf(row, side)

    # --- backpressure ---------------------------------------------------------------------------------------------

    def _keep(self, row: int, side: int, data: bytearray) -> None:
        """Keep bytes for a side whose socket is full, and stop reading the other."""
        cells = self.cells
        there = row + SIDE_0 + side * SIDE_CELLS
        if cells[there + PENDING]:
            self.pending[2 * row + side] += data
        else:
            self.pending[2 * row + side] = data
            cells[there + STALLED_NS] = self.now
            self._look_at(row, self.now + cells[row + WRITE_STALL_NS])
        cells[there + PENDING] = len(self.pending[2 * row + side])
        cells[row + DIRTY] = 1
        self._watch(row, side)
        self._watch(row, 1 - side)

    def _flush(self, row: int, side: int) -> None:
        """Send a side what was kept for it."""
        cells = self.cells
        there = row + SIDE_0 + side * SIDE_CELLS
        if not cells[there + PENDING]:
            return
        data = self.pending[2 * row + side]
        sent = self.kernel.send_bytes(cells[there + FD], data)
        if sent < 0:
            if sent != -EAGAIN and sent != -EINTR:
                self._deaf(row, side)
            return
        del data[:sent]
        cells[there + PENDING] = len(data)
        cells[there + STALLED_NS] = self.now if data else 0
        if not data:
            del self.pending[2 * row + side]
            if not cells[row + SIDE_0 + (1 - side) * SIDE_CELLS + PENDING]:
                cells[row + DIRTY] = 0
            if not self._settle(row):
                self._watch(row, side)
                self._watch(row, 1 - side)

    def _drop_pending(self, row: int, side: int) -> None:
        """Forget what a side that takes nothing any more was to be sent."""
        cells = self.cells
        there = row + SIDE_0 + side * SIDE_CELLS
        if cells[there + PENDING]:
            del self.pending[2 * row + side]
            cells[there + PENDING] = 0
            cells[there + STALLED_NS] = 0
        if not cells[row + SIDE_0 + (1 - side) * SIDE_CELLS + PENDING]:
            cells[row + DIRTY] = 0

    def _watch(self, row: int, side: int) -> None:
        """Have epoll watch a side for what can be done with it now."""
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        there = row + SIDE_0 + (1 - side) * SIDE_CELLS
        events = EPOLLOUT if cells[here + PENDING] else 0
        if not cells[here + ENDED] and (not cells[there + PENDING] or cells[there + GATE] == DISCARD):
            events |= EPOLLIN
        # A descriptor that waits for nothing still reports errors and hang-ups, over and over. That is wanted of a side
        # that sent FIN, as nothing else would tell of its end; a side that is only not read for a while is let go.
        if events or (cells[here + ENDED] and not cells[here + SHUT]):
            events |= REGISTERED
        if events == cells[here + INTEREST]:
            return
        if events:
            self.kernel.watch(cells[here + FD], cells[here + INTEREST] != 0, events & (EPOLLIN | EPOLLOUT))
        else:
            self.kernel.unwatch(cells[here + FD])
        cells[here + INTEREST] = events

    # --- the end --------------------------------------------------------------------------------------------------

    def _begin_end(self, row: int, initiator: int, cause: int) -> None:
        """Note who began the end and why, once, and give the rest of it the time that the route allows."""
        cells = self.cells
        if cells[row + CLOSING_NS]:
            return
        cells[row + CLOSING_NS] = self.now
        cells[row + INITIATOR] = initiator
        cells[row + CAUSE] = cause
        cells[row + PACED_NS] = 0  # a drain has come too late for it
        self._look_at(row, self.now + cells[row + CLOSE_NS])

    def _look_at(self, row: int, when: int) -> None:
        """Have the sweep look at a row at ``when``, if not before."""
        if when < self.cells[row + DEADLINE_NS]:
            self.cells[row + DEADLINE_NS] = when

    def _stream_stopped(self, row: int, side: int) -> None:
        """The scanner of what comes from ``side`` has stopped, with a Close frame or for good."""
        cells = self.cells
        if cells[row + SIDE_0 + side * SIDE_CELLS + SCANNER + STATUS] == BROKEN:
            cells[cells[row + TOTALS] + side * TOTAL_CELLS + T_VIOLATIONS] += 1
        else:
            self._begin_end(row, side, CLOSE_FRAME)
            if cells[row + INITIATOR] == side and cells[row + CAUSE] == RESET:
                # Sending to the side failed while its Close frame was still unread: that is how it ended the tunnel.
                cells[row + CAUSE] = CLOSE_FRAME
            if cells[row + PACED_NS]:
                # A client that closes while it waits to be told that its backend has vanished need not wait longer.
                cells[row + PACED_NS] = self.now
                self._look_at(row, self.now)

    def _fin(self, row: int, side: int) -> None:
        """A side sent FIN: pass it on behind what is pending."""
        self.cells[row + SIDE_0 + side * SIDE_CELLS + ENDED] = 1
        self._begin_end(row, side, FIN)
        if side == BACKEND_SIDE and self._note_loss(row):
            self._tell_in_turn(row)
        elif not self._settle(row):
            self._watch(row, side)

    def _deaf(self, row: int, side: int) -> None:
        """A side takes no bytes any more. It is read to its end all the same: that may hold a Close frame."""
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        self._begin_end(row, side, RESET)
        self._drop_pending(row, side)
        cells[here + GATE] = DISCARD
        cells[here + SHUT] = 1
        if not self._settle(row):
            self._watch(row, side)
            self._watch(row, 1 - side)

    def _lost(self, row: int, side: int) -> None:
        """A side's connection is gone. What is pending for the other side is still sent, and FIN behind it."""
        self.cells[row + SIDE_0 + side * SIDE_CELLS + ENDED] = 1
        self._begin_end(row, side, RESET)
        vanished = side == BACKEND_SIDE and self._note_loss(row)
        self._deaf(row, side)
        if vanished:
            self._tell_in_turn(row)

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
        if not cells[row + PACED_NS]:
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
            if cells[here + INTEREST]:
                self.kernel.unwatch(fd)
                cells[here + INTEREST] = 0
            self._drop_pending(row, side)
            self.owners[fd] = NO_OWNER
            cells[here + FD] = -1
            self.closing_fds.append(fd)
        cells[row + PHASE] = CUT
        cells[row + DEADLINE_NS] = NEVER
        self.on_end(row)

    # --- a Close frame of the gateway's own ------------------------------------------------------------------------

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
        self._begin_end(row, GATEWAY, cause)
        self._close_streams(row, code)

    def close_in_turn(self, row: int) -> None:
        """Write the Close frames that ``PACED_NS`` is for: a drain's, or the client's where its backend vanished."""
        cells = self.cells
        if cells[row + STATE] != LIVE or not cells[row + PACED_NS]:
            return
        if cells[row + CLOSING_NS]:
            self.now = self.kernel.now()
            self._tell_of_loss(row)
        else:
            cells[row + PACED_NS] = 0
            self.close_tunnel(row, cells[row + PACED_CODE], DRAIN)

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

    def give_up_on_stalled(self, row: int, since: int, code: int, cause: int) -> None:
        """End a tunnel because a side takes no bytes: that side is let go, the other is told with a Close frame.

        :param since: sides whose socket has taken nothing since this clock, or longer, are given up
        :param code: close code that the other side is told
        :param cause: index into ``layout.CAUSES``
        """
        cells = self.cells
        if cells[row + CLOSING_NS]:
            self.finish(row)
            return
        self.now = self.kernel.now()
        self._begin_end(row, GATEWAY, cause)
        for side in range(2):
            here = row + SIDE_0 + side * SIDE_CELLS
            if cells[here + STALLED_NS] and cells[here + STALLED_NS] <= since:
                self._drop_pending(row, side)
                cells[here + GATE] = DISCARD
                cells[here + SHUT] = 1
                cells[here + ENDED] = 1
        self._close_streams(row, code)

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
            self.write(row, side, close_frame(cells[row + CLOSE_CODE_SENT], "", mask))

    def _pass_gate(self, row: int, side: int, got: int, totals: int) -> None:
        """As :meth:`_relay`, where a Close of the gateway's own is due or was written."""
        cells = self.cells
        scanner = row + SIDE_0 + side * SIDE_CELLS + SCANNER
        gate = row + SIDE_0 + (1 - side) * SIDE_CELLS + GATE
        stopped = cells[scanner + STATUS]
        start = 0
        if cells[gate] == AT_BOUNDARY:
            start = scan(cells, scanner, totals, self.kernel.data, 0, got, self.now, True)
            if cells[scanner + STATUS] == BROKEN:
                cells[gate] = PASS
            self._send(row, 1 - side, start)
            if cells[row + STATE] != LIVE or cells[row + PHASE] == CUT:
                return
            if cells[gate] and not cells[scanner + REMAINING] and not cells[scanner + HEADER_LENGTH]:
                self._write_close(row, 1 - side)
        if start < got and cells[scanner + STATUS] == OPEN:
            scan(cells, scanner, totals, self.kernel.data, start, got, self.now, False)
        if cells[scanner + STATUS] != stopped:
            self._stream_stopped(row, side)
        if not cells[row + SIDE_0 + PENDING] and not cells[row + SIDE_0 + SIDE_CELLS + PENDING]:
            cells[row + DIRTY] = 0
        if cells[row + PHASE] != CUT:
            self._settle(row)

    # --- for those who open tunnels ----------------------------------------------------------------------------------

    def open(self, row: int, client_fd: int, backend_fd: int) -> None:
        """Begin to relay. The other fields of the row are filled in; epoll watches both descriptors for ``EPOLLIN``.

        :raises OSError: never; what is wrong with a socket shows when it is used
        """
        cells = self.cells
        self.now = self.kernel.now()
        for side in range(2):
            here = row + SIDE_0 + side * SIDE_CELLS
            fd = backend_fd if side else client_fd
            cells[here + FD] = fd
            cells[here + INTEREST] = EPOLLIN | REGISTERED
            cells[here + LAST_NS] = self.now
            cells[here + SCANNER + MASKING] = 1 - side
            if cells[row + KIND] != WEBSOCKET:
                cells[here + SCANNER + STATUS] = BROKEN
            self.owners[fd] = 2 * row + side
        cells[row + OPENED_NS] = self.now
        cells[row + STATE] = LIVE

    def write(self, row: int, side: int, data: bytes) -> None:
        """Send a side bytes of the gateway's own, behind whatever is pending. They are not counted or scanned."""
        cells = self.cells
        there = row + SIDE_0 + side * SIDE_CELLS
        if cells[there + SHUT]:
            return
        if cells[there + PENDING]:
            self._keep(row, side, bytearray(data))
            return
        kept = bytearray(data)
        sent = self.kernel.send_bytes(cells[there + FD], kept)
        if sent < 0 and sent != -EAGAIN and sent != -EINTR:
            self._deaf(row, side)
        elif sent < len(data):
            self._keep(row, side, kept[max(sent, 0) :])

    def feed(self, row: int, side: int, data: bytes) -> None:
        """Relay bytes that were read from a side before the tunnel opened."""
        size = len(self.kernel.buffer)
        for start in range(0, len(data), size):
            if self.cells[row + STATE] != LIVE or self.cells[row + PHASE] == CUT:
                return
            piece = data[start : start + size]
            self.kernel.buffer[: len(piece)] = piece
            self._relay(row, side, len(piece))

    def retire(self, fd: int) -> None:
        """Close a descriptor that epoll no longer watches, once no event at hand can mean it."""
        self.closing_fds.append(fd)

    def due(self, first: int, rows: int, now: int) -> list[int]:
        """Rows whose deadline has come. :param first: the first row. :param rows: how many to look at."""
        cells = self.cells
        found = []
        for row in range(first, first + rows * ROW_CELLS, ROW_CELLS):
            if cells[row + DEADLINE_NS] <= now:
                found.append(row)
        return found
