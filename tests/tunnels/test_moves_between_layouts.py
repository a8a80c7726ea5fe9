"""A tunnel of a worker with another layout moves to a new one, or is carried on when its worker dies."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from gateway.tunnels.moving import parcel
from gateway.tunnels.moving.adoption import adopt
from gateway.tunnels.moving.handover import take_over
from gateway.tunnels.relay.poller import Poller
from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    CAUSES,
    CLIENT,
    ID,
    RELEASED,
    ROW_CELLS,
    SIDES,
    STATE,
    T_BYTES,
    TEXTS,
    TOTAL_CELLS,
    TOTALS,
)
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.upkeep.sweep import set_deadline

from .harness import DESCRIPTORS, Rig, Tunnel
from .other_layouts import sizes_of
from .owners import Ending
from .row_cells import names_of_cells
from .states import BOTH, BUFFERS, FLOOD, HELLO, LONG, STATES, in_a_header, stalled
from .transition import Begin

SEEDS = pytest.mark.parametrize("seed", range(4))


# --- to a new worker --------------------------------------------------------------------------------------------------


@SEEDS
@pytest.mark.parametrize("bring_about", [stalled, *STATES])
def test_a_row_is_the_same_in_another_layout(
    transition: Begin, bring_about: Callable[[Rig, Tunnel], None], seed: int
) -> None:
    """From ours to the other, and back: every cell, but for those that are worked out."""
    rig = Rig()
    tunnel = rig.open(buffers=BUFFERS)
    written = {name: name.encode() * (3 if seed % 2 else 9) for name in TEXTS}
    written = {name: text[: TEXTS[name]] for name, text in written.items()}
    rig.slice.write_texts(tunnel.row, **written)
    made = transition(rig, seed)
    bring_about(rig, tunnel)
    set_deadline(rig.cells, tunnel.row)
    before = rig.cells[tunnel.row : tunnel.row + ROW_CELLS].tolist()
    assert made.move() == (1, [])
    (row,) = made.table.rows(1)
    after = made.table.cells[row : row + ROW_CELLS].tolist()
    names = names_of_cells()
    differ = {names.get(offset) for offset in range(ROW_CELLS) if before[offset] != after[offset] and offset in names}
    assert differ <= {f"{side} FD" for side in SIDES} | {"TOTALS", "DEADLINE_NS", "LONG_TEXTS"}
    assert after[TOTALS] == made.table.totals_at(1, 0)
    texts = made.table.texts(row)
    assert texts == {name: text[: sizes_of(made.theirs)[name]].decode() for name, text in written.items()}
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


# --- to a successor ---------------------------------------------------------------------------------------------------


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

    poller = Poller(made.table, DESCRIPTORS, Ending(end))
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
    # The backend's header was whole in the old worker: some of its layouts have no cell to count the frame in.
    assert [made.table.cells[at + 1] for at in totals] == [1, int("backend T_FRAMES" in made.theirs.totals.names)]
    rig.relay.resume(clean.row)
    for row in list(made.table.rows(0)):
        poller.relay.finish(row)
    poller.select(0)
    poller.close()
    del poller  # it holds on to the table
