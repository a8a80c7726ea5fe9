"""Old workers go on with a table of another layout: this one has all that they write, once, and goes on from it.

The old worker of these tests is a real one (``harness.py``), with a table of our layout. Before each look at it that is
written anew in a layout of another kind, as if the worker had written that.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

import pytest

from gateway.tunnels import parcel
from gateway.tunnels.adoption import adopt
from gateway.tunnels.conversion import CannotConvert
from gateway.tunnels.handover import Handover, take_over
from gateway.tunnels.layout import (
    B_CONNECT_NS,
    CAUSES,
    CLIENT,
    DIRTY,
    FREE,
    H_STARTED_UNIX_NS,
    ID,
    LIVE,
    RELEASED,
    ROUTE,
    ROW_CELLS,
    SIDES,
    STATE,
    T_BYTES,
    T_GAPS_SUM_NS,
    TEXTS,
    TOTAL_CELLS,
    TOTALS,
    W_ADOPTED,
    W_HEARTBEAT_NS,
    W_HIGH_ROWS,
    W_LAST_ID,
)
from gateway.tunnels.mirrors import AT_ONCE, Mirrors
from gateway.tunnels.poller import Poller
from gateway.tunnels.sweep import Sweep, set_deadline
from gateway.tunnels.table import Slice, Table

from .harness import DESCRIPTORS, Rig, Tunnel
from .other_layouts import address_in, other, translated
from .test_adoption import BACKEND_SIDE, BOTH, BUFFERS, FLOOD, HELLO, LONG, STATES, in_a_header, names_of_cells
from .test_handover import stalled

NAMES = (3, 3)
SEEDS = pytest.mark.parametrize("seed", range(4))


class Transition:
    """Slot 0 is an old worker's, which knows another layout; slot 1 is that of the worker that replaces it."""

    def __init__(self, rig: Rig, seed: int = 0, drop: bool = False) -> None:
        self.rig = rig
        self.theirs, self.default = other(rig.table.description, Random(seed), drop)
        self.handover = Handover(rig.slice, rig.relay)
        self.fd = translated(rig.table, self.theirs, self.default, NAMES)
        self.mirrors = Mirrors.inherit(os.dup(self.fd), 16, lambda: NAMES, {0})
        self.table = self.mirrors.table
        self.slice = Slice(self.table, 1)
        self.poller: Poller = Poller(self.table, DESCRIPTORS, self.slice.release)
        self.relays = True

    def write(self) -> None:
        """The old worker has written its table."""
        fd = translated(self.rig.table, self.theirs, self.default, NAMES)
        with open(fd, "rb") as file:
            os.pwrite(self.fd, file.read(), 0)

    def release(self, most: int = 100) -> tuple[int, list[parcel.Tunnel]]:
        """The old worker's parcel, as one of that layout would fill it in."""
        fd = self.handover.release(most)
        tunnels = parcel.unpack(fd)
        parcel.readdress(fd, [address_in(self.rig.table, self.theirs, 0, each.row) for each in tunnels])
        self.write()
        return fd, parcel.unpack(fd)

    def move(self) -> tuple[int, list[int]]:
        """One round, as the supervisor has it done."""
        fd, tunnels = self.release()
        stay = self.mirrors.moving(0, fd, tunnels)
        kept = {each.id: tuple(map(os.dup, self.rig.kept[each.id])) for each in tunnels if each.id not in stay}
        moved = take_over(self.slice, self.poller.relay, self.table.copy_of, fd, kept)
        os.close(fd)
        self.handover.forget(moved[1])
        return moved

    def go_on_with_the_new_one(self) -> None:
        """The rig drives the new worker from now on."""
        self.rig.poller.select(0)
        self.rig.poller.close()
        self.rig.poller, self.rig.slice, self.rig.relay = self.poller, self.slice, self.poller.relay
        self.rig.sweeper = Sweep(self.slice, self.poller.relay)
        self.old_table, self.rig.table, self.rig.cells = self.rig.table, self.table, self.table.cells

    def close(self) -> None:
        for row in list(self.table.rows(1)):
            self.poller.relay.finish(row)
        self.poller.select(0)
        self.rig.poller.select(0)
        other_table = self.table
        if self.rig.poller is self.poller:
            other_table = self.old_table
        else:
            self.poller.close()
        del self.handover, self.poller  # a relay holds on to its table
        self.rig.close()
        with contextlib.suppress(BufferError):  # the traceback of a failed test holds on to it, too
            other_table.close()
        self.mirrors.close()
        os.close(self.fd)


