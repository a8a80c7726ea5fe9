"""When something is due for a tunnel: time-outs and the gateway's Pings, computed from the row alone.

``DEADLINE_NS`` is when a row must be checked next, so that a walk over thousands of quiet tunnels compares one integer
each. Later events either move that moment further away, or write the cell themselves.

Compiled by Cython if a C compiler is available (types in ``deadlines.pxd``), run as it is otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.protocol.scanner_state import BROKEN, DATA_AT, OPEN, PING_AT, STATUS
from gateway.tunnels.table.layout import (
    CLOSE_NS,
    CLOSING_NS,
    DEADLINE_NS,
    DISCARD,
    EXPIRES_NS,
    GATE,
    IDLE_NS,
    KIND,
    LAST_NS,
    LIFETIME_NS,
    MESSAGE_BURST_NS,
    MESSAGE_NS,
    NEVER,
    NEXT_MESSAGE_NS,
    OPAQUE,
    OPENED_NS,
    PACED_NS,
    PING_AFTER_NS,
    PINGED_NS,
    PONG_NS,
    PONG_TIMEOUT_NS,
    ROW_CELLS,
    SCANNER,
    SIDE_0,
    SIDE_CELLS,
    STALLED_NS,
    STEP_NS,
    WRITE_STALL_NS,
)

if TYPE_CHECKING:
    Cells = memoryview[int]


def next_deadline(cells: Cells, row: int) -> int:
    """When the row must be checked next; ``NEVER`` if nothing can fall due without an event."""
    stalled = min(stalled_until(cells, row, 0), stalled_until(cells, row, 1))
    if cells[row + CLOSING_NS]:
        return min(closed_by(cells, row), paced_until(cells, row), stalled)
    return min(
        paced_until(cells, row),
        stalled,
        min(idle_until(cells, row), lives_until(cells, row)),
        min(keepalive_due(cells, row, 0), keepalive_due(cells, row, 1)),
    )


def closed_by(cells: Cells, row: int) -> int:
    """When a tunnel that is ending is cut; ``NEVER`` for others.

    A WebSocket that has seen FIN has nothing left to say but a Close frame (RFC 6455 7.1.1). Another protocol may use a
    half-closed connection for as long as it likes: there the time-out counts from the last byte relayed.
    """
    since = cells[row + CLOSING_NS]
    if not since:
        return NEVER
    if cells[row + KIND] == OPAQUE:
        client, backend = row + SIDE_0, row + SIDE_0 + SIDE_CELLS
        moved = max(since, _moved_at(cells, client, backend), _moved_at(cells, backend, client))
        return min(moved + cells[row + CLOSE_NS], lives_until(cells, row))
    # If the client is still to be sent the Close frame about its lost backend, its time to answer begins with that.
    return max(since, cells[row + PACED_NS]) + cells[row + CLOSE_NS]


def _moved_at(cells: Cells, source: int, sink: int) -> int:
    """When bytes were last relayed from one side to the other; 0 where they are discarded, or before the first."""
    if cells[sink + GATE] == DISCARD:
        return 0
    return max(cells[source + LAST_NS], cells[sink + STALLED_NS])  # read from the one, or taken by the other


def paced_until(cells: Cells, row: int) -> int:
    """When the tunnel's Close frame of a drain, or about a lost backend, is due."""
    return cells[row + PACED_NS] or NEVER


def stalled_until(cells: Cells, row: int, side: int) -> int:
    """When a side that takes no bytes counts as dead (``timeouts.write_stall``)."""
    since = cells[row + SIDE_0 + side * SIDE_CELLS + STALLED_NS]
    return since + cells[row + WRITE_STALL_NS] if since else NEVER


def idle_until(cells: Cells, row: int) -> int:
    """When ``timeouts.idle`` closes the tunnel: no data frame in either direction."""
    if cells[row + IDLE_NS] == NEVER:
        return NEVER
    client = _used_at(cells, row + SIDE_0)
    backend = _used_at(cells, row + SIDE_0 + SIDE_CELLS)
    return max(client, backend, cells[row + OPENED_NS]) + cells[row + IDLE_NS]


