"""A successor carries on what a dead worker relayed: it finds all of a tunnel in its row, and goes on from there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    BYTES,
    CAUSE,
    CLIENT,
    CLOSING_NS,
    DEADLINE_NS,
    DRAIN,
    FD,
    IDLE,
    NEVER,
    OPAQUE,
    ROW_CELLS,
    SIDE_0,
    SIDE_CELLS,
    SIDES,
    TEXT_CELL,
    W_ADOPTED,
)
from gateway.tunnels.upkeep.sweep import set_deadline
from tests.support.frames import BINARY, CONTINUATION, PONG, TEXT

from .harness import CLOSE_WITHIN, NS, Rig, Tunnel
from .row_cells import ZERO_IN_A_CLEAN_ROW, names_of_cells
from .states import (
    BOTH,
    BUFFERS,
    CLOSE,
    FLOOD,
    HELLO,
    LONG,
    STATES,
    being_closed,
    both_families,
    close_is_due,
    used,
    was_stalled,
)
from .wire import close_frames, frame

both_sides = pytest.mark.parametrize("side", BOTH, ids=SIDES)


# --- what a successor finds -------------------------------------------------------------------------------------------


@both_families
@pytest.mark.parametrize("bring_about", STATES)
def test_a_row_is_the_same_before_and_after(rig: Rig, family: str, bring_about: Callable[[Rig, Tunnel], None]) -> None:
    tunnel = rig.open(family, buffers=BUFFERS, idle=60 * NS)
    bring_about(rig, tunnel)
    rig.rest()
    set_deadline(rig.cells, tunnel.row)
    before = rig.cells[tunnel.row : tunnel.row + ROW_CELLS].tolist()
    assert rig.succeed() == (1, 0, 0)
    rig.sweep(rig.relay.now)
    after = rig.cells[tunnel.row : tunnel.row + ROW_CELLS].tolist()
    names = names_of_cells()
    differ = {names.get(offset) for offset in range(ROW_CELLS) if before[offset] != after[offset]}
    assert differ <= {f"{side} FD" for side in SIDES}
    assert tuple(after[SIDE_0 + side * SIDE_CELLS + FD] for side in BOTH) == tunnel.fds
    unnamed = {offset for offset in range(TEXT_CELL) if offset not in names and after[offset]}
    assert not unnamed, "cells that have no name in layout.py are in use"
    for offset, name in names.items():
        assert name.split()[-1] not in ZERO_IN_A_CLEAN_ROW or not after[offset]
    rig.assert_live(tunnel)


# --- what it goes on with -------------------------------------------------------------------------------------------


@both_families
@pytest.mark.parametrize("often", [1, 10])
def test_streams_go_on_where_they_were_cut(rig: Rig, family: str, often: int) -> None:
    tunnel = rig.open(family)
    streams = {
        side: b"".join(
            frame(opcode, bytes(size), masked=side == CLIENT, fin=fin)
            for opcode, size, fin in (
                (TEXT, 10, True),
                (BINARY, 300, False),
                (PONG, 3, True),
                (CONTINUATION, 70_000, True),
            )
        )
        for side in BOTH
    }
    heard = dict.fromkeys(BOTH, b"")
    for n in range(often):
        for side in BOTH:
            at = len(streams[side]) * (n + 1) // often
            piece = streams[side][len(heard[side]) : at]
            tunnel.peer(side).send(piece)
            heard[side] += piece
            rig.until(lambda side=side: tunnel.peer(1 - side).has(heard[side]), "a piece")
        assert rig.succeed() == (1, 0, 0)
    for side in BOTH:
        tunnel.peer(side).send(CLOSE[side])
        rig.until(lambda side=side: tunnel.peer(1 - side).has(streams[side] + CLOSE[side]), "the Close frame")
        assert rig.totals(side).frames == {0: 1, 1: 1, 2: 1, 8: 1, 10: 1}
        assert rig.totals(side).violations == 0
    tunnel.backend.close()
    tunnel.client.close()
    end = rig.end()
    assert (end.initiator, end.cause) == ("client", "close_frame")
    assert [end.side(side, BYTES) for side in BOTH] == [len(streams[side] + CLOSE[side]) for side in BOTH]
    assert rig.table.cells[rig.slice.block + W_ADOPTED] == often
    rig.assert_nothing_left(tunnel)


@both_sides
def test_what_came_meanwhile_is_relayed(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    tunnel.peer(side).send(HELLO[side])
    tunnel.peer(side).half_close()
    assert rig.succeed() == (1, 0, 0)
    rig.until(tunnel.peer(1 - side).has_ended, "FIN")
    assert tunnel.peer(1 - side).received == HELLO[side]
    tunnel.peer(1 - side).close()
    end = rig.end()
    assert (end.initiator, end.cause) == (SIDES[side], "fin")
    rig.assert_nothing_left(tunnel)


@both_sides
def test_a_reset_meanwhile(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    tunnel.peer(side).reset()
    assert rig.succeed() == (1, 0, 0)
    rig.until(tunnel.peer(1 - side).has_ended, "FIN")
    tunnel.peer(1 - side).close()
    end = rig.end()
    assert (end.initiator, end.cause) == (SIDES[side], "reset")
    rig.assert_nothing_left(tunnel)


@both_families
@both_sides
def test_a_half_closed_tunnel_goes_on(rig: Rig, family: str, side: int) -> None:
    tunnel = rig.open(family)
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    near.half_close()
    rig.until(far.has_ended, "FIN")
    assert rig.succeed() == (1, 0, 0)
    far.send(HELLO[1 - side])
    rig.until(lambda: near.has(HELLO[1 - side]), "the other direction")
    rig.assert_live(tunnel)
    far.half_close()
    rig.until(near.has_ended, "FIN")
    assert rig.end().cause == "fin"
    rig.assert_nothing_left(tunnel)


def test_a_close_that_is_due_is_written_at_the_boundary(rig: Rig) -> None:
    tunnel = rig.open()
    close_is_due(rig, tunnel)
    assert rig.succeed() == (1, 0, 0)
    for side in BOTH:
        tunnel.peer(side).send(LONG[side][1000:] + HELLO[side])  # the latter is discarded
    for side in BOTH:
        size = len(LONG[1 - side]) + (8 if side == BACKEND_SIDE else 4)
        peer = tunnel.peer(side)
        rig.until(lambda peer=peer, size=size: peer.read() >= 0 and len(peer.received) == size, "the Close frame")
        assert peer.received.startswith(LONG[1 - side])
        assert close_frames(bytes(peer.received[len(LONG[1 - side]) :])) == [(1012, side == BACKEND_SIDE)]
    for side in BOTH:
        tunnel.peer(side).send(CLOSE[side])
    end = rig.end()
    assert (end.initiator, end.cause) == ("gateway", "drain")
    rig.assert_nothing_left(tunnel)


def test_answers_to_a_close_are_waited_for_as_long_as_before(rig: Rig) -> None:
    tunnel = rig.open()
    being_closed(rig, tunnel)
    due = tunnel.cell(CLOSING_NS) + CLOSE_WITHIN
    assert rig.succeed() == (1, 0, 0)
    rig.sweep(due - 1)
    rig.assert_live(tunnel)
    rig.sweep(due)
    assert rig.end().cause == "drain"
    rig.assert_nothing_left(tunnel)


def test_time_outs_go_on(rig: Rig) -> None:
    tunnel = rig.open(idle=60 * NS)
    used(rig, tunnel)
    set_deadline(rig.cells, tunnel.row)
    due = tunnel.cell(DEADLINE_NS)
    assert due < NEVER
    assert rig.succeed() == (1, 0, 0)
    rig.sweep(due - 1)
    assert tunnel.cell(DEADLINE_NS) == due
    rig.sweep(due)
    rig.until(lambda: tunnel.client.read(), "the Close frame")
    assert tunnel.cell(CAUSE) == IDLE


def test_an_opaque_tunnel_goes_on(rig: Rig) -> None:
    tunnel = rig.open(kind=OPAQUE)
    assert rig.succeed() == (1, 0, 0)
    tunnel.client.send(b"\x00\xff")
    rig.until(lambda: tunnel.backend.has(b"\x00\xff"), "bytes")
    assert rig.totals(CLIENT).frames == {}
    rig.relay.close_tunnel(tunnel.row, 1012, DRAIN)
    rig.until(lambda: tunnel.client.has_ended() and tunnel.backend.has_ended(), "the end")


def test_backpressure_goes_on(rig: Rig) -> None:
    """A successor meets full sockets like anybody."""
    tunnel = rig.open(buffers=BUFFERS)
    was_stalled(rig, tunnel)
    assert rig.succeed() == (1, 0, 0)
    already = len(tunnel.client.received)
    sent = rig.stall(tunnel.backend, FLOOD[BACKEND_SIDE])
    assert tunnel.dirty
    rig.until(lambda: tunnel.client.read() >= 0 and len(tunnel.client.received) == already + len(sent), "all of it")
    assert tunnel.client.received[already:] == sent
    assert not tunnel.dirty
