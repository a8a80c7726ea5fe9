"""Reads the live rows of the shared table while workers keep writing them.

It reads one field of all rows of a slice at a time, as a strided copy, which makes reading ten thousand tunnels cheap.
``STATE`` and ``ID`` are read before and after the rest. A row that was reused in between is left out, so all values of
a :class:`LiveRow` belong to the same tunnel.
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
    """The most used fields of a live tunnel."""

    row: int
    id: int
    slot: int
    """of the worker that relays it"""
    route: int
    """number in the registry, like ``backend``"""
    backend: int
    idle_ns: int
    """since the latest byte from either side"""


def live_rows(table: Table, registry: Registry) -> list[LiveRow]:
    """Return the live tunnels of all workers. Rows that were never used are not touched, so their pages cost nothing.

    :param registry: rows whose route or backend it does not know are left out
    """
    routes = len(registry.routes)
    backends = len(registry.backends)
    found: list[LiveRow] = []
    for slot in range(table.slots):
        found += (row for row in _of_slot(table, slot) if 0 <= row.route < routes and 0 <= row.backend < backends)
    return found


def still_holds(table: Table, row: int, row_id: int) -> bool:
    """Whether a row still belongs to the tunnel with this id. If so, what was read before belongs to it too."""
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
    # The order matters: a row becomes FREE before it is cleared, and gets its ID before it becomes LIVE again.
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
