"""How a tunnel ends: FIN, resets, Close frames from the endpoints and from the gateway, and what the row records of it.

* A FIN is passed on after everything sent before it; the other direction stays open. For a side that uses TLS,
  close_notify is part of that (RFC 8446 6.1): FIN alone tells it that the other side's stream is not whole.
* ``close_tunnel`` writes a Close frame in both directions, each at its next frame boundary (RFC 6455 5.4), discards
  what comes after it (5.5.1), and waits for the endpoints' answers.
* A reset becomes a FIN to the other side, which is then read to its end: closing a socket with unread bytes resets the
  connection, and bytes in flight to that side would be lost.
* If a backend vanishes (FIN or reset without a Close frame) and the row has an ``ON_LOSS_CODE``, the client gets a
  Close frame with that code before the FIN, at once or in its turn.
* A tunnel that takes longer to end than the route allows is cut: both sockets are closed.

The initiator and the cause are recorded once, by the first event of the end (``_begin_end``).

Compiled by Cython if a C compiler is available (types in ``ending.pxd``), run as it is otherwise.
"""

from __future__ import annotations

import os
from errno import EHOSTUNREACH, ENETUNREACH, ETIMEDOUT
from typing import TYPE_CHECKING

from gateway.protocol.closing import (
    GOING_AWAY,
    SERVICE_RESTART,
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
from gateway.protocol.tls.state import (
    OUT_CLOSED,
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
    EXPIRY_CODE,
    FD,
    FIN,
    FRAME_LIMIT,
    GATE,
    GATEWAY,
    INITIATOR,
    INTEREST,
    KIND,
    LAST_NS,
    LIVE,
    MAX_LIFETIME,
    MESSAGE_NS,
    NEVER,
    NO_OWNER,
    ON_LOSS_CODE,
    OWN_CLOSE_CODE,
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
    TLS,
    TOTAL_CELLS,
    TOTALS,
    TRUNCATED,
    WEBSOCKET,
    WORKER_LOST,
    WRITE_STALL,
    WROTE_NS,
)

if TYPE_CHECKING:
    pass


class Ending(Streams):
    """Streams that can end."""

    # --- the beginning of the end -------------------------------------------------------------------------------------

    def _begin_end(self, row: int, initiator: int, cause: int, about: int) -> None:
        """Record the initiator and cause of the end, if none is recorded yet, and start the ``timeouts.close`` clock.

        :param about: the side that ended or is dead, -1 for neither
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
            cells[row + PACED_NS] = 0  # it ends before its turn in a drain
        if cells[row + SIDE_0 + MESSAGE_NS]:
            self.wake_at(now, row)  # its messages cost nothing any more
        self._look_at(row, self.now + cells[row + CLOSE_NS])

    def _quiet(self, row: int, side: int, now: int) -> int:
        """How long a side's connection has been silent in both directions."""
        cells = self.cells
        here = row + SIDE_0 + side * SIDE_CELLS
        there = row + SIDE_0 + (1 - side) * SIDE_CELLS
        return now - max(cells[here + LAST_NS], cells[here + PONG_NS], cells[there + LAST_NS], cells[here + WROTE_NS])

    def _stream_stopped(self, row: int, side: int) -> None:
        """The scanner of a side's stream stopped: at a Close frame (RFC 6455 5.5.1) or at a violation (7.1.7)."""
        cells = self.cells
        if cells[row + SIDE_0 + side * SIDE_CELLS + SCANNER + STATUS] == BROKEN:
            cells[cells[row + TOTALS] + side * TOTAL_CELLS + T_VIOLATIONS] += 1
        else:
            self._begin_end(row, side, CLOSE_FRAME, side)
            if cells[row + PACED_NS]:
                # The client closed while its Close frame about the lost backend was deferred: send that now.
                cells[row + PACED_NS] = self.now
                self._look_at(row, self.now)

    def _fin(self, row: int, side: int) -> None:
        """A side sent FIN: pass it on behind the pending bytes (RFC 6455 7.1.1)."""
        self.cells[row + SIDE_0 + side * SIDE_CELLS + ENDED] = 1
        self._begin_end(row, side, FIN, side)
        if side == BACKEND_SIDE and self._note_loss(row):
            self._pace_loss_close(row)
        elif not self._settle(row):
            self._watch(row, side)

    def _failed(self, row: int, side: int, error: int) -> None:
        """A side's connection failed. :param error: a negative errno"""
        if error in (-ETIMEDOUT, -EHOSTUNREACH, -ENETUNREACH) and not self.cells[row + CLOSING_NS]:
            # TCP_USER_TIMEOUT (RFC 5482): the peer acknowledged nothing for as long as write_stall allows.
            code = self.cells[row + ON_LOSS_CODE] if side == BACKEND_SIDE else 0
            self.give_up(row, side, code or GOING_AWAY, WRITE_STALL)
            return
        self._begin_end(row, side, RESET, side)
        vanished = side == BACKEND_SIDE and self.cells[row + SIDE_0 + SIDE_CELLS + ENDED] != 0 and self._note_loss(row)
        self._deaf(row, side)
        if vanished:
            self._pace_loss_close(row)

    def _deaf(self, row: int, side: int) -> None:
        """A side can no longer be sent to. It is still read to its end, which may hold a Close frame."""
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
        """Schedule the client's Close frame about its lost backend; until then the client gets no FIN.

        False if it gets none: the end had begun before, or the backend's stream stopped within a frame or broke the
        protocol, so that a Close frame would be read as part of that frame (RFC 6455 5.4).
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
        cells[row + PACED_NS] = self.owner.backend_lost(row)
        return True

    def _pace_loss_close(self, row: int) -> None:
        """Send the client the Close frame about its lost backend, now or when its turn comes."""
        cells = self.cells
        if cells[row + PACED_NS] <= self.now:
            self._send_loss_close(row)
        else:
            self._look_at(row, cells[row + PACED_NS])
            self._watch(row, BACKEND_SIDE)

    def _send_loss_close(self, row: int) -> None:
        """Write the Close frame about a lost backend, and give the client ``timeouts.close`` to answer."""
        cells = self.cells
        cells[row + PACED_NS] = 0
        cells[row + PHASE] = CLOSING
        cells[row + CLOSING_NS] = self.now
        cells[row + CLOSE_CODE_SENT] = cells[row + PACED_CODE]
        cells[row + SIDE_0 + OWN_CLOSE_CODE] = cells[row + PACED_CODE]
        cells[row + SIDE_0 + SIDE_CELLS + GATE] = DISCARD
        self._look_at(row, self.now + cells[row + CLOSE_NS])
        self._write_close(row, CLIENT)
        if cells[row + STATE] == LIVE and cells[row + PHASE] != CUT and not self._settle(row):
            self._watch(row, CLIENT)
            self._watch(row, BACKEND_SIDE)

    # --- the end of the end -------------------------------------------------------------------------------------------

    def _settle(self, row: int) -> bool:
        """Send FIN or end the tunnel, as the state of both sides requires. True if it ended."""
        cells = self.cells
        client = row + SIDE_0
        backend = client + SIDE_CELLS
        if cells[client + PENDING] or cells[backend + PENDING]:
            done = False
        elif cells[client + ENDED] and cells[backend + ENDED]:
            done = True
        else:
            done = cells[row + PHASE] == CLOSING and self._is_done(client) and self._is_done(backend)
        if done:
            self.finish(row)
            return True
        self._pass_fin(row, CLIENT)
        if not cells[row + PACED_NS] or cells[row + KIND] != WEBSOCKET:
            self._pass_fin(row, BACKEND_SIDE)
        return False

    def _pass_fin(self, row: int, side: int) -> None:
        """Send FIN to the other side, if ``side`` has sent it and all before it is through."""
        cells = self.cells
        sink = row + SIDE_0 + (1 - side) * SIDE_CELLS
        if not cells[row + SIDE_0 + side * SIDE_CELLS + ENDED] or cells[sink + SHUT] or cells[sink + PENDING]:
            return
        if cells[sink + TLS] and self._is_whole(row, side):
            self._send_message(row, 1 - side, self.records.close(cells, cells[sink + TLS]))
            if cells[sink + PENDING]:
                return  # ``_flush`` comes back here
        self.kernel.shut(cells[sink + FD])
        cells[sink + SHUT] = 1

    def _is_whole(self, row: int, side: int) -> bool:
        """Whether a side's stream ended where that side meant it to end, or the gateway has closed both."""
        cells = self.cells
        if cells[row + CLOSE_CODE_SENT]:
            return True
        if cells[row + CAUSE] == WORKER_LOST or cells[row + TRUNCATED] & 1 << side:
            return False
        return cells[row + END_SIDE] != side or cells[row + CAUSE] == FIN or cells[row + CAUSE] == CLOSE_FRAME

    def _is_done(self, here: int) -> bool:
        """Whether a side has sent its last: a Close frame (RFC 6455 5.5.1) or FIN."""
        return self.cells[here + ENDED] != 0 or self.cells[here + SCANNER + STATUS] == CLOSED

    def finish(self, row: int) -> None:
        """End a tunnel now: close both sockets and call ``on_end``. The row is not touched afterwards."""
        cells = self.cells
        for side in range(2):
            here = row + SIDE_0 + side * SIDE_CELLS
            fd = cells[here + FD]
            if cells[here + TLS]:
                self._drop_half(row, side)
                if fd >= 0 and not cells[here + PENDING] and not cells[here + SHUT]:
                    self._close_records(row, side)
            self._drop_pending(row, side)
            if fd < 0:  # closed already; -1 must not index ``owners``
                continue
            if cells[here + INTEREST]:
                self.kernel.unwatch(fd)
                cells[here + INTEREST] = 0
            self.owners[fd] = NO_OWNER
            cells[here + FD] = -1
            if cells[here + ENDED] and cells[here + SHUT] and cells[here + GATE] != DISCARD:
                self.closing_fds.append(fd)  # FIN was sent and received: nothing is left to shut down
            else:
                self.hang_up(fd)
        cells[row + PHASE] = CUT
        cells[row + DEADLINE_NS] = NEVER
        self.called = True
        self.owner.tunnel_ended(row)

    def _close_records(self, row: int, side: int) -> None:
        """Send close_notify to a TLS side whose connection is about to be closed, if its socket takes it."""
        cells = self.cells
        session = cells[row + SIDE_0 + side * SIDE_CELLS + TLS]
        if self._is_whole(row, 1 - side) and not cells[session + OUT_CLOSED]:
            cells[row + DIRTY] = 1
            self.kernel.send_wire(cells[row + SIDE_0 + side * SIDE_CELLS + FD], 0, self.records.close(cells, session))

    # --- Close frames from the gateway --------------------------------------------------------------------------------

    def close_tunnel(self, row: int, code: int, cause: int, backend_code: int = 0) -> None:
        """Close a tunnel with a Close frame to both sides, each at its next frame boundary (RFC 6455 5.4, 7.1.2).

        An opaque tunnel has no Close frames and ends at once. A side whose incoming stream is broken gets none, and the
        tunnel ends when ``timeouts.close`` is over. A tunnel that is already ending is left alone.

        :param code: close code sent to both sides
        :param cause: index into ``layout.CAUSES``
        :param backend_code: close code for the backend, if it differs
        """
        cells = self.cells
        if cells[row + STATE] != LIVE or cells[row + PHASE] != RELAYING or cells[row + CLOSING_NS]:
            return
        self.now = self.kernel.now()
        cells[row + DIRTY] = 1
        self._begin_end(row, GATEWAY, cause, -1)
        self._close_streams(row, CLIENT, code, backend_code or code)
        self.served(row)

    def expire(self, row: int) -> None:
        """Close a tunnel because its client's credentials have expired."""
        self.close_tunnel(row, self.cells[row + EXPIRY_CODE] or SERVICE_RESTART, MAX_LIFETIME, GOING_AWAY)

    def close_in_turn(self, row: int) -> None:
        """Write the Close frames whose turn (``PACED_NS``) has come: of a drain, or about a lost backend."""
        cells = self.cells
        if cells[row + STATE] != LIVE or not cells[row + PACED_NS]:
            return
        if cells[row + CLOSING_NS] and cells[row + KIND] != WEBSOCKET:
            self.finish(row)  # half-closed and opaque: it would not end by itself
        elif cells[row + CLOSING_NS]:
            self.now = self.kernel.now()
            self._send_loss_close(row)
        else:
            cells[row + PACED_NS] = 0
            self.close_tunnel(row, cells[row + PACED_CODE], DRAIN)

    def give_up(self, row: int, side: int, code: int, cause: int) -> None:
        """End a tunnel because a side is dead: that side is sent nothing more, the other gets a Close frame.

        :param code: close code for the other side; 0 for FIN only
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
            self._close_streams(row, side, code, code)
        elif not self._settle(row):
            self._watch(row, side)
            self._watch(row, 1 - side)
        self.served(row)

    def _close_streams(self, row: int, side: int, code: int, other_code: int) -> None:
        """Begin to write Close frames to the sides that can still be sent to.

        :param code: close code for ``side``, and for the log
        :param other_code: close code for the other side
        """
        cells = self.cells
        if cells[row + KIND] != WEBSOCKET:
            self.finish(row)
            return
        cells[row + PHASE] = CLOSING
        cells[row + CLOSE_CODE_SENT] = code
        cells[row + SIDE_0 + side * SIDE_CELLS + OWN_CLOSE_CODE] = code
        cells[row + SIDE_0 + (1 - side) * SIDE_CELLS + OWN_CLOSE_CODE] = other_code
        for side in range(2):
            source = row + SIDE_0 + (1 - side) * SIDE_CELLS + SCANNER
            if not self._has_boundaries(row, 1 - side) or cells[row + SIDE_0 + side * SIDE_CELLS + SHUT]:
                continue  # without boundaries, a Close frame could land inside a frame
            if cells[source + REMAINING] or cells[source + HEADER_LENGTH]:
                # A control frame may come between fragments, never inside a frame (RFC 6455 5.4).
                cells[row + SIDE_0 + side * SIDE_CELLS + GATE] = AT_BOUNDARY
            else:
                self._write_close(row, side)
                if cells[row + STATE] != LIVE or cells[row + PHASE] == CUT:
                    return
        if not self._settle(row):
            self._watch(row, CLIENT)
            self._watch(row, BACKEND_SIDE)

    def _has_boundaries(self, row: int, side: int) -> bool:
        """Whether it is known where the frames of a side's stream end, as far as they are relayed.

        With a limit on frames, nothing is relayed of a frame that breaks the protocol: that stream ends at a boundary.
        """
        here = row + SIDE_0 + side * SIDE_CELLS
        return self.cells[here + SCANNER + STATUS] != BROKEN or self.cells[here + FRAME_LIMIT] != 0

    def _write_close(self, row: int, side: int) -> None:
        """Write the Close frame to a side, at a frame boundary; nothing may follow it (RFC 6455 5.5.1)."""
        cells = self.cells
        there = row + SIDE_0 + side * SIDE_CELLS
        cells[there + GATE] = DISCARD
        if cells[row + SIDE_0 + (1 - side) * SIDE_CELLS + SCANNER + STATUS] != CLOSED and self._has_boundaries(
            row, 1 - side
        ):
            mask = os.urandom(4) if side == BACKEND_SIDE else None  # RFC 6455 5.3: masked toward a server only
            code = cells[there + OWN_CLOSE_CODE] or cells[row + CLOSE_CODE_SENT]
            self._write(row, side, close_frame(code, "", mask))

    def _pass_on(self, row: int, side: int, got: int, totals: int) -> None:
        """Scan what was read from a side and send it on, up to where the gateway's own Close frame goes."""
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
