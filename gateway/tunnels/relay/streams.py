"""Sending, buffering and epoll registration for the two streams of a tunnel.

Bytes that a socket does not take are copied into a buffer made on demand, and the other side is not read until that
buffer is empty (backpressure): memory is bounded by the receive buffer, and a slow reader slows its sender down.

What goes to a side that uses TLS is sealed first. The sequence number in its session has advanced before anything is
sent, and what is pending for it are sealed bytes: no nonce is ever used twice.

Compiled by Cython if a C compiler is available (types in ``streams.pxd``), run as it is otherwise.
"""

from __future__ import annotations

import mmap
from errno import EAGAIN, EINTR
from heapq import heappush
from select import EPOLLIN, EPOLLOUT
from typing import TYPE_CHECKING

from gateway.protocol.scanner_state import REMAINING
from gateway.protocol.tls.records import Records
from gateway.protocol.tls.state import (
    ANSWER_DUE,
    HALF,
    OUT_CLOSED,
)
from gateway.tunnels.relay.owner import Nobody
from gateway.tunnels.table.layout import (
    BYTES,
    CLOSING_NS,
    DEADLINE_NS,
    DIRTY,
    DISCARD,
    ENDED,
    FD,
    GATE,
    INTEREST,
    LAST_NS,
    MESSAGE_BURST_NS,
    MESSAGE_NS,
    METERED,
    NEVER,
    NEXT_MESSAGE_NS,
    PENDING,
    READING,
    REGISTERED,
    SCANNER,
    SHUT,
    SIDE_0,
    SIDE_CELLS,
    STALLED_NS,
    T_BYTES,
    TLS,
    WRITE_STALL_NS,
)

if TYPE_CHECKING:
    from gateway.tunnels.relay.kernel import Kernel
    from gateway.tunnels.relay.owner import Owner


