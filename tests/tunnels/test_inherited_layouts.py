"""A program inherits tables of other layouts: what dead workers left there, what others go on with, or neither."""

from __future__ import annotations

import os
from array import array
from dataclasses import replace
from random import Random

import pytest

from gateway.tunnels.moving.mirrors import Mirrors
from gateway.tunnels.table.conversion import CannotConvert
from gateway.tunnels.table.fields import defaults
from gateway.tunnels.table.layout import (
    DIRTY,
    H_STATES,
    ID,
    LIVE,
    STATE,
    STATE_CELLS,
    T_GAPS_SUM_NS,
    TOTALS,
    W_HIGH_ROWS,
)
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.table.table import Table

from .other_layouts import other, translated
from .transition import NAMES

# --- the dead ---------------------------------------------------------------------------------------------------------


def dead(tunnels: int, high: int, max_tunnels: int) -> Mirrors:
    """What a supervisor that died with all its workers has left, as another one finds it."""
    old = Table.create(1, high)
    slice_ = Slice(old, 0)
    rows = [slice_.allocate(1, 1) for _ in range(high)]
    for n, row in enumerate(rows):
        assert row is not None
        if n < high - tunnels:
            slice_.release(row)
        else:
            old.cells[row + STATE] = LIVE
    old.cells[old.totals_at(0, 1) + T_GAPS_SUM_NS] = 5
    theirs, default = other(old.description, Random(5), drop=False)
    fd = translated(old, theirs, default, NAMES)
    ids = [old.cells[row + ID] for row in old.rows()]
    old.close()
    try:
        made = Mirrors.inherit(fd, max_tunnels, lambda: NAMES)
    except CannotConvert:
        os.close(fd)  # it was left alone
        raise
    assert [made.table.cells[row + ID] for row in made.table.rows()] == ids
    return made


@pytest.mark.parametrize(("high", "room"), [(6, 6), (6, 100), (6, 3), (3, 3)])
def test_a_table_that_all_have_left(high: int, room: int) -> None:
    made = dead(3, high, room)
    assert len(made) == 0
    table = made.table
    assert table.cells[table.worker(0) + W_HIGH_ROWS] == 3
    assert {table.cells[row + TOTALS] for row in table.rows()} == {table.totals_at(0, 1)}
    assert table.cells[table.totals_at(0, 1) + T_GAPS_SUM_NS] == 5
    slice_ = Slice(table, 0)
    assert slice_.rows_in_use == table.live(1) == 3
    table.close()


def test_a_table_from_before_cookies_were_signed_gets_a_secret() -> None:
    old = Table.create(1, 4)
    own = old.description
    names = {name: place for name, place in own.header.names.items() if "SECRET" not in name}
    older = replace(own, version=4, header=replace(own.header, names=names))
    fd = translated(old, older, defaults)
    old.close()
    table = Mirrors.inherit(fd, 4, lambda: NAMES).table
    again = Mirrors.inherit(os.dup(table.fd), 4, lambda: NAMES).table
    assert len(set(table.secret())) > 4
    assert again.secret() == table.secret()
    again.close()
    table.close()


def test_states_of_backends_are_carried_on() -> None:
    """The same for a table of another layout, where they stand elsewhere."""
    old = Table.create(1, 4)
    for number in range(NAMES[1]):
        at = old.state_at(number)
        old.cells[at : at + STATE_CELLS] = array("q", range(10 * number + 1, 10 * number + 1 + STATE_CELLS))
    old.cells[H_STATES] = 17
    theirs, default = other(old.description, Random(7), drop=False)
    fd = translated(old, theirs, default, NAMES)
    table = Mirrors.inherit(fd, 4, lambda: NAMES).table
    assert table.cells[H_STATES] == 17
    for number in range(NAMES[1]):
        at, before = table.state_at(number), old.state_at(number)
        assert table.cells[at : at + STATE_CELLS].tolist() == old.cells[before : before + STATE_CELLS].tolist()
    old.close()
    table.close()


def test_more_tunnels_than_there_is_room_for() -> None:
    with pytest.raises(CannotConvert, match="slot 0 has 3 open tunnels, and the table has room for 2"):
        dead(3, 6, 2)


