"""Texts of a row: packed, partly elsewhere if they are long, never those of another tunnel, whatever is killed when."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.tunnels.moving.mirrors import Mirrors
from gateway.tunnels.table import texts
from gateway.tunnels.table.conversion import Conversion, Foreign
from gateway.tunnels.table.fields import defaults
from gateway.tunnels.table.layout import (
    CELL_BYTES,
    FREE,
    ID,
    LIVE,
    LONG_TEXTS,
    LONG_TEXTS_BYTES,
    LONG_TEXTS_CELLS,
    RELEASED,
    RESERVED,
    ROW_CELLS,
    STATE,
    TEXT_BYTES,
    TEXT_CELL,
    TEXTS,
)
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.table.slots import settle
from gateway.tunnels.table.table import Table

from .other_layouts import as_read_by_layout_5, layout_5, other, sizes_of, texts_in, translated
from .pure import pure_modules

pytestmark = pytest.mark.either_build

NAMES = (3, 3)
EMPTY = dict.fromkeys(TEXTS, b"")
LENGTHS_BYTES = 2 * len(TEXTS)
LONGEST = {name: (name.encode() * 64)[:size] for name, size in TEXTS.items()}
OTHERS = {name: (name.upper().encode() * 64)[:size] for name, size in TEXTS.items()}
SHORT = {name: name.encode() for name in TEXTS}


def of_bytes(size: int) -> dict[str, bytes]:
    """Texts that fill so many bytes together."""
    path = min(TEXTS["path"], size)
    return EMPTY | {"path": b"p" * path, "host": b"h" * (size - path)}


def decoded(written: dict[str, bytes]) -> dict[str, str]:
    return {name: written[name][:size].decode("utf-8", "replace") for name, size in TEXTS.items()}


def opened(slice_: Slice, written: dict[str, bytes]) -> int:
    """A tunnel's row, with texts."""
    row = slice_.allocate(0, 0)
    assert row is not None
    slice_.write_texts(row, **written)
    slice_.cells[row + STATE] = LIVE
    return row


def elsewhere(table: Table) -> bytes:
    """Where all long texts are, read so that no page is allocated."""
    at = table.description.long_texts.at * CELL_BYTES
    return os.pread(table.fd, table.description.size_bytes - at, at)