@pytest.fixture
def transition() -> Iterator[Callable[..., Transition]]:
    with contextlib.ExitStack() as stack:

        def begin(rig: Rig, seed: int = 0, drop: bool = False) -> Transition:
            made = Transition(rig, seed, drop)
            stack.callback(made.close)
            return made

        yield begin


Begin = Callable[..., Transition]


# --- tunnels move -----------------------------------------------------------------------------------------------------


@SEEDS
@pytest.mark.parametrize("bring_about", [stalled, *STATES])
def test_a_row_is_the_same_in_another_layout(
    transition: Begin, bring_about: Callable[[Rig, Tunnel], None], seed: int
) -> None:
    """From ours to the other, and back: every cell, but for those that are worked out."""
    rig = Rig()
    tunnel = rig.open(buffers=BUFFERS)
    rig.slice.write_texts(tunnel.row, {name: name.encode() * 3 for name in TEXTS})
    made = transition(rig, seed)
    bring_about(rig, tunnel)
    set_deadline(rig.cells, tunnel.row)
    before = rig.cells[tunnel.row : tunnel.row + ROW_CELLS].tolist()
    assert made.move() == (1, [])
    (row,) = made.table.rows(1)
    after = made.table.cells[row : row + ROW_CELLS].tolist()
    names = names_of_cells()
    differ = {names.get(offset) for offset in range(ROW_CELLS) if before[offset] != after[offset] and offset in names}
    assert differ <= {f"{side} FD" for side in SIDES} | {"TOTALS", "DEADLINE_NS"}
    assert after[TOTALS] == made.table.totals_at(1, 0)
    texts = made.table.texts(row)
    assert texts == {name: (name * 3)[: made.theirs.texts[name][1]] for name in TEXTS}
    made.write()
    made.mirrors.refresh()
    assert list(made.table.rows()) == [row]


@SEEDS
def test_a_tunnel_goes_on_in_the_middle_of_a_header(transition: Begin, seed: int) -> None:
    rig = Rig()
    tunnel = rig.open()
    made = transition(rig, seed, drop=True)
    in_a_header(rig, tunnel)
    assert made.move() == (1, [])
    made.go_on_with_the_new_one()
    for side, size in ((CLIENT, 12), (BACKEND_SIDE, 1)):
        tunnel.peer(side).send(LONG[side][size:])
        rig.until(lambda side=side: tunnel.peer(1 - side).has(LONG[side]), "the rest")
    cells = made.table.cells
    totals = [made.table.totals_at(1, 0) + side * TOTAL_CELLS for side in BOTH]
    assert [cells[at + 2] for at in totals] == [1, 1], "a frame of opcode 2 each way, whose header was cut"
    assert [cells[at + T_BYTES] for at in totals] == [len(LONG[CLIENT]) - 12, len(LONG[BACKEND_SIDE]) - 1]


@SEEDS
def test_what_is_pending_goes_along(transition: Begin, seed: int) -> None:
    rig = Rig()
    tunnel = rig.open(buffers=BUFFERS)
    made = transition(rig, seed)
    sent = rig.stall(tunnel.backend, FLOOD[BACKEND_SIDE])
    assert tunnel.pending[CLIENT]
    assert made.move() == (1, [])
    made.go_on_with_the_new_one()
    rig.until(lambda: tunnel.client.read() >= 0 and len(tunnel.client.received) == len(sent), "all of it")
    assert tunnel.client.received == sent
    tunnel.client.send(HELLO[CLIENT])
    rig.until(lambda: tunnel.backend.has(HELLO[CLIENT]), "the other direction")


def test_what_is_released_and_not_taken_is_served_by_the_old_one(transition: Begin) -> None:
    rig = Rig()
    tunnel = rig.open()
    made = transition(rig)
    fd, tunnels = made.release()
    assert made.mirrors.moving(0, fd, tunnels) == frozenset()
    (moved,) = parcel.unpack(fd)
    os.close(fd)
    assert made.table.cells[moved.row + STATE] == RELEASED
    assert made.table.cells[moved.row + ID] == tunnel.id
    assert list(made.table.rows()) == []
    made.handover.resume()
    made.write()
    made.mirrors.refresh()
    assert list(made.table.rows()) == [moved.row]
    tunnel.client.send(HELLO[CLIENT])
    rig.until(lambda: tunnel.backend.has(HELLO[CLIENT]), "a message")


