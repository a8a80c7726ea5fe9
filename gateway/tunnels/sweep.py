"""Once a second, one walk over a worker's rows: whose time-out has come, and what is done about it.

A row says when it has to be looked at (``DEADLINE_NS``), so that a walk over thousands of quiet tunnels compares one
integer each. No tunnel has a timer of its own. While many are to be closed one after another, the walks come closer
(``pacing.py``).
"""

from __future__ import annotations

from gateway.protocol.closing import GOING_AWAY, SERVICE_RESTART
from gateway.protocol.scanner_state import BROKEN, DATA_AT, STATUS
from gateway.tunnels.layout import (
    CLOSE_NS,
    CLOSING_NS,
    DEADLINE_NS,
    IDLE,
    IDLE_NS,
    LAST_NS,
    LIFETIME_NS,
    LIVE,
    MAX_LIFETIME,
    NEVER,
    OPENED_NS,
    PACED_NS,
    SCANNER,
    SIDE_0,
    SIDE_CELLS,
    STALLED_NS,
    STATE,
    W_HEARTBEAT_NS,
    WRITE_STALL,
    WRITE_STALL_NS,
)
from gateway.tunnels.relay import Relay
from gateway.tunnels.table import Slice

INTERVAL_SECONDS = 1.0


def set_deadline(cells: memoryview, row: int) -> None:
    """Note in a row when the sweep has to look at it next."""
    cells[row + DEADLINE_NS] = min(
        _closed_by(cells, row),
        _paced_until(cells, row),
        _stalled_until(cells, row),
        _idle_until(cells, row),
        _lives_until(cells, row),
    )


def sweep(slice_: Slice, relay: Relay, now: int) -> None:
    """Look at every row whose deadline has come. :param now: ``CLOCK_MONOTONIC`` in nanoseconds"""
    cells = slice_.cells
    cells[slice_.block + W_HEARTBEAT_NS] = now
    for row in relay.due(slice_.first, slice_.used_rows, now):
        if cells[row + STATE] == LIVE:
            _act(cells, row, relay, now)


def _act(cells: memoryview, row: int, relay: Relay, now: int) -> None:
    if now >= _closed_by(cells, row):
        relay.finish(row)
    elif now >= _paced_until(cells, row):
        relay.close_in_turn(row)
    elif now >= _stalled_until(cells, row):
        relay.give_up_on_stalled(row, now - cells[row + WRITE_STALL_NS], GOING_AWAY, WRITE_STALL)
    elif now >= _lives_until(cells, row):
        relay.close_tunnel(row, SERVICE_RESTART, MAX_LIFETIME)
    elif now >= _idle_until(cells, row):
        relay.close_tunnel(row, GOING_AWAY, IDLE)
    if cells[row + STATE] == LIVE:
        set_deadline(cells, row)


def _closed_by(cells: memoryview, row: int) -> int:
    closing = cells[row + CLOSING_NS]
    # A client that has not been told yet that its backend has vanished has all the time to answer still before it.
    return max(closing, cells[row + PACED_NS]) + cells[row + CLOSE_NS] if closing else NEVER


def _paced_until(cells: memoryview, row: int) -> int:
    return cells[row + PACED_NS] or NEVER


def _stalled_until(cells: memoryview, row: int) -> int:
    since = [stalled for side in (SIDE_0, SIDE_0 + SIDE_CELLS) if (stalled := cells[row + side + STALLED_NS])]
    return min(since) + cells[row + WRITE_STALL_NS] if since else NEVER


def _idle_until(cells: memoryview, row: int) -> int:
    if cells[row + IDLE_NS] == NEVER or cells[row + CLOSING_NS]:
        return NEVER
    latest = max(_used_at(cells, row + SIDE_0), _used_at(cells, row + SIDE_0 + SIDE_CELLS), cells[row + OPENED_NS])
    return latest + cells[row + IDLE_NS]


def _used_at(cells: memoryview, side: int) -> int:
    """When a side last sent something that counts: data frames, as pings would keep any tunnel busy.

    A stream that is not scanned, be it opaque or broken, has bytes only.
    """
    return cells[side + (LAST_NS if cells[side + SCANNER + STATUS] == BROKEN else SCANNER + DATA_AT)]


def _lives_until(cells: memoryview, row: int) -> int:
    if cells[row + LIFETIME_NS] == NEVER or cells[row + CLOSING_NS]:
        return NEVER
    return cells[row + OPENED_NS] + cells[row + LIFETIME_NS]
