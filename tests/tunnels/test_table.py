"""The shared table: rows are given out and taken back, all processes see the same, what is unused costs nothing."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from gateway.tunnels.table.layout import (
    B_CONNECT_NS,
    B_IDLE,
    B_LIVE,
    B_REQUESTS,
    BACKEND,
    CAUSE,
    DEADLINE_NS,
    FREE,
    H_MAGIC,
    H_VERSION,
    ID,
    INITIATOR,
    LIVE,
    MAX_BACKENDS,
    MAX_ROUTES,
    NEVER,
    RESERVED,
    ROUTE,
    ROW_CELLS,
    STATE,
    T_BYTES,
    TEXTS,
    TOTALS,
    W_HIGH_ROWS,
)
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.table.table import Table

pytestmark = pytest.mark.either_build


@pytest.fixture
def table() -> Iterator[Table]:
    with closing(Table.create(2, 8)) as made:
        yield made


def taken(slice_: Slice, route: int = 0, backend: int = 0) -> int:
    row = slice_.allocate(route, backend)
    assert row is not None
    return row


# --- rows -------------------------------------------------------------------------------------------------------------


def test_rows_are_given_out_from_the_lowest(table: Table) -> None:
    slice_ = Slice(table, 1)
    rows = [taken(slice_) for _ in range(4)]
    assert rows == [table.first_row(1) + n * ROW_CELLS for n in range(4)]
    for row in (rows[2], rows[0], rows[3]):
        slice_.release(row)
    assert [taken(slice_) for _ in range(3)] == [rows[0], rows[2], rows[3]]


def test_a_full_slice_gives_none_until_a_row_is_released(table: Table) -> None:
    slice_ = Slice(table, 0)
    rows = [taken(slice_) for _ in range(4)]
    assert slice_.allocate(0, 0) is None
    assert slice_.rows_in_use == 4
    slice_.release(rows[1])
    assert slice_.rows_in_use == 3
    assert taken(slice_) == rows[1]
    assert slice_.allocate(0, 0) is None
    # The other slice is as empty as it was.
    assert taken(Slice(table, 1)) == table.first_row(1)


def test_capacity_is_shared_out_and_never_less_than_asked_for() -> None:
    for workers, tunnels, each in ((3, 10, 4), (2, 8, 4), (4, 1, 1)):
        with closing(Table.create(workers, tunnels)) as table:
            assert table.rows_per_worker == each
            slices = [Slice(table, slot) for slot in range(workers)]
            rows = {taken(slice_) for slice_ in slices for _ in range(each)}
            assert len(rows) == workers * each
            assert [table.slot_of(row) for row in sorted(rows)] == [n // each for n in range(workers * each)]


def test_readers_look_no_further_than_rows_ever_used(table: Table) -> None:
    slice_ = Slice(table, 0)
    assert slice_.used_rows == 0
    rows = [taken(slice_) for _ in range(3)]
    for row in rows:
        slice_.release(row)
    assert (slice_.used_rows, slice_.rows_in_use) == (3, 0)
    taken(slice_)
    assert table.cells[table.worker(0) + W_HIGH_ROWS] == 3
    # Whatever lies beyond is not looked at.
    table.cells[table.first_row(0) + 3 * ROW_CELLS + STATE] = LIVE
    assert list(table.rows()) == []


def test_a_row_says_who_it_is(table: Table) -> None:
    slice_ = Slice(table, 1)
    first, second = taken(slice_, route=3, backend=7), taken(slice_, route=4, backend=7)
    cells = table.cells
    assert (cells[first + STATE], cells[first + ROUTE], cells[first + BACKEND]) == (RESERVED, 3, 7)
    assert cells[first + TOTALS] == table.totals_at(1, 3) != cells[second + TOTALS]
    assert (cells[first + INITIATOR], cells[first + CAUSE], cells[first + DEADLINE_NS]) == (-1, -1, NEVER)
    seen = {cells[first + ID], cells[second + ID]}
    for slot in (1, 0):
        for _ in range(2):
            slice_ = Slice(table, slot)
            row = taken(slice_)
            seen.add(cells[row + ID])
            slice_.release(row)
    assert len(seen) == 6, "no two tunnels have the same id"


def test_a_released_row_is_empty(table: Table) -> None:
    slice_ = Slice(table, 0)
    row = taken(slice_)
    for cell in range(row, row + ROW_CELLS):
        table.cells[cell] = 1
    table.cells[row + STATE] = LIVE
    assert list(table.rows()) == [row]
    slice_.release(row)
    assert list(table.rows()) == []
    row_cells = table.cells[row : row + ROW_CELLS].tolist()
    assert row_cells[DEADLINE_NS] == NEVER
    row_cells[DEADLINE_NS] = 0
    assert row_cells == [FREE] + [0] * (ROW_CELLS - 1)


def test_live_rows_of_one_worker_and_of_all(table: Table) -> None:
    rows = {slot: [taken(slice_) for _ in range(2)] for slot, slice_ in enumerate([Slice(table, 0), Slice(table, 1)])}
    for slot in rows:
        table.cells[rows[slot][1] + STATE] = LIVE
    assert list(table.rows()) == [rows[0][1], rows[1][1]]
    assert list(table.rows(1)) == [rows[1][1]]


def test_the_next_worker_of_a_slot_finds_what_the_last_one_left(table: Table) -> None:
    before = Slice(table, 0)
    rows = [taken(before) for _ in range(4)]
    before.release(rows[0])
    before.release(rows[2])
    after = Slice(table, 0)
    assert after.rows_in_use == 2
    assert [after.allocate(0, 0) for _ in range(3)] == [rows[0], rows[2], None]


# --- backends ---------------------------------------------------------------------------------------------------------


def test_live_counts_of_a_backend_span_all_workers(table: Table) -> None:
    slices = [Slice(table, 0), Slice(table, 1)]
    rows = [taken(slices[0], backend=5), taken(slices[1], backend=5), taken(slices[1], backend=6)]
    assert (table.live(5), table.live(6), table.live(0)) == (2, 1, 0)
    slices[0].use_backend(rows[0], 6)
    assert (table.live(5), table.live(6)) == (1, 2)
    slices[0].release(rows[0])
    slices[1].release(rows[2])
    assert (table.live(5), table.live(6)) == (1, 0)
    assert table.cells[table.backend_at(1, 5) + B_LIVE] == 1


def test_a_successor_counts_the_tunnels_that_it_finds(table: Table) -> None:
    """Whatever the counts were when its predecessor died."""
    before = Slice(table, 0)
    rows = [taken(before, backend=5) for _ in range(3)]
    before.release(rows[1])
    table.cells[table.backend_at(0, 5) + B_LIVE] = 17
    table.cells[table.backend_at(0, 6) + B_LIVE] = 1
    Slice(table, 0)
    assert (table.live(5), table.live(6)) == (2, 0)


def test_a_successor_empties_a_row_that_was_being_released(table: Table) -> None:
    before = Slice(table, 0)
    row = taken(before)
    table.cells[row + STATE] = FREE  # as far as its predecessor came
    assert table.cells[row + ID]
    after = Slice(table, 0)
    cells = table.cells[row : row + ROW_CELLS].tolist()
    assert cells.pop(DEADLINE_NS) == NEVER
    assert not any(cells)
    assert after.allocate(0, 0) == row


def test_a_backend_is_up_as_its_latest_connection_says(table: Table) -> None:
    slices = [Slice(table, 0), Slice(table, 1)]
    assert table.is_up(1)
    slices[0].note_connect(1, False, 100)
    assert not table.is_up(1)
    slices[1].note_connect(1, True, 200)
    assert table.is_up(1)
    slices[1].note_connect(1, False, 300)
    assert not table.is_up(1)
    assert table.is_up(2)


# --- plain requests ---------------------------------------------------------------------------------------------------


def test_requests_in_flight_count_towards_the_load_of_their_backend(table: Table) -> None:
    slices = [Slice(table, 0), Slice(table, 3)]
    tunnel = taken(slices[1], route=2, backend=5)
    for slice_, route in ((slices[0], 2), (slices[1], 2), (slices[1], 0)):
        slice_.begin_request(route, 5)
    assert (table.load(5), table.live(5), table.load(4), table.load(6)) == (4, 1, 0, 0)
    assert [table.requests(route) for route in (0, 1, 2)] == [1, 0, 2]
    slices[1].move_request(5, 6)
    assert (table.load(5), table.load(6), table.requests(0)) == (3, 1, 1)
    slices[1].end_request(0, 6)
    slices[0].end_request(2, 5)
    assert (table.load(5), table.load(6)) == (2, 0)
    assert [table.requests(route) for route in (0, 1, 2)] == [0, 0, 1]
    slices[1].release(tunnel)
    slices[1].end_request(2, 5)
    assert table.load(5) == table.requests(2) == 0


def test_the_last_numbers_have_cells_of_their_own(table: Table) -> None:
    """None of them lies in the blocks of a neighbour."""
    for slot in range(table.slots):
        slice_ = Slice(table, slot)
        slice_.begin_request(MAX_ROUTES - 1, MAX_BACKENDS - 1)
        slice_.idle_connections(MAX_BACKENDS - 1, 2)
    assert table.load(MAX_BACKENDS - 1) == table.requests(MAX_ROUTES - 1) == table.slots
    assert table.idle_connections(MAX_BACKENDS - 1) == 2 * table.slots
    assert table.load(0) == table.requests(0) == table.idle_connections(0) == 0
    assert list(table.rows()) == []


def test_idle_connections_are_counted_over_all_workers(table: Table) -> None:
    slices = [Slice(table, 0), Slice(table, 1)]
    slices[0].idle_connections(3, 1)
    slices[1].idle_connections(3, 2)
    slices[1].idle_connections(3, -1)
    assert (table.idle_connections(3), table.idle_connections(2)) == (2, 0)


@pytest.mark.parametrize("how", ["succeeded", "cleared"])
def test_requests_of_a_worker_that_is_gone_are_in_flight_no_more(table: Table, how: str) -> None:
    """Those of other workers are; what is counted for good stays."""
    dead, other = Slice(table, 0), Slice(table, 1)
    row = taken(dead, route=2, backend=5)
    table.cells[row + STATE] = LIVE
    dead.note_connect(5, False, 100)
    table.cells[table.totals_at(0, 2) + T_BYTES] = 7
    for slice_ in (dead, other):
        slice_.begin_request(2, 5)
        slice_.idle_connections(5, 3)
    if how == "succeeded":
        Slice(table, 0)
    else:
        table.clear(0, 3, 6)
    assert (table.load(5) - table.live(5), table.requests(2), table.idle_connections(5)) == (1, 1, 3)
    assert table.live(5) == (how == "succeeded")
    assert not table.is_up(5)
    assert table.cells[table.totals_at(0, 2) + T_BYTES] == 7


# --- texts ------------------------------------------------------------------------------------------------------------


def test_texts_are_kept(table: Table) -> None:
    slice_ = Slice(table, 0)
    rows = [taken(slice_), taken(slice_)]
    texts = {name: f"{name}: ü {name}" for name in TEXTS}
    for row in rows:
        slice_.write_texts(row, **{name: text.encode() for name, text in texts.items()})
    assert table.texts(rows[0]) == table.texts(rows[1]) == texts
    slice_.release(rows[0])
    assert taken(slice_) == rows[0]
    slice_.write_texts(rows[0], **{"host": b"short"})
    assert table.texts(rows[0]) == {**dict.fromkeys(TEXTS, ""), "host": "short"}
    assert table.texts(rows[1]) == texts


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("letter", ["x", "ü", "€", "🐘"])
def test_a_text_that_does_not_fit_is_cut(table: Table, name: str, letter: str) -> None:
    slice_ = Slice(table, 0)
    row, neighbour = taken(slice_), taken(slice_)
    slice_.write_texts(neighbour, **{"client": b"untouched"})
    text = "a" + letter * 300
    slice_.write_texts(row, **{other: text.encode() for other in TEXTS})
    kept = table.texts(row)[name]
    whole = kept.rstrip("\N{REPLACEMENT CHARACTER}")
    assert text.startswith(whole)
    assert TEXTS[name] - 3 <= len(whole.encode()) <= TEXTS[name]
    assert len(kept) - len(whole) <= 1
    assert table.texts(neighbour)["client"] == "untouched"


def test_any_bytes_can_be_read_as_text(table: Table) -> None:
    slice_ = Slice(table, 0)
    row = taken(slice_)
    slice_.write_texts(row, **dict.fromkeys(TEXTS, bytes(range(128, 168))))
    assert set(table.texts(row)) == set(TEXTS)
    # A row that is being written while it is read has any length in it.
    table.cells[row : row + ROW_CELLS] = memoryview(b"\xff" * ROW_CELLS * 8).cast("q")
    assert set(table.texts(row)) == set(TEXTS)


# --- the memory behind it ---------------------------------------------------------------------------------------------


def resident(table: Table) -> int:
    """Bytes of memory that the table takes."""
    return os.fstat(table.fd).st_blocks * 512


def test_rows_that_were_never_used_cost_no_memory() -> None:
    with closing(Table.create(4, 65536)) as table:
        size = os.fstat(table.fd).st_size
        assert size > 65536 * ROW_CELLS * 8
        slice_ = Slice(table, 0)
        assert list(table.rows()) == []
        before = resident(table)
        assert before < 100_000
        rows = [taken(slice_) for _ in range(100)]
        grown = resident(table) - before
        assert grown <= 100 * ROW_CELLS * 8 + 8 * 4096
        for row in rows:
            slice_.release(row)
        for _ in range(1000):
            slice_.release(taken(slice_))
        assert resident(table) - before == grown


OTHER_PROCESS = """
import json, sys
from gateway.tunnels.table.layout import BACKEND, STATE
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.table.table import Table
table = Table(int(sys.argv[1]))
row = next(table.rows(0))
mine = Slice(table, 1).allocate(0, 9)
table.cells[mine + STATE] = 2
print(json.dumps([row, table.texts(row)["host"], table.live(7), table.cells[row + BACKEND], mine]))
"""


def test_another_process_sees_the_same(table: Table) -> None:
    slice_ = Slice(table, 0)
    row = taken(slice_, backend=7)
    slice_.write_texts(row, **{"host": "zürich.example".encode()})
    table.cells[row + STATE] = LIVE
    command = [sys.executable, "-c", OTHER_PROCESS, str(table.fd)]
    output = subprocess.run(command, pass_fds=[table.fd], stdout=subprocess.PIPE, check=True).stdout
    *found, theirs = json.loads(output)
    assert found == [row, "zürich.example", 1, 7]
    assert list(table.rows()) == [row, theirs]
    assert table.live(9) == 1


@pytest.mark.parametrize("cell", [H_MAGIC, H_VERSION])
def test_what_is_no_table_of_this_version_is_refused(table: Table, cell: int) -> None:
    table.cells[cell] += 1
    with pytest.raises(ValueError, match="not a table"):
        Table(table.fd)


@pytest.mark.parametrize("size", [0, 1, 8, 100, 4096])
def test_what_is_no_table_at_all_is_refused(size: int) -> None:
    fd = os.memfd_create("no-table")
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, fd)
        os.ftruncate(fd, size)
        with pytest.raises(ValueError, match="not a table"):
            Table(fd)


# --- numbers of backends ----------------------------------------------------------------------------------------------


def test_what_refers_to_a_backends_number(table: Table) -> None:
    """Rows in whatever state, in any slot, and what workers count."""
    assert table.backends_in_use() == set()
    reserved, live = taken(Slice(table, 0), backend=3), taken(Slice(table, 3), backend=MAX_BACKENDS - 1)
    table.cells[live + STATE] = LIVE
    for slot, cell, backend in ((1, B_REQUESTS, 5), (2, B_IDLE, 6)):
        table.cells[table.backend_at(slot, backend) + cell] = 1
    table.cells[table.backend_at(0, 7) + B_CONNECT_NS] = -5  # the past alone does not count
    assert table.backends_in_use() == {3, 5, 6, MAX_BACKENDS - 1}
    Slice(table, 0).release(reserved)
    assert table.backends_in_use() == {5, 6, MAX_BACKENDS - 1}


def test_a_backend_that_is_forgotten_leaves_nothing_to_the_next_one(table: Table) -> None:
    for slot in range(table.slots):
        Slice(table, slot).note_connect(2, False, 77)
        Slice(table, slot).note_connect(1, False, 77)
        Slice(table, slot).note_connect(3, False, 77)
    table.forget_backend(2)
    assert [table.is_up(backend) for backend in (1, 2, 3)] == [False, True, False]
