"""What the processes of a gateway that is gone have left in the table: each tunnel in one row, each worker in one slot.

A supervisor that died in an upgrade leaves rows in both slots of a worker, and some tunnels in two rows: released in
the one, and taken over, or about to be, in the other. Nobody else may use the table meanwhile.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.tunnels.table.layout import FREE, ID, LIVE, RELEASED, ROW_CELLS, STATE, W_HIGH_ROWS, W_PID, W_READY
from gateway.tunnels.table.table import Slice, Table


class Settled(NamedTuple):
    """How the table is now."""

    slots: list[int]
    """by worker: where its tunnels are, and its successor is to run"""
    crowded: int
    """tunnels that are lost, since there were more of them in two slots than one has rows"""


def settle(table: Table, routes: int, backends: int) -> Settled:
    """Put everything in order, for new workers to carry on. Whoever dies in here leaves the same task to the next.

    :param routes: numbers that were given to routes, as for ``backends``
    """
    cells = table.cells
    rows = [row for slot in range(table.slots) for row in _used(table, slot)]
    served = set()
    for row in rows:
        if cells[row + STATE] == LIVE:
            if cells[row + ID] in served:
                cells[row + STATE] = FREE  # it was being moved in here
            served.add(cells[row + ID])
    for row in rows:
        if cells[row + STATE] == RELEASED:
            # It says LIVE once more, or another worker has taken it.
            cells[row + STATE] = FREE if cells[row + ID] in served else LIVE
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


def _used(table: Table, slot: int) -> range:
    first = table.first_row(slot)
    return range(first, first + table.cells[table.worker(slot) + W_HIGH_ROWS] * ROW_CELLS, ROW_CELLS)


def _move(table: Table, source: int, slot: int) -> int:
    """Move all tunnels of a slot to another; for how many there was no room."""
    cells = table.cells
    tunnels = list(table.rows(source))
    if not tunnels:
        return 0
    slice_ = Slice(table, slot)
    crowded = 0
    for row in tunnels:
        new = slice_.receive(*table.copy_of(row))
        if new is None:
            crowded += 1
            continue
        cells[new + STATE] = LIVE
        cells[row + STATE] = FREE
    return crowded
