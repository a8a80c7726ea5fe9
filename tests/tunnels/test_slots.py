"""What an unfinished upgrade has left in the table is put in order: each tunnel once, each worker in one slot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from gateway.tunnels.table import slots
from gateway.tunnels.table.layout import (
    B_LIVE,
    BACKEND,
    BYTES,
    COUNTED,
    DIRTY,
    FREE,
    ID,
    LIVE,
    MAX_BACKENDS,
    RELEASED,
    RESERVED,
    ROUTE,
    SIDE_0,
    STATE,
    T_BYTES,
    TOTALS,
    W_LAST_ID,
    W_PID,
    W_READY,
)
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.table.slots import settle
from gateway.tunnels.table.table import Table

from .harness import Rig
from .pair import Pair
from .pure import pure_modules

WORKERS, ROWS = 2, 8
NAMES = (4, 4)
PURE_SLICE = pure_modules()["slice"].Slice


@pytest.fixture
def table() -> Iterator[Table]:
    with closing(Table.create(WORKERS, WORKERS * ROWS)) as made:
        yield made


def fill(table: Table, slot: int, states: list[int]) -> list[int]:
    """Rows in these states; their ids."""
    slice_ = Slice(table, slot)
    ids = []
    for n, state in enumerate(states):
        row = slice_.allocate(n % 4, n % 3)
        assert row is not None
        table.cells[row + STATE] = state
        table.cells[row + SIDE_0 + BYTES] = 100 * slot + n
        slice_.write_texts(row, **{"path": b"/%d/%d" % (slot, n)})
        ids.append(table.cells[row + ID])
    return ids


def ids(table: Table, slot: int) -> list[int]:
    return sorted(table.cells[row + ID] for row in table.rows(slot))


def copy_to(table: Table, tunnel: int, slot: int, state: int) -> None:
    """What a new worker does that takes a tunnel over."""
    (row,) = (row for row in range(table.first_row(0), len(table.cells) - 184, 184) if table.cells[row + ID] == tunnel)
    new = Slice(table, slot).receive(*table.copy_of(row))
    assert new is not None
    table.cells[new + STATE] = state


def test_where_nothing_was_under_way_nothing_changes(table: Table) -> None:
    first, second = fill(table, 0, [LIVE] * 3), fill(table, 1, [LIVE, RESERVED, LIVE])
    assert settle(table, *NAMES) == ([0, 1], 0)
    assert ids(table, 0) == first
    assert ids(table, 1) == [second[0], second[2]]


def test_workers_stay_in_the_slots_that_the_last_upgrade_moved_them_to(table: Table) -> None:
    tunnels = fill(table, 2, [LIVE] * 2), fill(table, 3, [LIVE] * 2)
    table.cells[table.worker(0) + W_PID] = table.cells[table.worker(2) + W_PID] = 1234
    table.cells[table.worker(2) + W_READY] = 1
    assert settle(table, *NAMES) == ([2, 3], 0)
    assert (ids(table, 2), ids(table, 3)) == tunnels
    for slot in range(table.slots):
        assert table.cells[table.worker(slot) + W_PID] == table.cells[table.worker(slot) + W_READY] == 0


def test_plain_requests_have_ended_with_their_workers(table: Table) -> None:
    for slot in range(table.slots):
        slice_ = Slice(table, slot)
        slice_.begin_request(1, 2)
        slice_.idle_connections(2, 1)
    assert settle(table, *NAMES) == ([0, 1], 0)
    assert table.load(2) == table.requests(1) == table.idle_connections(2) == 0


def test_tunnels_in_both_slots_come_together(table: Table) -> None:
    """With all that is known of them."""
    many, few = fill(table, 2, [LIVE] * 4), fill(table, 0, [LIVE] * 3)
    dirty = next(table.rows(0))
    table.cells[dirty + DIRTY] = 1
    table.cells[table.totals_at(0, 0) + T_BYTES] = 77
    assert settle(table, *NAMES) == ([2, 1], 0)
    assert ids(table, 0) == []
    assert ids(table, 2) == sorted(many + few)
    for row in table.rows(2):
        slot, n = table.cells[row + ID] >> 48, (table.cells[row + ID] & 0xFFFF) - 1
        assert table.cells[row + SIDE_0 + BYTES] == 100 * slot + n
        assert table.texts(row)["path"] == f"/{slot}/{n}"
        assert (table.cells[row + ROUTE], table.cells[row + BACKEND]) == (n % 4, n % 3)
        assert table.cells[row + TOTALS] == table.totals_at(2, n % 4)
        assert table.cells[row + DIRTY] == (slot == 0 and n == 0)
    assert table.cells[table.totals_at(0, 0) + T_BYTES] == 77, "counters never go down"
    assert table.cells[table.worker(0) + W_LAST_ID] == 3, "ids are not given again"
    assert sum(table.cells[table.backend_at(0, each) + B_LIVE] for each in range(3)) == 0


def test_what_was_released_and_nobody_took_goes_on(table: Table) -> None:
    tunnels = fill(table, 0, [RELEASED, LIVE, RELEASED])
    assert settle(table, *NAMES) == ([0, 1], 0)
    assert ids(table, 0) == tunnels


@pytest.mark.parametrize("others", [0, 4])
def test_what_was_taken_over_is_there_once(table: Table, others: int) -> None:
    """As the new worker knows it: it may have relayed since."""
    taken, left = fill(table, 0, [RELEASED, RELEASED])
    fill(table, 2, [LIVE] * others)
    copy_to(table, taken, 2, LIVE)
    (row,) = (row for row in table.rows(2) if table.cells[row + ID] == taken)
    table.cells[row + SIDE_0 + BYTES] = 5555
    (slot, _), crowded = settle(table, *NAMES)
    assert crowded == 0
    assert {taken, left} <= set(ids(table, slot))
    assert len(ids(table, slot)) == others + 2
    assert table.tunnels() == others + 2
    (row,) = (row for row in table.rows() if table.cells[row + ID] == taken)
    assert table.cells[row + SIDE_0 + BYTES] == 5555


def test_what_was_taken_over_and_has_ended_is_gone(table: Table) -> None:
    ended, left = fill(table, 0, [RELEASED, RELEASED])
    fill(table, 2, [LIVE] * 3)
    copy_to(table, ended, 2, COUNTED)
    (slot, _), _ = settle(table, *NAMES)
    assert left in ids(table, slot)
    assert ended not in {table.cells[row + ID] for row in table.rows()}
    assert table.tunnels() == 4
    assert Slice(table, slot).rows_in_use == 4


def test_what_was_about_to_be_taken_over_is_where_it_was(table: Table) -> None:
    (tunnel,) = fill(table, 0, [RELEASED])
    copy_to(table, tunnel, 2, RESERVED)
    assert settle(table, *NAMES) == ([0, 1], 0)
    assert ids(table, 0) == [tunnel]
    assert table.tunnels() == 1


def test_more_than_one_slot_holds(table: Table) -> None:
    fill(table, 0, [LIVE] * ROWS)
    fill(table, 2, [LIVE] * 3)
    assert settle(table, *NAMES) == ([0, 1], 3)
    assert len(ids(table, 0)) == table.tunnels() == ROWS


@pytest.mark.parametrize(("cell", "number"), [(BACKEND, MAX_BACKENDS), (BACKEND, -1), (ROUTE, 2**40)])
def test_a_corrupt_row_is_lost_alone(table: Table, caplog: pytest.LogCaptureFixture, cell: int, number: int) -> None:
    """Where tunnels of two slots come together."""
    corrupt, sound = fill(table, 0, [LIVE, LIVE])
    others = fill(table, 2, [LIVE] * 3)
    (row,) = (row for row in table.rows(0) if table.cells[row + ID] == corrupt)
    table.cells[row + cell] = number
    assert settle(table, *NAMES) == ([2, 1], 0)
    assert ids(table, 2) == sorted([sound, *others])
    assert f"tunnel {corrupt:x} is lost" in caplog.text


@pytest.mark.parametrize("writes", range(1, 40))
def test_whoever_does_it_may_be_killed(table: Table, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """After any number of rows, the next one finds every tunnel, and each once."""
    taken, *released = fill(table, 0, [RELEASED] * 3)
    others = fill(table, 2, [LIVE] * 3) + fill(table, 1, [LIVE])
    copy_to(table, taken, 2, LIVE)

    class Killed(BaseException):
        pass

    class Cells:
        """The table's cells until somebody has written often enough."""

        def __init__(self) -> None:
            self.left = writes

        def __getitem__(self, key: int) -> int:
            return cells[key]

        def __setitem__(self, key: int, value: int) -> None:
            if self.left == 0:
                raise Killed
            self.left -= 1
            cells[key] = value

    cells = table.cells
    table.cells = Cells()  # type: ignore[assignment]
    monkeypatch.setattr(slots, "Slice", PURE_SLICE)  # whose writes can be counted; their order is the same
    try:
        settle(table, *NAMES)
    except Killed:
        pass
    finally:
        table.cells = cells
    settle(table, *NAMES)
    assert sorted(cells[row + ID] for row in table.rows()) == sorted([taken, *released, *others])


def test_a_tunnel_goes_on_that_was_moved(rig: Rig) -> None:
    """The two slots of a worker, with real connections."""
    pair = Pair(rig)
    moved, stays = rig.open(), rig.open()
    assert pair.move(1) == (1, [])
    pair.poller.close()
    (slot,), _ = settle(rig.table, *NAMES)
    assert slot == 0
    assert rig.succeed() == (2, 0, 0)
    for tunnel in (moved, stays):
        tunnel.client.send(b"\x81\x80abcd")
        rig.until(lambda tunnel=tunnel: tunnel.backend.has(b"\x81\x80abcd"), "a message")
    assert rig.cells[moved.row + STATE] in (FREE, LIVE)
