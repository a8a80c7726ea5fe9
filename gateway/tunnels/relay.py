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

Between the endpoints' frames the gateway writes Pings of its own (``ping``), and takes the Pongs that answer them out
of the stream again (``_take_pongs``): the bytes of one that TCP cut are held back until it is whole.

Who began the end and why is noted once, by whichever came first (``_begin_end``).

A worker may be killed between any two instructions, and its successor carries the tunnel on from the row and the two
connections, which the supervisor holds too (``adopt``). That gives every byte once and in order because of ``DIRTY``:

* Whatever serves a tunnel (an event, the sweep, a Close frame) writes 1 there before it reads, sends or changes
  anything, and 0 when it is through, which is after the last ``send`` and after the last change. The calls between
  are opaque to the compiler, so it keeps this order, and what a dead process has written is there for all to see.
* 0 is written only while no bytes are pending. So a row with 0 belongs to a tunnel of which no process had a byte in
  hand: what was read was sent, the scanners stand where the streams stand, and the kernel delivers what was sent.
* A row with 1 is never carried on. Its streams end where they are, and each peer has received what came first of what
  the other one sent, with nothing left out before the end.

This file is compiled by Cython where a compiler is at hand (types are in ``relay.pxd``) and runs as it is elsewhere.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left
from collections.abc import Callable
from errno import EAGAIN, EHOSTUNREACH, EINTR, ENETUNREACH, ETIMEDOUT
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT

