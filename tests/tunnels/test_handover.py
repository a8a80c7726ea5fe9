"""Tunnels move between living workers: nothing of them stays behind, and what nobody takes goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from gateway.tunnels.moving import parcel
from gateway.tunnels.table.layout import (
    B_LIVE,
    BACKEND_SIDE,
    CLIENT,
    FD,
    FREE,
    ID,
    LIVE,
    RELEASED,
    ROW_CELLS,
    SIDE_0,
    SIDE_CELLS,
    SIDES,
    STATE,
    TEXT_CELL,
    TOTALS,
    W_ADOPTED,
)
from gateway.tunnels.upkeep.sweep import set_deadline

from .harness import Rig, Tunnel
from .pair import Pair
from .row_cells import names_of_cells
from .states import BOTH, BUFFERS, FLOOD, HELLO, STATES, stalled


@pytest.mark.parametrize("bring_about", [stalled, *STATES])
def test_a_row_is_the_same_in_its_new_place(pair: Pair, bring_about: Callable[[Rig, Tunnel], None]) -> None:
    """Every cell, but for descriptors, what epoll watches is worked out anew, and the deadline is for the sweep."""
    rig = pair.rig
    tunnel = rig.open(buffers=BUFFERS)
    bring_about(rig, tunnel)
    set_deadline(rig.cells, tunnel.row)
    before = rig.cells[tunnel.row : tunnel.row + ROW_CELLS].tolist()
    assert pair.move() == (1, [])
    (row,) = rig.table.rows()
    assert rig.table.slot_of(row) == 1
    after = rig.cells[row : row + ROW_CELLS].tolist()
    names = names_of_cells()
    differ = {names.get(offset) for offset in range(ROW_CELLS) if before[offset] != after[offset]}
    assert differ <= {f"{side} FD" for side in SIDES} | {"TOTALS", "DEADLINE_NS"}
    assert after[TOTALS] == rig.table.totals_at(1, 0)
    assert rig.cells[tunnel.row : tunnel.row + TEXT_CELL].tolist()[STATE] == FREE
    at = [rig.table.backend_at(slot, 0) + B_LIVE for slot in (0, 1)]
    assert [rig.cells[cell] for cell in at] == [0, 1]
    assert rig.cells[pair.slice.block + W_ADOPTED] == 1


def test_what_is_pending_goes_along(pair: Pair) -> None:
    rig = pair.rig
    tunnel = rig.open(buffers=BUFFERS)
    sent = rig.stall(tunnel.backend, FLOOD[BACKEND_SIDE])
    assert tunnel.pending[CLIENT]
    assert pair.move() == (1, [])
    pair.go_on_with_the_new_one()
    rig.until(lambda: tunnel.client.read() >= 0 and len(tunnel.client.received) == len(sent), "all of it")
    assert tunnel.client.received == sent
    tunnel.client.send(HELLO[CLIENT])
    rig.until(lambda: tunnel.backend.has(HELLO[CLIENT]), "the other direction")


def test_what_comes_meanwhile_waits_for_whoever_goes_on(pair: Pair) -> None:
    rig = pair.rig
    tunnel = rig.open()
    os.close(pair.handover.release(100))
    assert rig.cells[tunnel.row + STATE] == RELEASED
    assert list(rig.table.rows()) == []
    for side in BOTH:
        tunnel.peer(side).send(HELLO[side])
    rig.rest()
    assert not tunnel.client.read()
    assert not tunnel.backend.read()
    pair.handover.resume()
    assert rig.cells[tunnel.row + STATE] == LIVE
    assert not pair.handover.under_way
    for side in BOTH:
        rig.until(lambda side=side: tunnel.peer(1 - side).has(HELLO[side]), "a message")


def test_what_cannot_be_taken_stays_and_is_not_offered_again(pair: Pair) -> None:
    rig = pair.rig
    tunnel = rig.open()
    assert pair.move(keep=False) == (0, [tunnel.id])
    assert pair.move() == (0, [])
    tunnel.client.send(HELLO[CLIENT])
    rig.until(lambda: tunnel.backend.has(HELLO[CLIENT]), "a message")


def test_some_at_a_time(pair: Pair) -> None:
    rig = pair.rig
    ids = {rig.open("unix").id for _ in range(5)}
    assert [pair.move(2)[0] for _ in range(4)] == [2, 2, 1, 0]
    assert {rig.cells[row + ID] for row in rig.table.rows(1)} == ids
    fds = [rig.cells[row + SIDE_0 + side * SIDE_CELLS + FD] for row in rig.table.rows(1) for side in BOTH]
    assert len(set(fds)) == 10


@pytest.mark.parametrize("cut", [0, 7, 8, 39, 40, 44])
def test_a_parcel_that_is_cut_is_refused(cut: int) -> None:
    fd = parcel.pack([parcel.Tunnel(1 << 48 | 5, 4096, b"abc", b"de")])
    assert parcel.unpack(fd) == [parcel.Tunnel(1 << 48 | 5, 4096, b"abc", b"de")]
    os.truncate(fd, cut)
    with pytest.raises(ValueError, match="truncated"):
        parcel.unpack(fd)
    os.close(fd)
