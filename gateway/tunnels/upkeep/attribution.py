"""Who ended a tunnel, why, and after how long a silence: decided from the row once the tunnel has ended.

The relay records what it observes, above all the first event of the end. This module interprets it:

* A side that can no longer be sent to has reset the connection, unless its Close frame was still in flight to us: then
  it closed, and the reset answered what we sent after that.
* A side was *cut* if its connection ended without a Close frame from it: with a FIN, a reset, or no answer at all. The
  length of the silence before that tells a middlebox with a time-out from a program that ended.
* The silence is exact if the end came unprompted. If it only showed when something was sent (a Ping that was never
  answered, data answered by a reset), the connection was cut at some time within that silence.

Compiled by Cython if a C compiler is available (types in ``attribution.pxd``), run as it is otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.protocol.scanner_state import CLOSED, STATUS
from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    CAUSE,
    CLIENT,
    CLOSE_FRAME,
    CLOSING_NS,
    END_IDLE_NS,
    END_QUEUED,
    END_QUIET_NS,
    END_SIDE,
    FIN,
    INITIATOR,
    LAST_NS,
    PING_TIMEOUT,
    PONG_NS,
    RESET,
    SCANNER,
    SECOND,
    SIDE_0,
    SIDE_CELLS,
    SILENCE_NS,
    WRITE_STALL,
)

if TYPE_CHECKING:
    Cells = memoryview[int]

NEITHER = -1


class Side:
    """What was observed of one side when the end began; ``closed`` is as of the end."""

    def __init__(self, closed: bool, idle_ns: int, quiet_ns: int, unanswered_ns: int, queued_bytes: int) -> None:
        """
        :param closed: whether its Close frame was seen
        :param idle_ns: how long it had sent nothing
        :param quiet_ns: how long its connection had been silent both ways
        :param unanswered_ns: the longest silence before something sent to it and not answered yet; 0 for none
        :param queued_bytes: bytes pending for it
        """
        self.closed = closed
        self.idle_ns = idle_ns
        self.quiet_ns = quiet_ns
        self.unanswered_ns = unanswered_ns
        self.queued_bytes = queued_bytes


class Attribution:
    """Who ended a tunnel, and why."""

    def __init__(
        self,
        initiator: int,
        cause: int,
        cut: int,
        silence_ns: int,
        exact: bool,
        last_from: int,
        sides: tuple[Side, Side],
    ) -> None:
        """
        :param initiator: ``CLIENT``, ``BACKEND_SIDE`` or ``GATEWAY``
        :param cause: index into ``layout.CAUSES``
        :param cut: the side whose connection ended without a Close frame, or ``NEITHER``
        :param silence_ns: of that connection, before it ended; 0 where no side was cut
        :param exact: whether the cut came unprompted, after exactly this silence; otherwise it came within it
        :param last_from: the side that sent the last byte
        :param sides: what was observed of the client and of the backend
        """
        self.initiator = initiator
        self.cause = cause
        self.cut = cut
        self.silence_ns = silence_ns
        self.exact = exact
        self.last_from = last_from
        self.sides = sides


def attribute(initiator: int, cause: int, about: int, sides: tuple[Side, Side]) -> Attribution:
    """Decide who ended a tunnel, and why.

    :param initiator: as the relay recorded it
    :param cause: the first event of the end, as the relay recorded it
    :param about: the side that ended or was dead, or ``NEITHER``
    :param sides: client, backend
    """
    client, backend = sides
    side = client if about == CLIENT else backend
    if cause == RESET and side.closed:
        cause = CLOSE_FRAME
    cut, silence, exact = NEITHER, 0, False
    if about != NEITHER:
        if cause == FIN or (cause == RESET and (side.quiet_ns >= SECOND or not side.unanswered_ns)):
            cut, silence, exact = about, side.quiet_ns, True
        elif cause in (RESET, PING_TIMEOUT) or (cause == WRITE_STALL and not side.queued_bytes):
            cut, silence = about, side.unanswered_ns or side.quiet_ns
    last = CLIENT if client.idle_ns <= backend.idle_ns else BACKEND_SIDE
    return Attribution(initiator, cause, cut, silence, exact, last, sides)


def observed(cells: Cells, side: int, now: int) -> Side:
    """What a row says about a side. :param cells: of the row, from its first cell. :param now: when the tunnel ended"""
    here = SIDE_0 + side * SIDE_CELLS
    closed = cells[here + SCANNER + STATUS] == CLOSED
    if cells[CLOSING_NS]:
        idle, quiet = cells[here + END_IDLE_NS], cells[here + END_QUIET_NS]
    else:
        # The worker died, so that nothing was recorded.
        idle = quiet = now - max(cells[here + LAST_NS], cells[here + PONG_NS])
    return Side(closed, idle, quiet, cells[here + SILENCE_NS], cells[here + END_QUEUED])


def attribute_row(cells: Cells, now: int) -> Attribution:
    """Decide who ended a tunnel, from its row. Arguments as for :func:`observed`."""
    sides = observed(cells, CLIENT, now), observed(cells, BACKEND_SIDE, now)
    return attribute(cells[INITIATOR], cells[CAUSE], cells[END_SIDE], sides)
