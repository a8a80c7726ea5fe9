"""Reads from the shared table what the plan of a rebalance needs of each live tunnel, in the way of ``live.py``."""

from __future__ import annotations

import time

from gateway.routing.rebalancing import Tunnel
from gateway.tunnels.table.layout import (
    BACKEND,
    CLOSING_NS,
    HASH_KEY,
    ID,
    KIND,
    LAST_NS,
    LIVE,
    OPENED_NS,
    PACED_NS,
    ROW_CELLS,
    SIDE_0,
    SIDE_CELLS,
    STATE,
    W_HIGH_ROWS,
    WEBSOCKET,
)
from gateway.tunnels.table.table import Table


def movable_tunnels(table: Table) -> list[Tunnel]:
    """Return the live tunnels of all workers."""
    return [tunnel for slot in range(table.slots) for tunnel in _of_slot(table, slot)]


def _of_slot(table: Table, slot: int) -> list[Tunnel]:
    used = table.cells[table.worker(slot) + W_HIGH_ROWS]
    if not used:
        return []
    first = table.first_row(slot)
    end = first + used * ROW_CELLS

    def column(field: int) -> list[int]:
        return table.cells[first + field : end : ROW_CELLS].tolist()

    states, ids = column(STATE), column(ID)
    backends, kinds, opened, keys = column(BACKEND), column(KIND), column(OPENED_NS), column(HASH_KEY)
    heard = [column(SIDE_0 + LAST_NS), column(SIDE_0 + SIDE_CELLS + LAST_NS)]
    closing, paced = column(CLOSING_NS), column(PACED_NS)
    ids_after, states_after = column(ID), column(STATE)
    now = time.monotonic_ns()
    return [
        Tunnel(
            id=ids[i],
            slot=slot,
            backend=backends[i],
            idle_ns=max(0, now - max(opened[i], heard[0][i], heard[1][i])),
            opened_ns=opened[i],
            hash_key=keys[i],
            is_websocket=kinds[i] == WEBSOCKET,
            is_leaving=closing[i] != 0 or paced[i] != 0,
            is_ending=closing[i] != 0,
        )
        for i in range(used)
        if states[i] == LIVE and states_after[i] == LIVE and ids[i] == ids_after[i]
    ]
