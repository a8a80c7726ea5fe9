"""Whose turn is when: drains that are even over all workers, and clients of a backend that died, a few at a time."""

from __future__ import annotations

from collections import Counter

import pytest

from gateway.tunnels.table.layout import (
    BACKEND,
    CLOSING_NS,
    DEADLINE_NS,
    ID,
    KIND,
    LIVE,
    NEVER,
    OPAQUE,
    PACED_CODE,
    PACED_NS,
    RESERVED,
    STATE,
)
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.table.table import Table
from gateway.tunnels.upkeep.pacing import (
    LOSS_SPREAD_NS,
    LOSSES_AT_ONCE,
    Drains,
    Losses,
    cancel_drain,
    give_turns,
    plan_drain,
)

from .harness import NS, Rig
from .wire import close_frames, closing

NOW = 1_000 * NS


@pytest.fixture
def table():
    table = Table.create(4, 4000)
    yield table
    table.close()


def fill(table: Table, *counts: int, backend: int = 0) -> list[Slice]:
    """Live rows in as many slices."""
    slices = [Slice(table, slot) for slot in range(len(counts))]
    for slice_, count in zip(slices, counts, strict=True):
        for _ in range(count):
            row = slice_.allocate(0, backend)
            assert row is not None
            table.cells[row + STATE] = LIVE
    return slices


def turns(table: Table) -> list[int]:
    """Turns of all rows that have one, in order."""
    return sorted(turn - NOW for row in table.rows() if (turn := table.cells[row + PACED_NS]))