def pages_elsewhere(table: Table) -> int:
    """How many pages of long texts take memory."""
    found, at = 0, table.description.long_texts.at * CELL_BYTES
    while True:
        try:
            at = os.lseek(table.fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: there are no more
            return found
        end = os.lseek(table.fd, at, os.SEEK_HOLE)
        found, at = found - (at - end) // 4096, end


@pytest.fixture
def table() -> Iterator[Table]:
    with closing(Table.create(1, 4)) as made:
        yield made


# --- packing ----------------------------------------------------------------------------------------------------------


@given(st.fixed_dictionaries({}, optional={name: st.binary(max_size=size + 9) for name, size in TEXTS.items()}))
@example({})
@example(LONGEST)
@example(of_bytes(TEXT_BYTES - LENGTHS_BYTES))
@example(of_bytes(TEXT_BYTES - LENGTHS_BYTES + 1))
@example({name: b"\xc3\xbc" * size for name, size in TEXTS.items()})  # cut in the middle of a letter, or not
@example({name: b"." + b"\xc3\xbc" * size for name, size in TEXTS.items()})
def test_any_texts_are_read_as_they_were_written(written: dict[str, bytes]) -> None:
    cut = {name: written.get(name, b"")[:size] for name, size in TEXTS.items()}
    with closing(Table.create(1, 4)) as table:
        slice_ = Slice(table, 0)
        rows = [opened(slice_, LONGEST), opened(slice_, written), opened(slice_, OTHERS)]
        for row, expected in zip(rows, (LONGEST, cut, OTHERS), strict=True):
            assert table.texts(row) == decoded(expected)
            foreign = Foreign(table.fd)
            whole = foreign.row(0, rows.index(row))
            foreign.close()
            assert whole is not None
            assert texts_in(table.description, whole) == expected
        size = LENGTHS_BYTES + sum(map(len, cut.values()))
        assert table.cells[rows[1] + LONG_TEXTS] == max(0, size - TEXT_BYTES)
        cells, packed, _ = table.copy_of(rows[1])
        slice_.release(rows[1])
        again = slice_.receive(cells, packed)
        assert again == rows[1]
        assert table.texts(again) == decoded(cut)


@given(st.binary(max_size=TEXT_BYTES + LONG_TEXTS_BYTES + 9), st.lists(st.integers(0, 300), max_size=6))
def test_bytes_that_are_no_packed_texts(data: bytes, sizes: list[int]) -> None:
    found = texts.unpack(data, tuple(sizes))
    assert len(found) == len(sizes)
    assert all(len(text) <= size for text, size in zip(found, sizes, strict=True))


def test_the_longest_texts_fill_the_row_and_its_block() -> None:
    assert len(texts.packed(**LONGEST)) == TEXT_BYTES + LONG_TEXTS_BYTES
    assert LONG_TEXTS_BYTES <= LONG_TEXTS_CELLS * CELL_BYTES


@pytest.mark.parametrize("number", [-1, -(2**63), 2**62, LONG_TEXTS_BYTES + 1])
def test_a_corrupt_number_of_bytes_elsewhere(table: Table, number: int) -> None:
    slice_ = Slice(table, 0)
    row, neighbour = opened(slice_, SHORT), opened(slice_, LONGEST)
    table.cells[row + LONG_TEXTS] = number
    assert table.texts(row) == decoded(SHORT)
    foreign = Foreign(table.fd)
    whole = foreign.row(0, 0)
    foreign.close()
    assert whole is not None
    converted = Conversion(table.description, table.description).row(0, 0, whole).cells
    assert texts_in(table.description, converted.tobytes()) == SHORT
    slice_.release(row)
    assert table.texts(neighbour) == decoded(LONGEST)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_texts_that_fit_touch_no_other_page(table: Table) -> None:
    """Neither do reads of such rows, nor their ends, conversions and moves."""
    fits = of_bytes(TEXT_BYTES - LENGTHS_BYTES)
    slice_ = Slice(table, 0)
    assert opened(slice_, SHORT) == slice_.first
    row = opened(slice_, fits)
    foreign = Foreign(table.fd)
    assert foreign.row(0, 1) is not None
    foreign.close()
    assert table.texts(row) == decoded(fits)
    table.copy_of(row)
    slice_.release(row)
    settle(table, *NAMES)
    slice_ = Slice(table, 0)
    assert pages_elsewhere(table) == 0
    row = opened(slice_, of_bytes(TEXT_BYTES - LENGTHS_BYTES + 1))
    assert (pages_elsewhere(table), table.cells[row + LONG_TEXTS]) == (1, 1)


def test_the_memory_of_a_slot_that_is_left_is_freed() -> None:
    with closing(Table.create(1, 1000)) as table:
        slice_ = Slice(table, 1)
        for _ in range(500):
            opened(slice_, LONGEST)
        assert pages_elsewhere(table) > 500 * LONG_TEXTS_CELLS * CELL_BYTES // 4096
        table.clear(1, *NAMES)
        assert pages_elsewhere(table) <= 2  # shared with the neighbours' blocks
        assert not any(elsewhere(table))


# --- one tunnel after another -----------------------------------------------------------------------------------------


def test_nothing_of_an_ended_tunnel_is_left(table: Table) -> None:
    slice_ = Slice(table, 0)
    row = opened(slice_, LONGEST)
    slice_.release(row)
    assert not any(table.cells[row + TEXT_CELL : row + ROW_CELLS])
    assert not any(elsewhere(table))
    assert opened(slice_, of_bytes(TEXT_BYTES)) == row
    assert table.texts(row) == decoded(of_bytes(TEXT_BYTES))


def test_a_reader_of_a_tunnel_that_ends_can_tell(table: Table) -> None:
    """Its row becomes another tunnel's between the two reads of its texts."""
    slice_ = Slice(table, 0)
    row = opened(slice_, LONGEST)
    tunnel = table.cells[row + ID]
    read, foreign = table._long_texts, Foreign(table.fd)

    def late(at: int, size: int) -> bytes:
        slice_.release(row)
        assert opened(slice_, OTHERS) == row
        return read(at, size)

    table._long_texts = late  # type: ignore[method-assign]  # once
    assert table.texts(row) != decoded(LONGEST)
    assert (table.cells[row + STATE], table.cells[row + ID]) != (LIVE, tunnel)

    class Late:
        def __getitem__(self, at: int | slice) -> Any:
            if isinstance(at, slice) and at.stop - at.start < ROW_CELLS:
                late(row, 0)
            return table.cells[at]

    mapped, foreign.cells = foreign.cells, Late()  # type: ignore[assignment]  # for a moment
    assert foreign.row(0, 0) is None
    foreign.cells = mapped
    foreign.close()


def test_tunnels_of_two_slots_come_together(table: Table) -> None:
    """A supervisor died in an upgrade: rows move, and so do their texts."""
    slices = [Slice(table, 0), Slice(table, 1)]
    found = {}
    for slice_, written in zip((slices[0], slices[0], slices[1]), (LONGEST, SHORT, OTHERS), strict=True):
        found[table.cells[opened(slice_, written) + ID]] = decoded(written)
    (slot,) = settle(table, *NAMES).slots
    assert {table.cells[row + ID]: table.texts(row) for row in table.rows(slot)} == found
    assert list(table.rows(1 - slot)) == []
    for row in table.rows(slot):
        table.cells[row + STATE] = FREE
    Slice(table, slot)
    assert not any(elsewhere(table))


# --- killed -----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is no more."""


class Memory:
    """The memory of a table as a process sees it that dies before one of its writes, or in the middle of it."""

    def __init__(self, memory: Any, step: Callable[[], None]) -> None:
        self._memory = memory
        self._step = step

    def __getitem__(self, at: Any) -> Any:
        return self._memory[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        self._step()
        if isinstance(at, slice) and len(value) > 1:
            half = len(value) // 2
            self._memory[at.start : at.start + half] = value[:half]
            self._step()
        self._memory[at] = value

    def release(self) -> None:
        self._memory.release()


def dying(table: Table, look: Callable[[], None], lives: int) -> Callable[[], None]:
    """Let a table's users die. :param look: called before each write. :returns: ends that"""
    memory = (table.cells, table.bytes)
    left = lives

    def step() -> None:
        nonlocal left
        look()
        if left == 0:
            raise Killed
        left -= 1

    table.cells, table.bytes = Memory(table.cells, step), Memory(table.bytes, step)  # type: ignore[assignment]  # as above

    def end() -> None:
        table.cells, table.bytes = memory

    return end


def steps(rehearse: Callable[[int], bool]) -> int:
    """Let something be killed before each of its steps. :param rehearse: returns whether it was"""
    number = 0
    while rehearse(number):
        number += 1
    return number


def test_a_worker_that_is_killed_leaves_each_tunnel_its_texts() -> None:
    """Readers see them whole at any moment; successors too, and nothing of tunnels that ended."""

    mortal = pure_modules()["slice"].Slice  # whose writes can be counted; their order is that of the compiled one

    def rehearse(lives: int) -> bool:
        with closing(Table.create(1, 4)) as table:
            of: dict[int, dict[str, str]] = {}

            def look() -> None:
                for row in range(table.first_row(0), table.first_row(0) + 4 * ROW_CELLS, ROW_CELLS):
                    state, tunnel = real[row + STATE], real[row + ID]
                    if state == LIVE:
                        assert table.texts(row) == of[tunnel]

            def open_(written: dict[str, bytes]) -> int:
                row = slice_.allocate(0, 0)
                assert row is not None
                of[real[row + ID]] = decoded(written)
                slice_.write_texts(row, **written)
                slice_.cells[row + STATE] = LIVE
                return row

            real = table.cells
            revive = dying(table, look, lives)
            was_killed = False
            try:
                slice_ = mortal(table, 0)
                first, second = open_(LONGEST), open_(SHORT)
                slice_.release(first)
                assert open_(OTHERS) == first
                slice_.release(second)
                old = slice_.receive(*table.copy_of(first))
                assert old == second
                slice_.cells[old + STATE] = LIVE
                slice_.release(first)
            except Killed:
                was_killed = True
            revive()
            look()
            successor = Slice(table, 0)
            for row in successor.rows():
                if table.cells[row + STATE] == RESERVED:
                    successor.release(row)
            look()
            for row in list(table.rows(0)):
                successor.release(row)
            assert not any(elsewhere(table))
            assert not any(table.cells[successor.first + TEXT_CELL : successor.first + ROW_CELLS])
            assert opened(successor, of_bytes(TEXT_BYTES)) == successor.first
            assert table.texts(successor.first) == decoded(of_bytes(TEXT_BYTES))
        return was_killed

    assert steps(rehearse) > 40


# --- other layouts ----------------------------------------------------------------------------------------------------


def tunnels_with_texts(table: Table, *each: dict[str, bytes]) -> dict[int, dict[str, str]]:
    slice_ = Slice(table, 0)
    return {table.cells[opened(slice_, written) + ID]: decoded(written) for written in each}


def texts_by_id(table: Table, rows: Iterable[int]) -> dict[int, dict[str, str]]:
    return {table.cells[row + ID]: table.texts(row) for row in rows}


@pytest.mark.parametrize("running", [(), (0,)])
def test_long_texts_of_layout_5(table: Table, running: tuple[int, ...]) -> None:
    """Of a dead worker's tunnels, and of a living one's."""
    expected = tunnels_with_texts(table, LONGEST, SHORT, OTHERS, EMPTY)
    made = Mirrors.inherit(translated(table, layout_5(table.description), defaults, NAMES), 4, lambda: NAMES, running)
    assert texts_by_id(made.table, made.table.rows()) == expected
    if running:
        successor = Slice(made.table, 1)
        moved = [successor.receive(*made.table.copy_of(row)) for row in made.table.rows(0)]
        assert texts_by_id(made.table, [row for row in moved if row is not None]) == expected
        made.settle(0)
        made.table.clear(0, *NAMES)
        assert len(moved) == len(expected)
        successor = Slice(made.table, 1)
        for row in successor.rows():
            successor.release(row)
    else:
        made.table.clear(0, *NAMES)
    assert not any(elsewhere(made.table))
    made.close()
    made.table.close()


def test_a_program_with_layout_5_reads_the_client_of_a_packed_row(table: Table) -> None:
    """It goes back to that: limits by client address go on, and the other texts are empty."""
    expected = tunnels_with_texts(table, LONGEST, SHORT)
    foreign = Foreign(table.fd)
    back = Conversion(as_read_by_layout_5(table.description), layout_5(table.description))
    for number, written in enumerate(expected.values()):
        row = foreign.row(0, number)
        assert row is not None
        found = texts_in(back.new, back.row(0, number, row).cells.tobytes())
        assert found == EMPTY | {"client": written["client"].encode()}
    foreign.close()


@pytest.mark.parametrize("seed", range(6))
def test_rows_of_mirrors_have_their_own_texts_at_any_moment(table: Table, seed: int) -> None:
    """Rows of the old worker become other tunnels', with longer texts and shorter ones."""
    slice_ = Slice(table, 0)
    theirs, default = layout_5(table.description), defaults
    if seed:
        theirs, default = other(table.description, Random(seed), drop=False)
    sizes = sizes_of(theirs)
    rows = [opened(slice_, LONGEST), opened(slice_, SHORT), opened(slice_, OTHERS)]
    of: dict[int, dict[str, str]] = {}

    def note(row: int, written: dict[str, bytes]) -> None:
        of[table.cells[row + ID]] = decoded({name: text[: sizes[name]] for name, text in written.items()})

    for row, written in zip(rows, (LONGEST, SHORT, OTHERS), strict=True):
        note(row, written)
    fd = translated(table, theirs, default, NAMES)
    made = Mirrors.inherit(os.dup(fd), 4, lambda: NAMES, {0})
    mirror, real = made.table, made.table.cells

    def write() -> None:
        changed = translated(table, theirs, default, NAMES)
        with open(changed, "rb") as file:
            os.pwrite(fd, file.read(), 0)

    def look() -> None:
        for row in range(mirror.first_row(0), mirror.first_row(0) + 4 * ROW_CELLS, ROW_CELLS):
            if real[row + STATE] == LIVE:
                assert mirror.texts(row) == of[real[row + ID]]

    look()
    for turn, written in enumerate((SHORT, OTHERS, LONGEST, EMPTY, LONGEST)):
        row = rows[turn % len(rows)]
        slice_.release(row)
        assert opened(slice_, written) == row
        note(row, written)
        table.cells[rows[1] + STATE] = RELEASED if turn == 2 else LIVE
        write()
        revive = dying(mirror, look, 10**9)
        made.refresh()
        revive()
        assert texts_by_id(mirror, mirror.rows()) == {
            table.cells[row + ID]: of[table.cells[row + ID]] for row in table.rows()
        }
    for row in rows:
        slice_.release(row)
    write()
    revive = dying(mirror, look, 10**9)
    made.refresh()
    revive()
    assert not any(elsewhere(mirror))
    made.close()
    mirror.close()
    os.close(fd)
