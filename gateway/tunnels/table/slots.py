"""Settling: after a crash, brings the table back to one row for each tunnel and one slot for each worker.

A supervisor that died during an upgrade leaves rows in both slots of a worker, and some tunnels in two rows: released
in one, and taken over (or about to be) in the other. No other process may use the table meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import NamedTuple

from gateway.tunnels.table.layout import (
    COUNTED,
    FREE,
    ID,
    LIVE,
    RELEASED,
    ROW_CELLS,
    STATE,
    W_HIGH_ROWS,
    W_PID,
    W_READY,
)
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.table.table import Table

log = logging.getLogger("gateway")


class Settled(NamedTuple):
    """The state of the table after settling."""

    slots: list[int]
    """by worker: the slot with its tunnels, where its successor must run"""
    crowded: int
    """tunnels lost because the two slots held more than one has rows for"""


def settle(table: Table, routes: int, backends: int) -> Settled:
    """Settle the table for new workers. If this is killed at any point, the next call finishes the job.

    :param routes: how many routes have numbers; ``backends`` likewise
    """
    cells = table.cells
    rows = [row for slot in range(table.slots) for row in _used(table, slot)]
    served = {cells[row + ID] for row in rows if cells[row + STATE] == COUNTED}
    for row in rows:
        if cells[row + STATE] == LIVE:
            if cells[row + ID] in served:
                _free(table, row)  # a previous call was moving it
            served.add(cells[row + ID])
    for row in rows:
        if cells[row + STATE] == RELEASED:
            # Another worker took it and serves it or has counted its end; otherwise it is served from here again.
            if cells[row + ID] in served:
                _free(table, row)
            else:
                cells[row + STATE] = LIVE
    for row in rows:
        if cells[row + STATE] == COUNTED:
            _free(table, row)
    slots = []
    crowded = 0
    for index in range(table.workers):
        other = table.other_slot(index)
        slot, source = sorted((index, other), key=lambda each: -sum(1 for _ in table.rows(each)))
        crowded += _move(table, source, slot)
        table.clear(source, routes, backends)
        table.forget_requests(slot, routes, backends)
        cells[table.worker(slot) + W_READY] = 0
        cells[table.worker(slot) + W_PID] = 0
        slots.append(slot)
    return Settled(slots, crowded)


def disown(table: Table, slot: int, tunnels: Collection[int]) -> None:
    """Free the rows of tunnels that a worker was about to take over when it died: the old worker still has them.

    :param tunnels: their ids
    """
    cells = table.cells
    for row in _used(table, slot):
        if cells[row + STATE] != FREE and cells[row + ID] in tunnels:
            _free(table, row)


def _free(table: Table, row: int) -> None:
    table.cells[row + STATE] = FREE
    table.wipe_sessions(row)


def _used(table: Table, slot: int) -> range:
    first = table.first_row(slot)
    return range(first, first + table.cells[table.worker(slot) + W_HIGH_ROWS] * ROW_CELLS, ROW_CELLS)


def _move(table: Table, source: int, slot: int) -> int:
    """Move all tunnels of a slot to another. :returns: how many did not fit"""
    cells = table.cells
    tunnels = list(table.rows(source))
    if not tunnels:
        return 0
    slice_ = Slice(table, slot)
    crowded = 0
    for row in tunnels:
        try:
            new = slice_.receive(*table.copy_of(row))
        except IndexError as error:  # a corrupt row must not keep the gateway from starting: its tunnel is lost
            log.error("tunnel %x is lost: its row is corrupt: %s", cells[row + ID], error)
            continue
        if new is None:
            crowded += 1
            continue
        cells[new + STATE] = LIVE
        _free(table, row)
    return crowded