# --- a drain ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [(100,), (50, 50), (25, 25, 25, 25), (97, 1, 1, 1), (70, 0, 30)])
def test_turns_are_even_over_all_workers(table: Table, counts: tuple[int, ...]) -> None:
    for slice_ in fill(table, *counts):
        plan_drain(slice_, NOW, 20 * NS, 1012)
    all_turns = turns(table)
    assert len(all_turns) == 100
    assert (all_turns[0], all_turns[-1] < 20 * NS) == (0, True)
    for second, count in Counter(turn // NS for turn in all_turns).items():
        assert 3 <= count <= 7, second  # five a second, and every worker rounds


def test_equal_shares_are_perfectly_even(table: Table) -> None:
    for slice_ in fill(table, 25, 25, 25, 25):
        plan_drain(slice_, NOW, 20 * NS, 1012)
    assert turns(table) == [number * NS // 5 for number in range(100)]


def test_a_single_tunnel_has_its_turn_at_once_whoever_has_it(table: Table) -> None:
    slices = fill(table, 0, 0, 1)
    assert [plan_drain(slice_, NOW, 3600 * NS, 1012) for slice_ in slices] == [NOW, NOW, NOW]
    assert turns(table) == [0]


def test_a_row_says_when_and_with_which_code(table: Table) -> None:
    (slice_,) = fill(table, 2)
    last = plan_drain(slice_, NOW, 10 * NS, 4000)
    first, second = table.rows()
    assert [table.cells[row + PACED_NS] for row in (first, second)] == [NOW, NOW + 5 * NS]
    assert [table.cells[row + DEADLINE_NS] for row in (first, second)] == [NOW, NOW + 5 * NS]
    assert table.cells[first + PACED_CODE] == 4000
    assert last == NOW + 5 * NS


def test_rows_that_end_already_and_handshakes_are_left_out(table: Table) -> None:
    (slice_,) = fill(table, 3)
    ending, handshake, left = table.rows()
    table.cells[ending + CLOSING_NS] = NOW - 1
    table.cells[handshake + STATE] = RESERVED
    plan_drain(slice_, NOW, 10 * NS, 1012)
    assert [table.cells[row + PACED_NS] for row in (ending, handshake, left)] == [0, 0, NOW]
    assert table.cells[ending + DEADLINE_NS] == NEVER


def test_an_earlier_deadline_stays(table: Table) -> None:
    (slice_,) = fill(table, 2)
    _, second = table.rows()
    table.cells[second + DEADLINE_NS] = NOW + NS
    plan_drain(slice_, NOW, 10 * NS, 1012)
    assert table.cells[second + DEADLINE_NS] == NOW + NS


def test_only_those_of_the_backends_that_are_meant(table: Table) -> None:
    fill(table, 2, 2, backend=5)
    slices = fill(table, 3, 3, backend=6)
    for slice_ in slices:
        plan_drain(slice_, NOW, 6 * NS, 1012, frozenset((6, 9)))
    assert turns(table) == [number * NS for number in range(6)]


def test_a_second_plan_takes_the_firsts_place(table: Table) -> None:
    (slice_,) = fill(table, 10)
    plan_drain(slice_, NOW, 3600 * NS, 1012)
    assert plan_drain(slice_, NOW, 0, 1012) == NOW
    assert turns(table) == [0] * 10


def test_tunnels_that_open_while_theirs_are_drained(table: Table) -> None:
    drains = Drains()
    assert not drains
    (one,) = fill(table, 100)
    rows = list(table.rows(0))
    drains.begin(NOW + 10 * NS, 1012, [0])
    assert drains
    for row in rows:
        when = drains.give_turn(one.cells, row, NOW)
        assert one.cells[row + PACED_NS] == when
        assert one.cells[row + DEADLINE_NS] == when
        assert one.cells[row + PACED_CODE] == 1012
    for second in range(10):
        assert 9 <= sum(second * NS <= turn < (second + 1) * NS for turn in turns(table)) <= 11
    assert drains.give_turn(one.cells, rows[0], NOW) == 0  # it has one
    cancel_drain(one, [0])
    late = NOW + 20 * NS
    assert drains.give_turn(one.cells, rows[0], late) == late
    cancel_drain(one, [0])
    drains.cancel([0, 1])
    assert not drains
    assert drains.give_turn(one.cells, rows[0], NOW) == 0
    drains.begin(NOW, 1000)
    assert drains.give_turn(one.cells, rows[0], NOW) == NOW
    one.cells[rows[1] + CLOSING_NS] = NOW
    assert drains.give_turn(one.cells, rows[1], NOW) == 0


def test_single_tunnels_get_turns(table: Table) -> None:
    slices = fill(table, 4, 1)
    rows = list(table.rows(0))
    ids = [table.cells[row + ID] for row in rows]
    given = {ids[0]: NOW + 5 * NS, ids[2]: NOW + 3 * NS, 1 << 40: NOW}
    assert give_turns(slices[0], given, 1012) == NOW + 5 * NS
    assert [table.cells[row + PACED_NS] for row in rows] == [NOW + 5 * NS, 0, NOW + 3 * NS, 0]
    assert [table.cells[row + DEADLINE_NS] for row in rows] == [NOW + 5 * NS, NEVER, NOW + 3 * NS, NEVER]
    assert table.cells[rows[0] + PACED_CODE] == 1012
    assert give_turns(slices[1], {ids[1]: NOW}, 1012) == 0  # another worker's


def test_what_cannot_have_a_turn_gets_none(table: Table) -> None:
    (slice_,) = fill(table, 3)
    ending, paced, opaque = rows = list(table.rows())
    table.cells[ending + CLOSING_NS] = NOW - 1
    table.cells[paced + PACED_NS] = NOW + 1
    table.cells[opaque + KIND] = OPAQUE
    assert give_turns(slice_, {table.cells[row + ID]: NOW + 9 for row in rows}, 1012) == 0
    assert turns(table) == [1]


def test_the_sweep_closes_those_whose_turn_has_come(rig: Rig) -> None:
    tunnels = [rig.open("unix") for _ in range(4)]
    start = rig.relay.now
    plan_drain(rig.slice, start, 8 * NS, 4001)
    for tunnel in tunnels[1:]:
        tunnel.client.read()
        assert tunnel.client.received == b""
    for number, tunnel in enumerate(tunnels):
        rig.sweep(start + number * 2 * NS)
        rig.until(tunnel.client.read, "a Close frame")
        assert close_frames(bytes(tunnel.client.received)) == [(4001, False)]
        for later in tunnels[number + 1 :]:
            assert later.client.read() == 0
        tunnel.client.send(closing(4001, masked=True))
        tunnel.backend.send(closing(4001, masked=False))
        end = rig.end()
        assert (end.row, end.initiator, end.cause) == (tunnel.row, "gateway", "drain")


def test_a_tunnel_that_ends_by_itself_before_its_turn_is_left_alone(rig: Rig) -> None:
    tunnel = rig.open()
    rig.cells[tunnel.row + PACED_NS] = NEVER - 1
    tunnel.client.half_close()
    rig.until(tunnel.backend.has_ended, "FIN")
    assert tunnel.cell(PACED_NS) == 0
    rig.sweep(rig.relay.now)
    rig.assert_live(tunnel)
    tunnel.backend.close()
    assert rig.end().initiator == "client"
    assert tunnel.client.read() == 0


def test_a_backend_that_is_in_service_again_keeps_its_tunnels(rig: Rig) -> None:
    kept, other, ending = rig.open(), rig.open(), rig.open()
    rig.cells[other.row + BACKEND] = 3
    plan_drain(rig.slice, rig.relay.now, 8 * NS, 1012)
    ending.client.half_close()
    rig.until(lambda: ending.cell(CLOSING_NS), "the FIN")
    rig.cells[ending.row + PACED_NS] = turn = rig.relay.now + 5 * NS  # as of a client that is to be told of a loss
    cancel_drain(rig.slice, frozenset((0, 1)))
    assert not kept.cell(PACED_NS)
    assert other.cell(PACED_NS)
    assert ending.cell(PACED_NS) == turn
    rig.sweep(rig.relay.now + 20 * NS)
    rig.rest()
    assert kept.client.read() == 0
    rig.until(other.client.read, "the Close frame of the drain that goes on")


# --- losses -----------------------------------------------------------------------------------------------------------


def lose(losses: Losses, count: int, tunnels: int, apart_ns: int = 0, start: int = NOW, backend: int = 1) -> list[int]:
    """Lose so many tunnels of a backend; how long each client waits."""
    times = [start + number * apart_ns for number in range(count)]
    return [losses.turn_ns(backend, tunnels, at) - at for at in times]


def test_a_few_are_told_at_once() -> None:
    assert lose(Losses(1), LOSSES_AT_ONCE, 1000) == [0] * LOSSES_AT_ONCE


@pytest.mark.parametrize("tunnels", [200, 1000, 30_000])
@pytest.mark.parametrize("spread_ns", [0, NS // 10, NS])
def test_a_whole_backend_is_spread_over_a_few_seconds(tunnels: int, spread_ns: int) -> None:
    apart = spread_ns // tunnels
    waits = lose(Losses(1), tunnels, tunnels, apart)
    assert max(waits) <= LOSS_SPREAD_NS
    told = sorted(number * apart + wait for number, wait in enumerate(waits))
    assert told[-1] > 0.7 * LOSS_SPREAD_NS
    quarters = Counter(min(at * 4 // LOSS_SPREAD_NS, 3) for at in told[LOSSES_AT_ONCE:])
    mean = (tunnels - LOSSES_AT_ONCE) / 4
    assert all(abs(quarters[quarter] - mean) <= 0.35 * mean for quarter in range(4)), quarters


def test_a_small_backend_does_not_take_the_whole_time() -> None:
    assert max(lose(Losses(1), 30, 30)) == 10 * NS // LOSSES_AT_ONCE


def test_workers_share_what_is_told_at_once() -> None:
    assert [wait > 0 for wait in lose(Losses(4), 10, 1000)] == [False] * 5 + [True] * 5


def test_backends_do_not_wait_for_each_other() -> None:
    losses = Losses(1)
    assert max(lose(losses, 500, 500)) > 0
    assert lose(losses, LOSSES_AT_ONCE, 500, backend=2) == [0] * LOSSES_AT_ONCE


def test_those_who_vanish_one_by_one_never_wait() -> None:
    """Backends that end tunnels without a Close frame as a habit."""
    assert set(lose(Losses(1), 10_000, 3, NS // LOSSES_AT_ONCE)) == {0}


def test_after_a_quiet_second_a_few_are_told_at_once_again() -> None:
    losses = Losses(1)
    lose(losses, 500, 500)
    assert lose(losses, LOSSES_AT_ONCE, 500, start=NOW + LOSS_SPREAD_NS + 2 * NS) == [0] * LOSSES_AT_ONCE


def test_nobody_waits_for_longer_than_the_spread() -> None:
    assert max(lose(Losses(1), 10_000, 1)) == LOSS_SPREAD_NS
