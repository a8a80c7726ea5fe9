"""Tunnels that are half dead keep nobody busy, and dead ones leave nothing behind."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    CLIENT,
    DEADLINE_NS,
    ENDED,
    IDLE,
    NEVER,
    ROW_CELLS,
    SHUT,
    SIDES,
)
from tests.support.frames import BINARY, TEXT

from .harness import CLOSE_WITHIN, Rig, Tunnel, connection, open_sockets
from .wire import closing, frame

BUFFERS = 64 * 1024
HELLO = {CLIENT: frame(TEXT, b"from the client", masked=True), BACKEND_SIDE: frame(TEXT, b"from the backend")}
FLOOD = {CLIENT: frame(BINARY, bytes(50_000), masked=True), BACKEND_SIDE: frame(BINARY, bytes(50_000))}
CLOSE = {CLIENT: closing(1000, masked=True), BACKEND_SIDE: closing(1000, masked=False)}

both_families = pytest.mark.parametrize("family", ["tcp", "unix"])
both_sides = pytest.mark.parametrize("side", [CLIENT, BACKEND_SIDE], ids=SIDES)


# --- half-dead, and quiet ---------------------------------------------------------------------------------------------


def fin_both_ways_stalled(rig: Rig, tunnel: Tunnel) -> None:
    """The backend has closed, its bytes are pending, and then the client sends FIN too."""
    rig.stall(tunnel.backend, FLOOD[BACKEND_SIDE])
    tunnel.backend.half_close()
    tunnel.client.half_close()


def fin_while_stalled_the_other_way(rig: Rig, tunnel: Tunnel) -> None:
    rig.stall(tunnel.backend, FLOOD[BACKEND_SIDE])
    tunnel.client.half_close()


def gone_with_bytes_for_the_other(rig: Rig, tunnel: Tunnel) -> None:
    rig.stall(tunnel.backend, FLOOD[BACKEND_SIDE])
    tunnel.backend.close()


def gone_while_both_are_stalled(rig: Rig, tunnel: Tunnel) -> None:
    rig.stall(tunnel.backend, FLOOD[BACKEND_SIDE])
    rig.stall(tunnel.client, FLOOD[CLIENT])
    tunnel.backend.close()


def gone_with_the_other_silent(rig: Rig, tunnel: Tunnel) -> None:
    tunnel.backend.close()


def reset_with_the_other_silent(rig: Rig, tunnel: Tunnel) -> None:
    tunnel.backend.reset()


def close_frame_and_gone(rig: Rig, tunnel: Tunnel) -> None:
    tunnel.backend.send(CLOSE[BACKEND_SIDE])
    tunnel.backend.reset()


def closing_unanswered(rig: Rig, tunnel: Tunnel) -> None:
    rig.relay.close_tunnel(tunnel.row, 1001, IDLE)


def closing_half_answered_and_gone(rig: Rig, tunnel: Tunnel) -> None:
    rig.relay.close_tunnel(tunnel.row, 1001, IDLE)
    tunnel.client.send(CLOSE[CLIENT])
    tunnel.client.close()


def closing_behind_a_stall(rig: Rig, tunnel: Tunnel) -> None:
    rig.stall(tunnel.backend, FLOOD[BACKEND_SIDE])
    rig.relay.close_tunnel(tunnel.row, 1001, IDLE)
    tunnel.backend.close()


def closing_in_a_frame_that_never_ends(rig: Rig, tunnel: Tunnel) -> None:
    tunnel.client.send(HELLO[CLIENT][:-1])
    rig.until(tunnel.backend.read, "half a frame")
    rig.relay.close_tunnel(tunnel.row, 1001, IDLE)
    tunnel.client.half_close()


HALF_DEAD: list[Callable[[Rig, Tunnel], None]] = [
    fin_both_ways_stalled,
    fin_while_stalled_the_other_way,
    gone_with_bytes_for_the_other,
    gone_while_both_are_stalled,
    gone_with_the_other_silent,
    reset_with_the_other_silent,
    close_frame_and_gone,
    closing_unanswered,
    closing_half_answered_and_gone,
    closing_behind_a_stall,
    closing_in_a_frame_that_never_ends,
]


@both_families
@pytest.mark.parametrize("die", HALF_DEAD)
def test_a_tunnel_that_is_half_dead_keeps_nobody_busy(
    rig: Rig, family: str, die: Callable[[Rig, Tunnel], None]
) -> None:
    tunnel = rig.open(family, buffers=BUFFERS)
    die(rig, tunnel)
    for _ in range(3):
        rig.rest(turns=10)
        rig.serve(0.002)
    assert rig.waiting() == []
    assert not rig.ends
    # What had to be noticed was: the row says so.
    assert tunnel.dirty == any(tunnel.pending)
    for side in (CLIENT, BACKEND_SIDE):
        if tunnel.side(side, ENDED) and not tunnel.pending[1 - side]:
            assert tunnel.side(1 - side, SHUT)
    # When its time is up, it is cut.
    rig.sweep(rig.relay.now + CLOSE_WITHIN + 60 * 10**9)
    if not rig.ends:  # a stall was noticed first
        rig.sweep(rig.relay.now + CLOSE_WITHIN + 60 * 10**9)
    rig.end()
    rig.assert_nothing_left(tunnel)


# --- descriptors ------------------------------------------------------------------------------------------------------


@both_sides
def test_an_event_of_a_tunnel_that_has_just_ended_is_nobodys(rig: Rig, side: int) -> None:
    """One side's answer ends the tunnel, and the other's bytes are in the same batch behind it."""
    tunnel = rig.open()
    rig.relay.close_tunnel(tunnel.row, 1001, IDLE)
    tunnel.peer(1 - side).send(CLOSE[1 - side])
    rig.assert_live(tunnel)
    tunnel.peer(side).send(CLOSE[side])
    rig.until(lambda: len(rig.waiting()) == 1, "the answer", turn=None)
    tunnel.peer(1 - side).send(b"more")
    rig.until(lambda: len(rig.waiting()) == 2, "both", turn=None)
    rig.serve()
    assert len(rig.ends) == 1
    row = rig.cells[tunnel.row : tunnel.row + ROW_CELLS].tolist()
    assert row.pop(DEADLINE_NS) == NEVER
    assert not any(row)
    rig.end()
    rig.assert_nothing_left(tunnel)


def test_a_number_that_is_used_again_in_the_same_batch_hits_no_wrong_tunnel(rig: Rig) -> None:
    """Both sides of a tunnel have events at once, the first ends it, and a new connection wants its numbers."""
    old = rig.open()
    spare: list[tuple[object, object]] = []

    def ended() -> None:
        for fd in old.fds:
            os.fstat(fd)  # still taken: nothing else can get its number
        spare.append(connection("tcp"))

    rig.when_ended = ended
    old.client.reset()
    old.backend.reset()
    rig.until(lambda: len(rig.waiting()) == 2, "both resets", turn=None)
    rig.serve()
    assert len(rig.ends) == 1
    new = rig.open()
    rig.serve()
    assert rig.ends.pop().row == old.row == new.row
    new.client.send(HELLO[CLIENT])
    new.backend.send(HELLO[BACKEND_SIDE])
    rig.until(lambda: new.backend.has(HELLO[CLIENT]) and new.client.has(HELLO[BACKEND_SIDE]), "the new tunnel's bytes")
    rig.assert_live(new)
    rig.forget(old.id)
    assert not old.sockets & open_sockets()
    third = rig.open()
    assert set(third.fds) & set(old.fds)
    for left, right in spare:
        left.close()
        right.close()


def test_hundreds_of_tunnels_leave_nothing_behind(rig: Rig) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for n in range(300):
        tunnel = rig.open("unix")
        tunnel.peer(n % 2).send(HELLO[n % 2])
        tunnel.client.close()
        tunnel.backend.close()
        rig.end()
        assert tunnel.row == rig.slice.first
        rig.forget(tunnel.id)
    assert len(os.listdir("/proc/self/fd")) == before
    assert rig.slice.used_rows == 1
