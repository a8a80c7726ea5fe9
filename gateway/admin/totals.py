"""The workers' totals for each side of a route, from the shared table (``T_…``)."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.tunnels.table.layout import TOTAL_CELLS
from gateway.tunnels.table.table import Table

Block = Sequence[int]
"""``TOTAL_CELLS`` integers of one worker."""


def blocks_of(table: Table, route: int, side: int) -> list[list[int]]:
    """Return the block of each worker. :param route: its number in the registry"""
    starts = [table.totals_at(slot, route) + side * TOTAL_CELLS for slot in range(table.slots)]
    return [table.cells[start : start + TOTAL_CELLS].tolist() for start in starts]


def summed(blocks: Sequence[Block]) -> list[int]:
    """Return the sum over all workers."""
    return [sum(cells) for cells in zip(*blocks, strict=True)]


def shortest(blocks: Sequence[Block], cell: int) -> int:
    """Return the shortest time that any worker has in a cell; 0 means none."""
    return min((block[cell] for block in blocks if block[cell]), default=0)
