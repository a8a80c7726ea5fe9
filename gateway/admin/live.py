"""The live rows of the shared table, read while workers go on writing them.

One field of all rows of a slice is read at a time, as a strided copy: that is what makes a look at ten thousand
tunnels cheap. ``STATE`` and ``ID`` are read before and after the rest, and a row that changed hands in between is
left out, so what is told of a tunnel belongs to one tunnel.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from gateway.routing.registry import Registry
from gateway.tunnels.table.layout import (
    BACKEND,
    ID,
    LAST_NS,
    LIVE,
    OPENED_NS,
    PONG_NS,
    ROUTE,
    ROW_CELLS,
    SIDE_0,
    SIDE_CELLS,
    STATE,
    W_HIGH_ROWS,
)
from gateway.tunnels.table.table import Table


class LiveRow(NamedTuple):
    """What is most asked of a live tunnel."""

    row: int
    id: int
    slot: int
    """of the worker that relays it"""
    route: int
    """number in the registry, as is ``backend``"""
    backend: int
    idle_ns: int
    """since the latest byte of either side"""


def live_rows(table: Table, registry: Registry) -> list[LiveRow]:
    """Every live tunnel, of all workers. Rows that were never used are not touched: their pages cost nothing.

    :param registry: rows of a route or backend that it does not know are left out
    """
    routes = len(registry.routes)
    backends = len(registry.backends)
    found: list[LiveRow] = []
    for slot in range(table.slots):
        found += (row for row in _of_slot(table, slot) if 0 <= row.route < routes and 0 <= row.backend < backends)
    return found


def still_holds(table: Table, row: int, row_id: int) -> bool:
    """Whether a row still belongs to the tunnel with this id: what was read of it before then did, too."""
    cells = table.cells
    return cells[row + STATE] == LIVE and cells[row + ID] == row_id


def _of_slot(table: Table, slot: int) -> list[LiveRow]:
    used = table.cells[table.worker(slot) + W_HIGH_ROWS]
    if not used:
        return []
    first = table.first_row(slot)
    end = first + used * ROW_CELLS

    def column(field: int) -> list[int]:
        return table.cells[first + field : end : ROW_CELLS].tolist()

    states, ids = column(STATE), column(ID)
    routes, backends, opened = column(ROUTE), column(BACKEND), column(OPENED_NS)
    heard = [column(side + field) for side in (SIDE_0, SIDE_0 + SIDE_CELLS) for field in (LAST_NS, PONG_NS)]
    # In this order: a row is made FREE before it is emptied, and gets its ID before it is LIVE again.
    ids_after, states_after = column(ID), column(STATE)
    now = time.monotonic_ns()
    return [
        LiveRow(
            first + i * ROW_CELLS,
            ids[i],
            slot,
            routes[i],
            backends[i],
            max(0, now - max(opened[i], *(column[i] for column in heard))),
        )
        for i in range(used)
        if states[i] == LIVE and states_after[i] == LIVE and ids[i] == ids_after[i]
    ]