from gateway.protocol.closing import GOING_AWAY
from gateway.protocol.frames import close_frame
from gateway.protocol.pings import NOT_OURS, PARTIAL, own_pong, ping_frame, pong_size
from gateway.protocol.scanner import scan
from gateway.protocol.scanner_state import (
    BROKEN,
    CLOSED,
    EXTENDED,
    HEADER_LENGTH,
    MASKING,
    MESSAGE,
    OPEN,
    PASS_ONE,
    PEER,
    REMAINING,
    STATUS,
    STOP,
)
from gateway.tunnels import kernel
from gateway.tunnels.deadlines import asked_at, next_deadline
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
    END_IDLE_NS,
    END_QUEUED,
    END_QUIET_NS,
    END_SIDE,
    ENDED,
    FD,
    FIN,
    GAP_BOUNDS_NS,
    GATE,
    GATEWAY,
    HELD,
    HELD_HIGH,
    HELD_LOW,
    INITIATOR,
    INTEREST,
    KIND,
    LAST_NS,
    LIVE,
    NETWORK,
    NEVER,
    ON_LOSS_CODE,
    OPENED_NS,
    PACED_CODE,
    PACED_NS,
    PASS,
    PENDING,
    PHASE,
    PING_AFTER_NS,
    PING_TAG,
    PINGED_NS,
    PINGS_ANSWERED,
    PINGS_SENT,
    PONG_DUE,
    PONG_NS,
    PONG_TIMEOUT_NS,
    RELAYING,
    RELEASED,
    RESET,
    RTT_BOUNDS_NS,
    RTT_NS,
    SCANNER,
    SECOND,
    SHUT,
    SIDE_0,
    SIDE_CELLS,
    SILENCE_NS,
    STALLED_NS,
    STATE,
    T_BYTES,
    T_GAPS,
    T_GAPS_SUM_NS,
    T_PINGS,
    T_PONGS,
    T_RTT_SUM_NS,
    T_RTTS,
    T_VIOLATIONS,
    TOTAL_CELLS,
    TOTALS,
    WEBSOCKET,
    WRITE_STALL,
    WRITE_STALL_NS,
    WROTE_NS,
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
        on_answer: Callable[[int, int, int], None] = lambda row, side, silence_ns: None,
        on_loss: Callable[[int], int] | None = None,
    ) -> None:
        """
        :param kernel: the worker's system calls
        :param cells: the shared table
        :param descriptors: one more than the largest descriptor that may be seen
        :param on_end: called with the row of a tunnel that has ended, its sockets being closed already
        :param on_answer: called with row, side and nanoseconds when a side whose interval is learned has answered what
            was sent to it after such a silence of its connection
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
        self.on_answer = on_answer
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
        cells[row + DIRTY] = 1
        if mask & EPOLLOUT:
            self._flush(row, side)
        if cells[here + INTEREST] & EPOLLIN:
            if mask & (EPOLLIN | EPOLLHUP | EPOLLERR):
                self._relay(row, side, NOT_READ)
        elif mask & (EPOLLHUP | EPOLLERR) and cells[here + ENDED] and cells[row + STATE] == LIVE:
            self._deaf(row, side)
        self.served(row)

    def served(self, row: int) -> None:
        """Note that a tunnel's row and its connections agree again, as they do between two events.

        Whoever sets ``DIRTY`` calls this in the end. While bytes are pending the row stays dirty.
        """
        cells = self.cells
        if not cells[row + SIDE_0 + PENDING] and not cells[row + SIDE_0 + SIDE_CELLS + PENDING]:
            cells[row + DIRTY] = 0

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
        if cells[there + GATE]:
            self._pass_gate(row, side, got, totals)
            return
        now = self.now
        if now - cells[here + LAST_NS] >= SECOND:
            self._end_silence(row, side, True)
        cells[here + LAST_NS] = now
        cells[here + BYTES] += got
        cells[totals + T_BYTES] += got
        if cells[here + SCANNER + STATUS] == OPEN:
            scan(cells, here + SCANNER, totals, self.kernel.data, 0, got, now, 0)
            if cells[here + SCANNER + STATUS]:
                self._stream_stopped(row, side)
        if cells[there + PENDING]:
            self._keep(row, 1 - side, self.kernel.buffer[:got])
            return
        sent = self.kernel.send(cells[there + FD], 0, got)
        if sent != got:
            self._sent(row, 1 - side, sent, got)
            self.served(row)
        elif not cells[here + PENDING]:
            # Nothing of this tunnel is in this process's hands, unless the other direction is stalled.
            cells[row + DIRTY] = 0

    def _read_nothing(self, row: int, side: int, got: int) -> None:
        """There was nothing to read from a side: it sent FIN (0), or ``got`` is a negative errno."""
        cells = self.cells
        if got == -EAGAIN or got == -EINTR:
            self.served(row)
            return
        if cells[row + SIDE_0 + side * SIDE_CELLS + HELD]:
            # No Pong that is whole, after all.
            released = self._unhold(row + SIDE_0 + side * SIDE_CELLS, 0)
            self._pass_on(row, side, released, cells[row + TOTALS] + side * TOTAL_CELLS)
            if cells[row + STATE] != LIVE or cells[row + PHASE] == CUT:
                return
        if got == 0:
            self._fin(row, side)
        else:
            cells[row + SIDE_0 + side * SIDE_CELLS + ENDED] = 1
            self._failed(row, side, got)
        self.served(row)

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
            return
        if sent >= 0:
            self._keep(row, side, self.kernel.buffer[sent:end])
        elif sent == -EAGAIN or sent == -EINTR:
            self._keep(row, side, self.kernel.buffer[:end])
        else:
            self._failed(row, side, sent)

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
                self._failed(row, side, sent)
            return
        del data[:sent]
        cells[there + PENDING] = len(data)
        cells[there + STALLED_NS] = self.now if data else 0
        if not data:
            del self.pending[2 * row + side]
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
            self.hang_up(fd)
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
        cells[row + DIRTY] = 1
        self._begin_end(row, GATEWAY, cause, -1)
        self._close_streams(row, code)
        self.served(row)

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

    def _pass_gate(self, row: int, side: int, got: int, totals: int) -> None:
        """As :meth:`_relay`, where a Close of the gateway's own is due or was written, or a Pong is waited for."""
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        if cells[here + HELD]:
            got = self._unhold(here, got)
        if cells[row + SIDE_0 + (1 - side) * SIDE_CELLS + GATE] == PONG_DUE:
            stopped = cells[here + SCANNER + STATUS]
            got = self._take_pongs(row, side, got, totals)
            if got:
                self._end_silence(row, side, True)
                self._count(here, totals, got)
                if cells[here + SCANNER + STATUS] != stopped:
                    self._stream_stopped(row, side)
                self._send(row, 1 - side, got)
        else:
            self._end_silence(row, side, True)
            self._pass_on(row, side, got, totals)
        self.served(row)

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

    def _count(self, here: int, totals: int, got: int) -> None:
        self.cells[here + LAST_NS] = self.now
        self.cells[here + BYTES] += got
        self.cells[totals + T_BYTES] += got

    # --- Pings of the gateway's own --------------------------------------------------------------------------------

    def ping(self, row: int, side: int) -> bool:
        """Send a side a Ping. False where it may not be: a frame is under way, or the side is being asked already."""
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        there = row + SIDE_0 + (1 - side) * SIDE_CELLS
        toward = there + SCANNER  # the stream that the Ping goes into
        if (
            cells[row + STATE] != LIVE
            or cells[row + CLOSING_NS]
            or cells[here + PENDING]
            or cells[here + GATE] not in (PASS, PONG_DUE)
            or cells[there + GATE] not in (PASS, PONG_DUE)
            or cells[toward + STATUS] != OPEN
            or cells[here + SCANNER + STATUS] != OPEN
            or cells[toward + REMAINING]
            or cells[toward + HEADER_LENGTH]
            # Many libraries forget that a message is compressed when a control frame comes between its fragments.
            or cells[toward + MESSAGE] == EXTENDED
        ):
            return False
        self.now = now = self.kernel.now()
        asked = asked_at(cells, row, side)
        if asked and now < asked + cells[here + PONG_TIMEOUT_NS]:
            return False
        # From here on the row is another worker's to carry on only once the Ping is out.
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

    def _take_pongs(self, row: int, side: int, got: int, totals: int) -> int:
        """Scan what was read from a side, and take Pongs for the gateway out of it; return how many bytes are left.

        What may be the beginning of one is held back in the row, and is not scanned.
        """
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        scanner = here + SCANNER
        masked = side == CLIENT
        data = self.kernel.data
        now = self.now
        pos = 0
        while (
            pos < got and cells[scanner + STATUS] != BROKEN and cells[here + PINGS_ANSWERED] != cells[here + PINGS_SENT]
        ):
            if cells[scanner + REMAINING] or cells[scanner + HEADER_LENGTH]:
                pos = scan(cells, scanner, totals, data, pos, got, now, STOP)
                continue
            number = own_pong(
                data, pos, got, masked, cells[here + PING_TAG], cells[here + PINGS_ANSWERED], cells[here + PINGS_SENT]
            )
            if number == NOT_OURS and cells[scanner + STATUS] == CLOSED:
                # A side that has said Close may still answer, at once. What else it says is not looked at.
                cells[here + PINGS_ANSWERED] = cells[here + PINGS_SENT]
            elif number == NOT_OURS:
                pos = scan(cells, scanner, totals, data, pos, got, now, PASS_ONE)
            elif number == PARTIAL:
                self._end_silence(row, side, False)
                cells[here + PONG_NS] = now
                self._hold(here, pos, got)
                got = pos
            else:
                size = pong_size(masked)
                if pos + size < got:
                    buffer = self.kernel.buffer
                    buffer[pos : got - size] = buffer[pos + size : got]
                got -= size
                self._answered(row, side, number, totals)
        if pos < got and cells[scanner + STATUS] == OPEN:
            scan(cells, scanner, totals, data, pos, got, now, 0)
        if cells[here + PINGS_ANSWERED] == cells[here + PINGS_SENT]:
            cells[row + SIDE_0 + (1 - side) * SIDE_CELLS + GATE] = PASS
        return got

    def _answered(self, row: int, side: int, number: int, totals: int) -> None:
        """A side has answered a Ping of the gateway's."""
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
        """Hold back what may be the beginning of a Pong for the gateway."""
        held = bytes(self.kernel.buffer[start:end]).ljust(16, b"\0")
        self.cells[here + HELD] = end - start
        self.cells[here + HELD_LOW] = int.from_bytes(held[:8], "little", signed=True)
        self.cells[here + HELD_HIGH] = int.from_bytes(held[8:], "little", signed=True)

    def _unhold(self, here: int, got: int) -> int:
        """Put what was held back in front of what was read; return how many bytes that makes."""
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

    def _end_silence(self, row: int, side: int, passed: bool) -> None:
        """Something has come from a side. Called before ``LAST_NS`` says so; ignored once the end began.

        :param passed: whether it is sent to the other side: not so for a Pong to the gateway
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
                self.on_answer(row, side, silence)
        if cells[here + PING_AFTER_NS] != NEVER:
            self._look_at(row, now + cells[here + PING_AFTER_NS])

    def _quiet(self, row: int, side: int, now: int) -> int:
        """For how long nothing has gone either way on the connection of a side."""
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        there = row + SIDE_0 + (1 - side) * SIDE_CELLS
        return now - max(cells[here + LAST_NS], cells[here + PONG_NS], cells[there + LAST_NS], cells[here + WROTE_NS])

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
            cells[here + SCANNER + PEER] = -SIDE_CELLS if side else SIDE_CELLS
            if cells[row + KIND] != WEBSOCKET:
                cells[here + SCANNER + STATUS] = BROKEN
            self.owners[fd] = 2 * row + side
        cells[row + OPENED_NS] = self.now
        cells[row + STATE] = LIVE

    def adopt(
        self, row: int, client_fd: int, backend_fd: int, client_pending: bytes = b"", backend_pending: bytes = b""
    ) -> None:
        """Carry on a tunnel of another process that serves it no more. Its row is whole.

        :param client_pending: what that process had in hand for the client, as for ``backend_pending``. One that died
            takes that with it: the row has to be clean
        :raises OSError: epoll does not take a descriptor. :meth:`finish` is due then
        """
        cells = self.cells
        # What brings this process down must not do so to one successor after another: the next finds the row dirty.
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
            self.owners[fd] = 2 * row + side
        cells[row + DEADLINE_NS] = next_deadline(cells, row)
        self._watch(row, CLIENT)
        self._watch(row, BACKEND_SIDE)
        self.served(row)

    # --- for those who hand tunnels over -----------------------------------------------------------------------------

    def release(self, row: int) -> list[bytes]:
        """Stop serving a tunnel, for another process to do that; :meth:`resume` or :meth:`disown` is to follow.

        :returns: what is pending for the client and for the backend
        """
        cells = self.cells
        found = []
        for side in range(2):
            here = row + SIDE_0 + side * SIDE_CELLS
            if cells[here + INTEREST]:
                self.kernel.unwatch(cells[here + FD])
                cells[here + INTEREST] = 0
            found.append(bytes(self.pending[2 * row + side]) if cells[here + PENDING] else b"")
        cells[row + STATE] = RELEASED
        return found

    def flush(self, row: int, side: int) -> None:
        """Send a side what is pending for it, as far as its socket takes it."""
        self.now = self.kernel.now()
        self.cells[row + DIRTY] = 1
        self._flush(row, side)
        self.served(row)

    def resume(self, row: int) -> None:
        """Serve a tunnel again that nobody took."""
        self.cells[row + STATE] = LIVE
        self._watch(row, CLIENT)
        self._watch(row, BACKEND_SIDE)

    def disown(self, row: int) -> None:
        """Let a tunnel go that another process serves now: its connections live on, and the row is for its owner to
        give back."""
        cells = self.cells
        for side in range(2):
            here = row + SIDE_0 + side * SIDE_CELLS
            self._drop_pending(row, side)
            self.owners[cells[here + FD]] = NO_OWNER
            self.closing_fds.append(cells[here + FD])
            cells[here + FD] = -1

    def write(self, row: int, side: int, data: bytes) -> None:
        """Send a side bytes of the gateway's own, behind whatever is pending. They are not counted or scanned."""
        dirty = self.cells[row + DIRTY]
        self.cells[row + DIRTY] = 1
        self._write(row, side, data)
        if not dirty:
            self.served(row)

    def _write(self, row: int, side: int, data: bytes) -> None:
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
            self._failed(row, side, sent)
        elif sent < len(data):
            self._keep(row, side, kept[max(sent, 0) :])

    def feed(self, row: int, side: int, data: bytes) -> None:
        """Relay bytes that were read from a side before the tunnel opened.

        Nobody may be told to adopt the tunnel before all of them were fed: until then they are in no row.
        """
        size = self.kernel.receive_bytes
        for start in range(0, len(data), size):
            if self.cells[row + STATE] != LIVE or self.cells[row + PHASE] == CUT:
                return
            piece = data[start : start + size]
            self.kernel.buffer[: len(piece)] = piece
            self._relay(row, side, len(piece))

    def hang_up(self, fd: int) -> None:
        """End a connection that epoll does not watch, whatever other descriptors there are of it, and close this one.

        What was sent before is still delivered, and FIN behind it.
        """
        self.kernel.hang_up(fd)
        self.closing_fds.append(fd)

    def retire(self, fd: int) -> None:
        """Close a descriptor that epoll no longer watches, once no event at hand can mean it."""
        self.closing_fds.append(fd)