def test_a_state_that_nobody_knows_is_refused_in_the_trial() -> None:
    """But for those of tunnels that end: they have a moment left."""
    with_table = Table.create(1, 4)
    slice_ = Slice(with_table, 0)
    row = slice_.allocate(0, 0)
    assert row is not None
    with_table.cells[row + STATE] = LIVE
    own = with_table.description
    more = {cell: {**own.values[cell], "NEW": 9 if cell == "GATE" else 99} for cell in ("GATE", "CAUSE")}
    newer = replace(own, version=9, values={**own.values, **more})
    for cell, value, refused in (("CAUSE", 99, False), ("client GATE", 9, True)):
        at, _ = own.row.names[cell]
        before, with_table.cells[row + at] = with_table.cells[row + at], value
        fd = translated(with_table, newer, lambda section: {}, NAMES)
        with_table.cells[row + at] = before
        made = Mirrors.inherit(fd, 4, lambda: NAMES, {0})
        if refused:
            with pytest.raises(CannotConvert, match=r"does not know the state of some tunnels \(1 by GATE\)"):
                made.check()
        else:
            made.check()
        (mirrored,) = made.table.rows()
        assert made.table.cells[mirrored + DIRTY], "no successor may carry it on"
        made.close()
        made.table.close()
    with_table.close()


# --- several at once --------------------------------------------------------------------------------------------------


def test_a_transition_that_was_not_completed_is_inherited() -> None:
    """Slot 0 goes on in the table of two programs ago, slot 1 in the one of the last."""
    oldest = Table.create(2, 8)
    Slice(oldest, 0).allocate(0, 0)
    oldest.cells[oldest.first_row(0) + STATE] = LIVE
    first, default = other(oldest.description, Random(1), drop=False)
    fd = translated(oldest, first, default, NAMES)
    last = Mirrors.inherit(os.dup(fd), 8, lambda: NAMES, {0, 1})
    last.settle(1)
    Slice(last.table, 3).allocate(0, 0)
    last.table.cells[last.table.first_row(3) + STATE] = LIVE
    assert [slot for slot, _ in last.left()] == [0]
    second, default = other(oldest.description, Random(2), drop=False)
    inherited = translated(last.table, second, default, NAMES)
    now = Mirrors.inherit(inherited, 8, lambda: NAMES, {0, 3}, {0: os.dup(last.left()[0][1])})
    assert sorted(slot for slot, _ in now.left()) == [0, 3]
    assert [now.table.slot_of(row) for row in now.table.rows()] == [0, 3]
    assert len({number for _, number in now.left()}) == 2
    # The worker of slot 0 writes the table of two programs ago.
    os.pwrite(fd, (0).to_bytes(8, "little"), (first.row.block(0) + first.row.names["STATE"][0]) * 8)
    now.refresh()
    assert [now.table.slot_of(row) for row in now.table.rows()] == [3]
    # As above, but everybody has died meanwhile.
    os.pwrite(
        fd, first.values["STATE"]["LIVE"].to_bytes(8, "little"), (first.row.block(0) + first.row.names["STATE"][0]) * 8
    )
    (at,) = {number for slot, number in now.left() if slot == 3}
    later = Mirrors.inherit(os.dup(at), 8, lambda: NAMES, (), {0: os.dup(fd)})
    assert later.left() == []
    assert [later.table.slot_of(row) for row in later.table.rows()] == [0, 3]
    later.table.close()
    now.refresh()
    for slot in (0, 3):
        now.settle(slot)
    assert now.left() == []
    assert [now.table.slot_of(row) for row in now.table.rows()] == [0, 3]
    last.close()
    os.close(fd)
    for table in (oldest, last.table, now.table):
        table.close()


def test_the_same_layout_needs_no_mirrors() -> None:
    table = Table.create(1, 4)
    made = Mirrors.inherit(os.dup(table.fd), 4, lambda: NAMES, {0, 1})
    assert (len(made), made.left()) == (0, [])
    assert os.readlink(f"/proc/self/fd/{made.table.fd}") == os.readlink(f"/proc/self/fd/{table.fd}")
    made.table.close()
    table.close()


def test_nothing_is_left_open() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    made = dead(3, 6, 6)
    made.table.close()
    with pytest.raises(CannotConvert):
        dead(3, 6, 2)
    assert descriptors() == before