def test_a_tunnel_in_a_state_that_nobody_knows_here_stays(transition: Begin) -> None:
    rig = Rig()
    stays, goes = rig.open("unix"), rig.open("unix")
    made = transition(rig)
    number = made.theirs.values["CAUSE"]["NEW_1"]
    assert CAUSES[number : number + 1] != ("NEW_1",)
    fd, tunnels = made.release()
    row = next(each.row for each in tunnels if each.id == stays.id)
    os.pwrite(made.fd, number.to_bytes(8, "little"), (row + made.theirs.row.names["CAUSE"][0]) * 8)
    assert made.mirrors.moving(0, fd, tunnels) == {stays.id}
    kept = {goes.id: tuple(map(os.dup, rig.kept[goes.id]))}
    assert take_over(made.slice, made.poller.relay, made.table.copy_of, fd, kept) == (1, [stays.id])
    os.close(fd)
    made.handover.forget([stays.id])
    stays.client.send(HELLO[CLIENT])
    rig.until(lambda: stays.backend.has(HELLO[CLIENT]), "a message")


@pytest.mark.parametrize("wrong", ["row", "id"])
def test_a_parcel_that_is_about_something_else_is_refused(transition: Begin, wrong: str) -> None:
    rig = Rig()
    rig.open()
    made = transition(rig)
    fd, (tunnel,) = made.release()
    tunnel = tunnel._replace(row=tunnel.row + 1) if wrong == "row" else tunnel._replace(id=77)
    with pytest.raises(ValueError, match=r"has no row at|is not that of tunnel 4d"):
        made.mirrors.moving(0, fd, [tunnel])
    os.close(fd)
    made.handover.resume()


# --- what readers see -------------------------------------------------------------------------------------------------


def bytes_counted(table: Table) -> list[int]:
    """By direction, of all slots: what the metrics are made of."""
    return [
        sum(table.cells[table.totals_at(slot, 0) + side * TOTAL_CELLS + T_BYTES] for slot in range(table.slots))
        for side in BOTH
    ]


def test_everything_is_counted_once_all_the_way(transition: Begin) -> None:
    """Before, while both workers serve, when the old one is gone, and after the way back."""
    rig = Rig()
    tunnels = [rig.open("unix") for _ in range(5)]
    old = rig.table
    old.cells[H_STARTED_UNIX_NS] = 12345
    old.cells[old.totals_at(1, 0) + T_BYTES] = 1000  # of an earlier worker
    old.cells[old.worker(1) + W_LAST_ID] = 77
    old.cells[old.worker(1) + W_ADOPTED] = 3
    old.cells[old.backend_at(0, 2) + B_CONNECT_NS] = -5
    made = transition(rig)
    table, expected = made.table, [1000, 0]
    assert table.cells[H_STARTED_UNIX_NS] == 12345
    assert table.cells[table.worker(1) + W_LAST_ID] == 77
    assert not table.is_up(2)
    assert table.live(0) == table.tunnels() == 5

    def say(tunnel: Tunnel) -> None:
        tunnel.client.send(HELLO[CLIENT])
        rig.until(lambda: tunnel.backend.read(), "a message")
        expected[0] += len(HELLO[CLIENT])
        made.write()
        made.mirrors.refresh()
        assert bytes_counted(table) == expected

    for tunnel in tunnels:
        say(tunnel)
    assert made.move() == (5, [])
    made.write()
    made.mirrors.refresh()
    assert (bytes_counted(table), table.tunnels(), table.live(0)) == (expected, 5, 5)
    assert table.cells[table.worker(1) + W_ADOPTED] == 8
    late = rig.open("unix")  # of a handshake that was under way in the old worker
    say(late)
    assert table.tunnels() == 6
    assert made.move() == (1, [])
    made.write()
    made.mirrors.settle(0)
    assert len(made.mirrors) == 0
    table.clear(0, *NAMES)
    made.write()  # whatever is there now does not matter
    made.mirrors.refresh()
    assert (bytes_counted(table), table.tunnels(), table.live(0)) == (expected, 6, 6)

    theirs, default = other(table.description, Random(7), drop=False)
    back = Mirrors.inherit(translated(table, theirs, default, NAMES), 16, lambda: NAMES)
    assert (bytes_counted(back.table), back.table.tunnels()) == (expected, 6)
    back.table.close()