class Streams:
    """The streams of all tunnels of one worker."""

    def __init__(self, kernel: Kernel, cells: memoryview[int], descriptors: int) -> None:
        """
        :param kernel: the worker's system calls
        :param cells: the shared table
        :param descriptors: one more than the highest descriptor number this process may use
        """
        self.kernel = kernel
        self.cells = cells
        # The row and side of each descriptor, as 2 * row + side. Pages for descriptors never used cost nothing.
        self.owners = memoryview(mmap.mmap(-1, 4 * descriptors)).cast("i")
        self.pending: dict[int, bytearray] = {}
        self.halves: dict[int, bytearray] = {}
        self.records = Records(kernel.wire)
        self.closing_fds: list[int] = []
        # When the tick is due. An asyncio timer would cost a worker that sends Pings all the time a fifth of its CPU.
        self.tick_ns = NEVER
        self.wakes: list[tuple[int, int]] = []  # a heap: when something is due for a row, and the row
        self.called = False  # whether code outside the relay ran, which may have given asyncio work
        self.now = self.kernel.now()
        self.owner: Owner = Nobody()
        """hears of what happens to tunnels; to be set before there are any"""

    def _failed(self, row: int, side: int, error: int) -> None:
        """A side's connection failed; :class:`Ending` handles it. :param error: a negative errno"""
        raise AssertionError("streams alone do not end")

    def _settle(self, row: int) -> bool:
        """Send FIN or end the tunnel, as the state of both sides requires; see :class:`Ending`. True if it ended."""
        raise AssertionError("streams alone do not end")

    def served(self, row: int) -> None:
        """Clear ``DIRTY``: the row and the connections agree again.

        Every caller that sets ``DIRTY`` calls this last. While bytes are pending, or half a record is held, the row
        stays dirty.
        """
        cells = self.cells
        client = row + SIDE_0
        backend = client + SIDE_CELLS
        if (
            not cells[client + PENDING]
            and not cells[backend + PENDING]
            and (not cells[client + TLS] or not cells[cells[client + TLS] + HALF])
            and (not cells[backend + TLS] or not cells[cells[backend + TLS] + HALF])
        ):
            cells[row + DIRTY] = 0

    def _count(self, here: int, totals: int, got: int) -> None:
        self.cells[here + LAST_NS] = self.now
        self.cells[here + BYTES] += got
        self.cells[totals + T_BYTES] += got

    def _look_at(self, row: int, when: int) -> None:
        """Have the sweep check a row at ``when`` at the latest."""
        if when < self.cells[row + DEADLINE_NS]:
            self.cells[row + DEADLINE_NS] = when

    def wake_at(self, when: int, row: int) -> None:
        """Have a row checked at ``when``, more exactly than the sweep does (``Limiting._wake``).

        What is due is in the row. This may be forgotten, and must be repeated by a worker that resumes the tunnel.
        """
        heappush(self.wakes, (when, row))
        if when < self.tick_ns:
            self.tick_ns = when

    # --- to a side ----------------------------------------------------------------------------------------------------

    def _send(self, row: int, side: int, end: int) -> None:
        """Send the buffer up to ``end`` to a side, behind anything pending. Not on the hot path of plain tunnels."""
        there = row + SIDE_0 + side * SIDE_CELLS
        if self.cells[there + TLS]:
            self._seal(row, side, self.kernel.data, end)
        elif self.cells[there + PENDING]:
            self._keep(row, side, self.kernel.buffer[:end])
        else:
            self._sent(row, side, self.kernel.send(self.cells[there + FD], 0, end), end, self.kernel.buffer)

    def _sent(self, row: int, side: int, sent: int, end: int, source: bytearray) -> None:
        """Keep what a side's socket did not take. :param sent: bytes it took of ``source`` up to ``end``, or -errno"""
        if sent == end:
            return
        if sent >= 0:
            self._keep(row, side, source[sent:end])
        elif sent == -EAGAIN or sent == -EINTR:
            self._keep(row, side, source[:end])
        else:
            self._failed(row, side, sent)

    def write(self, row: int, side: int, data: bytes) -> None:
        """Send a side bytes that the gateway made, behind anything pending. They are not counted or scanned."""
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
        if cells[there + TLS]:
            self._seal(row, side, bytearray(data), len(data))
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

    # --- to a side that uses TLS --------------------------------------------------------------------------------------

    def _seal(self, row: int, side: int, data: bytearray, end: int) -> None:
        """Send a TLS side ``data[:end]`` in records, behind anything pending. The row is dirty."""
        cells = self.cells
        there = row + SIDE_0 + side * SIDE_CELLS
        session = cells[there + TLS]
        if cells[session + OUT_CLOSED]:
            return  # nothing may follow close_notify (RFC 8446 6.1)
        if cells[session + ANSWER_DUE]:  # it comes before more data (RFC 8446 4.6.3)
            self._send_message(row, side, self.records.answer(cells, session))
        end = self.records.seal(cells, session, data, 0, end, self.now)
        if cells[there + PENDING]:
            self._keep(row, side, self.kernel.wire[:end])
        else:
            self._sent(row, side, self.kernel.send_wire(cells[there + FD], 0, end), end, self.kernel.wire)

    def _send_message(self, row: int, side: int, end: int) -> None:
        """Send a TLS side a message of the record layer, which is in ``wire``, behind anything pending.

        A connection that fails here fails again when it is read. :param end: bytes of the message; 0 for none
        """
        cells = self.cells
        there = row + SIDE_0 + side * SIDE_CELLS
        if not end or cells[there + SHUT]:
            return
        sent = 0 if cells[there + PENDING] else self.kernel.send_wire(cells[there + FD], 0, end)
        if sent == -EAGAIN or sent == -EINTR:
            sent = 0
        if 0 <= sent < end:
            self._keep(row, side, self.kernel.wire[sent:end])

    # --- backpressure -------------------------------------------------------------------------------------------------

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
        """Send a side its pending bytes."""
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
            if cells[there + TLS] and cells[cells[there + TLS] + ANSWER_DUE]:
                self._send_message(row, side, self.records.answer(cells, cells[there + TLS]))
            if not self._settle(row):
                self._watch(row, side)
                self._watch(row, 1 - side)

    def _drop_pending(self, row: int, side: int) -> None:
        """Discard the bytes pending for a side that can no longer be sent to."""
        cells = self.cells
        there = row + SIDE_0 + side * SIDE_CELLS
        if cells[there + PENDING]:
            del self.pending[2 * row + side]
            cells[there + PENDING] = 0
            cells[there + STALLED_NS] = 0

    def _drop_half(self, row: int, side: int) -> None:
        """Discard half a record of a side that is no longer read."""
        session = self.cells[row + SIDE_0 + side * SIDE_CELLS + TLS]
        if session:
            self.halves.pop(2 * row + side, None)
            self.cells[session + HALF] = 0

    def _watch(self, row: int, side: int) -> None:
        """Register a side with epoll for the events that can be served now."""
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        there = row + SIDE_0 + (1 - side) * SIDE_CELLS
        events = EPOLLOUT if cells[here + PENDING] else 0
        if (
            not cells[here + ENDED]
            and (not cells[there + PENDING] or cells[there + GATE] == DISCARD)
            and (not cells[here + MESSAGE_NS] or self._may_speak(row, here))
        ):
            events |= EPOLLIN
        # Even with no events requested, epoll reports errors and hang-ups, repeatedly. A side that sent FIN stays
        # registered for that, since nothing else would report its reset; a side that is paused is unregistered.
        if events or (cells[here + ENDED] and not cells[here + SHUT]):
            events |= REGISTERED
        if events == cells[here + INTEREST]:
            return
        if events == REGISTERED and cells[here + INTEREST] == EPOLLIN | REGISTERED:
            pass  # its FIN was read: nothing is left to read, and edge-triggered epoll reports the hang-up once
        elif events:
            watched = READING if events == EPOLLIN | REGISTERED else events & (EPOLLIN | EPOLLOUT)
            if cells[here + MESSAGE_NS] and events & EPOLLIN:
                watched |= METERED
            self.kernel.watch(cells[here + FD], cells[here + INTEREST] != 0, watched)
        else:
            self.kernel.unwatch(cells[here + FD])
        cells[here + INTEREST] = events

    def _ask_anew(self, here: int) -> None:
        """Re-arm edge-triggered epoll for a side that may have more to read."""
        if self.cells[here + INTEREST] == EPOLLIN | REGISTERED:
            watched = READING | METERED if self.cells[here + MESSAGE_NS] else READING
            self.kernel.watch(self.cells[here + FD], True, watched)

    def _may_speak(self, row: int, here: int) -> bool:
        """Whether a side whose messages cost time may send more now: a message, or the rest of a frame. Once the end
        has begun, it always may."""
        return (
            self.cells[row + CLOSING_NS] != 0
            or self.cells[here + SCANNER + REMAINING] != 0
            or self._speaks_at(here) <= self.now
        )

    def _speaks_at(self, here: int) -> int:
        """When a side whose messages cost time may send the next one."""
        cells = self.cells
        return cells[here + NEXT_MESSAGE_NS] + cells[here + MESSAGE_NS] - cells[here + MESSAGE_BURST_NS]

    # --- descriptors --------------------------------------------------------------------------------------------------

    def hang_up(self, fd: int) -> None:
        """Shut down a connection both ways, for all descriptors of it, and close this one. epoll must not watch it.

        Bytes already sent are still delivered, followed by FIN.

        :param fd: -1 for a connection that is gone already
        """
        if fd < 0:
            return
        self.kernel.hang_up(fd)
        self.closing_fds.append(fd)

    def retire(self, fd: int) -> None:
        """Close a descriptor that epoll no longer watches, after the events of this turn; -1 is ignored."""
        if fd >= 0:
            self.closing_fds.append(fd)
