"""A table says what is where in it; whatever else is in its place is refused, and does no harm."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tunnels.table import description
from gateway.tunnels.table.description import CELL_BYTES, Description, Undescribed
from gateway.tunnels.table.fields import describe
from gateway.tunnels.table.layout import (
    H_DESCRIPTION_AT,
    H_DESCRIPTION_BYTES,
    H_MAGIC,
    H_VERSION,
    ROW_CELLS,
    STATE,
)
from gateway.tunnels.table.table import OtherLayout, Table

from .other_layouts import other, translated

pytestmark = pytest.mark.either_build

JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=3) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture
def table() -> Iterator[Table]:
    with closing(Table.create(2, 8)) as made:
        yield made


def test_a_table_describes_itself(table: Table) -> None:
    found = description.read(table.fd)
    assert found == table.description == describe(2, 4)
    assert found.size_bytes == os.fstat(table.fd).st_size
    for slot in range(table.slots):
        assert found.worker.block(slot) == table.worker(slot)
        assert found.backend.block(slot, 7) == table.backend_at(slot, 7)
        assert found.totals.block(slot, 5) == table.totals_at(slot, 5)
        assert found.row.block(slot) == table.first_row(slot)
    assert found.row.names["STATE"] == (STATE, 1)


def test_a_table_of_another_layout_is_told_from_what_is_none(table: Table) -> None:
    theirs, default = other(table.description, Random(1))
    fd = translated(table, theirs, default)
    try:
        assert description.read(fd) == theirs
        with pytest.raises(OtherLayout):
            Table(fd)
    finally:
        os.close(fd)


@given(st.integers(0, 2**32).map(Random))
def test_what_was_written_is_read(random: Random) -> None:
    theirs, _ = other(describe(1, 2), random)
    assert Description.load(theirs.dump()) == theirs


@pytest.mark.parametrize(
    ("cell", "value", "why"),
    [
        (H_MAGIC, 5, "not a table of a gateway"),
        (H_VERSION, 99, "not a table to rely on: it is of version 99"),
        (H_DESCRIPTION_AT, 0, "not a table that describes itself"),
        (H_DESCRIPTION_BYTES, 0, "not a table that describes itself"),
        (H_DESCRIPTION_BYTES, 2**40, "not a table that describes itself"),
        (H_DESCRIPTION_BYTES, 100, "description is damaged"),
        (H_DESCRIPTION_AT, 2**62, "description is damaged"),
    ],
)
def test_a_damaged_head(table: Table, cell: int, value: int, why: str) -> None:
    table.cells[cell] = value
    with pytest.raises(Undescribed, match=why):
        description.read(table.fd)


def test_a_table_that_was_cut(table: Table) -> None:
    os.truncate(table.fd, table.description.size_bytes - CELL_BYTES)
    with pytest.raises(Undescribed, match="shorter than it says"):
        description.read(table.fd)


def spoilt(spoil: Callable[[dict[str, Any]], None]) -> bytes:
    found = json.loads(describe(1, 2).dump())
    spoil(found)
    return json.dumps(found).encode()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda found: found.update(form=2), "in form 2, which this program cannot read"),
        (lambda found: found.pop("row"), "KeyError: 'row'"),
        (lambda found: found["row"]["names"].update(STATE=[ROW_CELLS, 1]), "a cell lies outside"),
        (lambda found: found["row"]["names"].update(STATE=[-1, 1]), "-1 is not a number"),
        (lambda found: found["texts"].update(host=[ROW_CELLS * 8 - 2, 1]), "a text lies outside"),
        (lambda found: found["bounds"].update(T_GAPS=[2, 2]), "bounds of T_GAPS do not rise"),
        (lambda found: found["bounds"].update(T_GAPS=[2, 3]), "has not as many cells as buckets"),
        (lambda found: found["backend"].update(at=2**40), "a section lies behind the last one"),
        (lambda found: found.update(workers=True), "True is not a number"),
    ],
)
def test_a_description_that_contradicts_itself(spoil: Callable[[dict[str, Any]], None], why: str) -> None:
    with pytest.raises(Undescribed, match=why):
        Description.load(spoilt(spoil))


@given(st.binary(max_size=60) | JUNK.map(lambda junk: json.dumps(junk).encode()))
def test_bytes_that_are_none(data: bytes) -> None:
    with pytest.raises(Undescribed):
        Description.load(data)


@given(st.data())
def test_a_description_with_something_else_in_one_place(data: st.DataObject) -> None:
    """It is refused, or it can be read: there is no other error."""

    def spoil(found: dict[str, Any]) -> None:
        at: Any = found
        while True:
            key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
            if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
                at[key] = data.draw(JUNK)
                return
            at = at[key]

    try:
        found = Description.load(spoilt(spoil))
    except Undescribed:
        return
    assert Description.load(found.dump()) == found
