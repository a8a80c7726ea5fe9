"""Old workers go on with a table of another layout: readers of this one find all that they write, once."""

from __future__ import annotations

import threading
from random import Random

from gateway.tunnels.moving.mirrors import AT_ONCE, Mirrors
from gateway.tunnels.table.layout import (
    B_CONNECT_NS,
    CLIENT,
    FREE,
    H_STARTED_UNIX_NS,
    ID,
    LIVE,
    ROUTE,
    ROW_CELLS,
    STATE,
    T_BYTES,
    TOTAL_CELLS,
    W_ADOPTED,
    W_HEARTBEAT_NS,
    W_LAST_ID,
)
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.table.table import Table

from .harness import Rig, Tunnel
from .other_layouts import other, translated
from .states import BOTH, HELLO
from .transition import NAMES, Begin


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
    secret = old.secret()
    made = transition(rig)
    table, expected = made.table, [1000, 0]
    assert table.secret() == secret
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


def test_plain_requests_are_in_flight_in_one_worker_at_a_time(transition: Begin) -> None:
    """Those of the old worker count as long as that lives, those of the new one beside them."""
    rig = Rig()
    made = transition(rig)
    table = made.table
    for slice_ in (rig.slice, rig.slice, made.slice):
        slice_.begin_request(1, 2)
        slice_.idle_connections(2, 1)
    for _ in range(2):
        made.write()
        made.mirrors.refresh()
        assert (table.load(2), table.requests(1), table.idle_connections(2)) == (3, 3, 3)
    rig.slice.end_request(1, 2)
    made.write()
    made.mirrors.refresh(rows=False)
    assert (table.load(2), table.requests(1)) == (2, 2)
    made.mirrors.settle(0)  # the old worker was killed with a request in flight
    assert (table.load(2), table.requests(1), table.idle_connections(2)) == (1, 1, 1)


def test_plain_requests_of_the_dead_are_not_converted() -> None:
    """Their slots become the successors' at once."""
    old = Table.create(1, 4)
    slice_ = Slice(old, 0)
    slice_.begin_request(1, 2)
    slice_.idle_connections(2, 1)
    theirs, default = other(old.description, Random(3), drop=False)
    mirrors = Mirrors.inherit(translated(old, theirs, default, NAMES), 4, lambda: NAMES)
    table = mirrors.table
    assert (table.load(2), table.requests(1), table.idle_connections(2)) == (0, 0, 0)
    mirrors.close()
    table.close()
    del slice_
    old.close()


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
