"""A worker's slice: rows that name what does not exist, and the end of the mapping."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from gateway.tunnels.table.layout import B_LIVE, BACKEND, FREE, MAX_BACKENDS, MAX_ROUTES, STATE
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.table.table import Table

pytestmark = pytest.mark.either_build

NOWHERE = [-1, MAX_BACKENDS, 2**40, -(2**63), 2**63 - 1]


@pytest.fixture
def table() -> Iterator[Table]:
    with closing(Table.create(1, 4)) as made:
        yield made


@pytest.mark.parametrize("backend", NOWHERE)
def test_a_row_with_a_corrupt_backend_is_freed_and_counts_nowhere(table: Table, backend: int) -> None:
    slice_ = Slice(table, 0)
    row, other = slice_.allocate(0, 0), slice_.allocate(0, 1)
    assert row is not None
    assert other is not None
    table.cells[row + BACKEND] = backend
    before = table.cells[: slice_.first].tolist()
    with pytest.raises(IndexError, match="backend"):
        slice_.release(row)
    assert table.cells[: slice_.first].tolist() == before
    assert table.cells[row + STATE] == FREE
    assert slice_.allocate(0, 0) == row
    slice_.release(other)
    assert table.cells[table.backend_at(0, 1) + B_LIVE] == 0


@pytest.mark.parametrize(("route", "backend"), [*((0, n) for n in NOWHERE), (-1, 0), (MAX_ROUTES, 0)])
def test_what_does_not_exist_reserves_no_row(table: Table, route: int, backend: int) -> None:
    slice_ = Slice(table, 0)
    before = table.cells.tolist()
    with pytest.raises(IndexError, match="there is no route"):
        slice_.allocate(route, backend)
    assert table.cells.tolist() == before
    assert slice_.rows_in_use == 0


def test_a_table_is_unmapped_though_slices_of_it_are_there() -> None:
    made = Table.create(1, 4)
    slice_ = Slice(made, 0)
    assert slice_.allocate(0, 0) is not None
    made.close()
    with pytest.raises((IndexError, ValueError)):
        slice_.allocate(0, 0)
    with pytest.raises((IndexError, ValueError)):
        slice_.note_connect(0, True, 1)
