"""What a successor cannot carry on is cut, and counts are right: what was dirty, or was not kept, or had ended."""

from __future__ import annotations

import os
from pathlib import Path

from gateway.tunnels.table.layout import B_LIVE, BACKEND_SIDE, CLIENT, DIRTY, FREE, ID, LIVE, RESERVED, STATE, W_ADOPTED

from .harness import Rig
from .states import BOTH, BUFFERS, FLOOD, HELLO, both_families, used


@both_families
def test_a_tunnel_with_bytes_in_the_dead_workers_hands_is_cut(rig: Rig, family: str) -> None:
    tunnel = rig.open(family, buffers=BUFFERS)
    sent = rig.stall(tunnel.backend, FLOOD[BACKEND_SIDE])
    assert tunnel.cell(DIRTY)
    assert rig.succeed() == (0, 1, 0)
    end = rig.end()
    assert (end.initiator, end.cause) == ("gateway", "worker_lost")
    for side in BOTH:
        rig.until(tunnel.peer(side).has_ended, "the end")
    assert 0 < len(tunnel.client.received) < len(sent)
    assert sent.startswith(tunnel.client.received)
    assert tunnel.backend.received == b""
    rig.assert_nothing_left(tunnel)
    assert rig.table.cells[rig.slice.block + W_ADOPTED] == 0


@both_families
def test_a_tunnel_whose_connections_were_not_kept_is_cut(rig: Rig, family: str) -> None:
    tunnel = rig.open(family)
    used(rig, tunnel)
    rig.forget(tunnel.id)
    assert rig.succeed() == (0, 0, 1)
    assert rig.end().cause == "worker_lost"
    for side in BOTH:
        rig.until(tunnel.peer(side).has_ended, "the end")
    rig.assert_nothing_left(tunnel)


def test_a_descriptor_that_epoll_does_not_take(rig: Rig, tmp_path: Path) -> None:
    tunnel = rig.open()
    other = rig.open()
    used(rig, tunnel)
    with (tmp_path / "file").open("w") as file:
        os.dup2(file.fileno(), rig.kept[tunnel.id][BACKEND_SIDE])
    assert rig.succeed() == (1, 0, 1)
    assert rig.end().cause == "worker_lost"
    rig.until(tunnel.client.has_ended, "the end")
    rig.assert_live(other)


def test_connections_of_a_tunnel_that_had_ended_are_closed(rig: Rig) -> None:
    tunnel = rig.open()
    tunnel.client.close()
    tunnel.backend.close()
    rig.end()
    assert rig.kept
    assert rig.succeed() == (0, 0, 0)
    assert not rig.kept
    rig.assert_nothing_left(tunnel)


def test_connections_of_a_row_that_is_another_tunnels_now_are_closed(rig: Rig) -> None:
    """The end of the first and the opening of the second were not heard of when the worker died."""
    first = rig.open()
    first.client.close()
    first.backend.close()
    rig.end()
    second = rig.open()
    assert second.row == first.row
    assert second.id != first.id
    rig.forget(second.id)
    assert rig.succeed() == (0, 0, 1)
    assert not rig.kept
    for side in BOTH:
        rig.until(second.peer(side).has_ended, "the end")
    rig.end()
    rig.assert_nothing_left(second)


def test_handshakes_are_gone_and_counts_are_right(rig: Rig) -> None:
    tunnel = rig.open()
    lost = rig.open()
    rig.forget(lost.id)
    handshake = rig.slice.allocate(0, 7)
    assert handshake is not None
    at = [rig.table.backend_at(0, backend) + B_LIVE for backend in (0, 7)]
    assert [rig.cells[cell] for cell in at] == [2, 1]
    assert rig.cells[handshake + STATE] == RESERVED
    rig.cells[at[1]] = 3  # as of a worker that died while it changed its mind about a backend
    assert rig.succeed() == (1, 0, 1)
    assert [rig.cells[cell] for cell in at] == [1, 0]
    assert rig.cells[handshake + STATE] == FREE
    assert rig.cells[tunnel.row + STATE] == LIVE
    assert rig.slice.rows_in_use == 1
    rig.end()
    assert {rig.slice.allocate(0, 0), rig.slice.allocate(0, 0)} == {lost.row, handshake}
    assert rig.cells[handshake + ID] not in (tunnel.id, lost.id)


def test_a_successor_that_dies_of_a_tunnel_does_not_leave_it_to_the_next(rig: Rig) -> None:
    """It is dirty while it is adopted."""
    tunnel = rig.open()
    rig.cells[tunnel.row + DIRTY] = 1
    assert rig.succeed() == (0, 1, 0)
    rig.end()
    rig.assert_nothing_left(tunnel)


def test_hundreds_of_tunnels_of_all_kinds() -> None:
    rig = Rig(500)
    try:
        tunnels = [rig.open("unix") for _ in range(500)]
        for n, tunnel in enumerate(tunnels):
            tunnel.client.send(HELLO[CLIENT])
            if n % 10 == 1:
                rig.forget(tunnel.id)
        rig.rest()
        for n, tunnel in enumerate(tunnels):
            rig.cells[tunnel.row + DIRTY] = n % 10 == 2
        assert rig.succeed() == (400, 50, 50)
        assert len(rig.ends) == 100
        rig.ends.clear()
        for n, tunnel in enumerate(tunnels):
            tunnel.backend.read()
            if n % 10 in (1, 2):
                assert tunnel.backend.end
            else:
                tunnel.backend.send(HELLO[BACKEND_SIDE])
        rig.rest()
        assert all(tunnel.client.has(HELLO[BACKEND_SIDE]) for n, tunnel in enumerate(tunnels) if n % 10 not in (1, 2))
    finally:
        rig.close()