def test_between_looks_at_the_rows_the_rest_is_current(transition: Begin) -> None:
    rig = Rig()
    made = transition(rig)
    rig.table.cells[rig.slice.block + W_HEARTBEAT_NS] = 42
    rig.open()
    made.write()
    made.mirrors.refresh(rows=False)
    assert made.table.cells[made.table.worker(0) + W_HEARTBEAT_NS] == 42
    assert made.table.live(0) == 1
    assert made.table.tunnels() == 0
    made.mirrors.refresh()
    assert made.table.tunnels() == 1


def test_a_row_that_is_given_back_or_another_tunnels_is_so_here(transition: Begin) -> None:
    rig = Rig()
    first, second = rig.open(), rig.open()
    made = transition(rig)
    for peer in (first.client, first.backend):
        peer.close()
    rig.end()
    made.write()
    made.mirrors.refresh()
    mirrored = made.table.first_row(0)
    assert made.table.cells[mirrored + STATE] == FREE
    assert not any(made.table.cells[mirrored : mirrored + ROW_CELLS])
    third = rig.open()
    assert third.row == first.row
    made.write()
    made.mirrors.refresh()
    assert [made.table.cells[row + ID] for row in made.table.rows()] == [third.id, second.id]


def test_many_rows_and_readers_in_threads() -> None:
    """A slot that settles while a thread looks at it is not written to behind that."""
    rows = 5 * AT_ONCE
    old = Table.create(1, rows)
    slice_ = Slice(old, 0)
    for _ in range(rows):
        row = slice_.allocate(1, 1)
        assert row is not None
        old.cells[row + STATE] = LIVE
    theirs, default = other(old.description, Random(3))
    mirrors = Mirrors.inherit(translated(old, theirs, default, NAMES), rows, lambda: NAMES, {0})
    stop = threading.Event()
    rounds = [0, 0]

    def look(n: int) -> None:
        while not stop.is_set():
            mirrors.refresh()
            rounds[n] += 1

    threads = [threading.Thread(target=look, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    while min(rounds) < 3:
        assert mirrors.table.tunnels() == rows
    mirrors.settle(0)
    seen = list(rounds)
    cells = mirrors.table.cells
    for row in mirrors.table.rows(0):
        cells[row + ROUTE] = 2
    while min(now - before for now, before in zip(rounds, seen, strict=True)) < 3:
        pass
    stop.set()
    for thread in threads:
        thread.join()
    assert {cells[row + ROUTE] for row in mirrors.table.rows()} == {2}
    mirrors.table.close()
    old.close()


# --- the dead ---------------------------------------------------------------------------------------------------------


@SEEDS
def test_the_successor_of_an_old_worker_that_died_carries_its_tunnels_on(transition: Begin, seed: int) -> None:
    rig = Rig()
    clean, dirty = rig.open("unix"), rig.open("unix", buffers=BUFFERS)
    made = transition(rig, seed, drop=True)
    for side in BOTH:
        clean.peer(side).send(HELLO[side][:3])
        rig.until(lambda side=side: clean.peer(1 - side).has(HELLO[side][:3]), "a piece")
    rig.stall(dirty.backend, FLOOD[BACKEND_SIDE])
    made.write()
    made.mirrors.settle(0)
    successor = Slice(made.table, 0)
    ended: list[int] = []

    def end(row: int) -> None:
        ended.append(made.table.cells[row + ID])
        successor.release(row)

    poller = Poller(made.table, DESCRIPTORS, end)
    kept = {number: tuple(map(os.dup, fds)) for number, fds in rig.kept.items()}
    found = adopt(successor, poller.relay, kept, end, lambda number: None)
    assert (found.adopted, found.dirty, found.unkept) == (1, 1, 0)
    assert ended == [dirty.id]
    rig.relay.release(clean.row)
    for side in BOTH:
        clean.peer(side).send(HELLO[side][3:])
    for side in BOTH:
        while not clean.peer(1 - side).has(HELLO[side]):
            poller.select(0.001)
    totals = [made.table.totals_at(0, 0) + side * TOTAL_CELLS for side in BOTH]
    assert [made.table.cells[at + 1] for at in totals] == [1, 1]
    rig.relay.resume(clean.row)
    for row in list(made.table.rows(0)):
        poller.relay.finish(row)
    poller.select(0)
    poller.close()
    del poller  # it holds on to the table


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


def test_more_tunnels_than_there_is_room_for() -> None:
    with pytest.raises(CannotConvert, match="3 tunnels are open in slot 0, and there is room for 2"):
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
            with pytest.raises(CannotConvert, match="in a state that this program does not know: 1 by GATE"):
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