def _used_at(cells: Cells, here: int) -> int:
    """When a side last sent a data frame; Pings do not count, or they would keep any tunnel from being idle.

    In a stream that is not scanned (opaque or broken) any byte counts. A side that is not read because of what its
    messages cost may have sent one already.
    """
    if cells[here + SCANNER + STATUS] == BROKEN:
        return cells[here + LAST_NS]
    if cells[here + MESSAGE_NS]:
        speaks = cells[here + NEXT_MESSAGE_NS] + cells[here + MESSAGE_NS] - cells[here + MESSAGE_BURST_NS]
        return max(cells[here + SCANNER + DATA_AT], speaks)
    return cells[here + SCANNER + DATA_AT]


def lives_until(cells: Cells, row: int) -> int:
    """When ``timeouts.max_lifetime`` closes the tunnel, or its client's credentials expire."""
    if cells[row + LIFETIME_NS] == NEVER:
        return cells[row + EXPIRES_NS]
    return min(cells[row + OPENED_NS] + cells[row + LIFETIME_NS], cells[row + EXPIRES_NS])


# --- keepalive ----------------------------------------------------------------------------------------------------


def heard_at(cells: Cells, row: int, side: int) -> int:
    """When the latest byte came from a side, Pongs to the gateway included."""
    here = row + SIDE_0 + side * SIDE_CELLS
    return max(cells[here + LAST_NS], cells[here + PONG_NS])


def keepalive_due(cells: Cells, row: int, side: int) -> int:
    """When a side is sent a Ping, or counts as dead if it is still silent; ``NEVER`` if it is sent none."""
    here = row + SIDE_0 + side * SIDE_CELLS
    there = row + SIDE_0 + SIDE_CELLS - side * SIDE_CELLS
    if (
        cells[here + PING_AFTER_NS] == NEVER
        or cells[here + SCANNER + STATUS] != OPEN
        or cells[there + SCANNER + STATUS] != OPEN
    ):
        return NEVER
    heard = heard_at(cells, row, side)
    if cells[here + PINGED_NS] > heard:
        return cells[here + PINGED_NS] + cells[here + PONG_TIMEOUT_NS]
    asked = asked_at(cells, row, side)
    if asked > heard:
        return asked + cells[here + PONG_TIMEOUT_NS]
    due = heard + cells[here + PING_AFTER_NS]
    return max(due, asked + cells[here + PONG_TIMEOUT_NS]) if asked else due


def awaits_answer(cells: Cells, row: int, side: int) -> bool:
    """Whether a side has been silent since the latest Ping to it, the gateway's or the other endpoint's."""
    heard = heard_at(cells, row, side)
    return cells[row + SIDE_0 + side * SIDE_CELLS + PINGED_NS] > heard or asked_at(cells, row, side) > heard


def asked_at(cells: Cells, row: int, side: int) -> int:
    """When the other endpoint's Ping that a side has not answered yet was relayed; 0 if there is none.

    A side may answer only the latest Ping (RFC 6455 5.5.3), so that one from the gateway behind it could cost the other
    endpoint its Pong. The endpoint's Ping serves as the gateway's until ``pong_timeout`` is over.
    """
    return cells[row + SIDE_0 + SIDE_CELLS - side * SIDE_CELLS + SCANNER + PING_AT]


# --- many rows ----------------------------------------------------------------------------------------------------


def due_rows(cells: Cells, first: int, rows: int, now: int) -> list[int]:
    """Rows whose deadline has come. :param first: the first row. :param rows: how many to check"""
    found = []
    for row in range(first, first + rows * ROW_CELLS, ROW_CELLS):
        if cells[row + DEADLINE_NS] <= now:
            found.append(row)
    return found


def demand(cells: Cells, first: int, rows: int, now: int, counts: Cells, used: int) -> int:
    """Count the rows that fall due in each of the next steps; overdue rows count in the first.

    :param first: the first row
    :param rows: how many to check
    :param counts: 64-bit integers, one for each step ahead
    :param used: how many of ``counts`` may be non-zero before the call, as returned by the previous one
    :returns: how many may be non-zero now
    """
    steps = len(counts)
    for step in range(used):
        counts[step] = 0
    used = 0
    for row in range(first, first + rows * ROW_CELLS, ROW_CELLS):
        ahead = cells[row + DEADLINE_NS] - now
        if ahead < 0:
            ahead = 0
        step = ahead // STEP_NS
        if step < steps:
            counts[step] += 1
            if step >= used:
                used = step + 1
    return used
