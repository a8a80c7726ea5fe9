"""Who ended a tunnel, why, and after how long a silence: decided from what was observed, when it has ended.

The relay takes down what it sees as it sees it, the first thing that ends a tunnel above all. What that means is
decided here:

* A side that cannot be sent to any more has reset the connection, unless its Close frame was still on its way to us:
  then it closed, and the reset came of our sending on.
* A side is *cut* where its connection ended with no Close frame from it: a FIN, a reset, or no answer at all. How long
  the connection had been silent says what cut it, be it a middlebox with a time-out or a program that ended.
* The silence is exact where the end came by itself. Where it only showed when something was sent, be it a Ping that
  was never answered or data that was met with a reset, whatever cut the connection did so within that silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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

NEITHER = -1


class Side(NamedTuple):
    """What was observed of one side when the end began; ``closed`` is as of later."""

    closed: bool
    """whether its Close frame was seen"""
    idle_ns: int
    """how long nothing had come from it"""
    quiet_ns: int
    """how long nothing had gone either way on its connection"""
    unanswered_ns: int
    """the longest silence before something sent to it that it had not answered; 0 for none"""
    queued_bytes: int
    """pending for it"""


class Attribution(NamedTuple):
    """What is said of an end."""

    initiator: int
    """``CLIENT``, ``BACKEND_SIDE`` or ``GATEWAY``"""
    cause: int
    """index into ``layout.CAUSES``"""
    cut: int
    """the side whose connection ended without a Close frame, or ``NEITHER``"""
    silence_ns: int
    """of that connection, before it ended; 0 where no side was cut"""
    exact: bool
    """whether the cut came by itself: then it came after just this silence, else within it"""
    last_from: int
    """the side that the last byte came from"""
    sides: Sequence[Side]
    """what was observed of the client and of the backend"""


def attribute(initiator: int, cause: int, about: int, sides: Sequence[Side]) -> Attribution:
    """Decide about an end.

    :param initiator: who began it, as far as the relay saw
    :param cause: what the relay saw first
    :param about: the side that was seen to end or to be dead, or ``NEITHER``
    :param sides: client, backend
    """
    if cause == RESET and sides[about].closed:
        cause = CLOSE_FRAME
    cut, silence, exact = NEITHER, 0, False
    if about != NEITHER:
        side = sides[about]
        if cause == FIN or (cause == RESET and (side.quiet_ns >= SECOND or not side.unanswered_ns)):
            cut, silence, exact = about, side.quiet_ns, True
        elif cause in (RESET, PING_TIMEOUT) or (cause == WRITE_STALL and not side.queued_bytes):
            cut, silence = about, side.unanswered_ns or side.quiet_ns
    last = CLIENT if sides[CLIENT].idle_ns <= sides[BACKEND_SIDE].idle_ns else BACKEND_SIDE
    return Attribution(initiator, cause, cut, silence, exact, last, sides)


def observed(cells: Sequence[int], side: int, now: int) -> Side:
    """What a row tells of a side. :param cells: of a row, from its first cell. :param now: when the tunnel ended"""
    here = SIDE_0 + side * SIDE_CELLS
    closed = cells[here + SCANNER + STATUS] == CLOSED
    if cells[CLOSING_NS]:
        idle, quiet = cells[here + END_IDLE_NS], cells[here + END_QUIET_NS]
    else:
        # Its worker died: nobody was there to take it down.
        idle = quiet = now - max(cells[here + LAST_NS], cells[here + PONG_NS])
    return Side(closed, idle, quiet, cells[here + SILENCE_NS], cells[here + END_QUEUED])


def attribute_row(cells: Sequence[int], now: int) -> Attribution:
    """Decide about the end of a tunnel by its row. Arguments as of :func:`observed`."""
    sides = observed(cells, CLIENT, now), observed(cells, BACKEND_SIDE, now)
    return attribute(cells[INITIATOR], cells[CAUSE], cells[END_SIDE], sides)
