"""The sweep, by a clock of the test's own: what is due when, and that quiet rows are left alone."""

from __future__ import annotations

import pytest

from gateway.tunnels.relay import deadlines
from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    CLIENT,
    CLOSING_NS,
    DEADLINE_NS,
    NEVER,
    OPAQUE,
    OPENED_NS,
    W_HEARTBEAT_NS,
    WEBSOCKET,
)
from tests.support.frames import BINARY, PING, PONG, TEXT

from .harness import CLOSE_WITHIN, NS, Rig, Tunnel
from .wire import close_frames, frame

IDLE_AFTER = 30 * NS


def opened(tunnel: Tunnel) -> int:
    return tunnel.cell(OPENED_NS)


def due(rig: Rig, now: int) -> list[int]:
    return deadlines.due_rows(rig.cells, rig.slice.first, rig.slice.used_rows, now)


def send(rig: Rig, tunnel: Tunnel, side: int, data: bytes) -> int:
    """One side sends, the other receives; the clock of that."""
    tunnel.peer(side).send(data)
    rig.until(tunnel.peer(1 - side).read, "the bytes")
    return rig.relay.now


def assert_closed_with(rig: Rig, tunnel: Tunnel, code: int, cause: str) -> None:
    """Both sides were told, and are cut when they do not answer."""
    for side in (CLIENT, BACKEND_SIDE):
        tunnel.peer(side).received.clear()
        rig.until(tunnel.peer(side).read, "a Close frame")
        assert close_frames(bytes(tunnel.peer(side).received)) == [(code, side == BACKEND_SIDE)]
    assert not rig.ends
    rig.sweep(rig.relay.now + CLOSE_WITHIN)
    end = rig.end()
    assert (end.initiator, end.cause) == ("gateway", cause)


def assert_open(rig: Rig, tunnel: Tunnel) -> None:
    rig.assert_live(tunnel)
    assert tunnel.client.read() == tunnel.backend.read() == 0


# --- rows that nothing is due for -------------------------------------------------------------------------------------


def test_a_row_without_limits_is_never_due(rig: Rig) -> None:
    tunnel = rig.open()
    send(rig, tunnel, CLIENT, frame(TEXT, b"hello", masked=True))
    assert tunnel.cell(DEADLINE_NS) >= NEVER
    assert due(rig, NEVER - 1) == []


def test_a_row_is_due_only_when_its_deadline_has_come(rig: Rig) -> None:
    tunnels = [rig.open(idle=(n + 1) * IDLE_AFTER) for n in range(4)]
    for n, tunnel in enumerate(tunnels):
        assert tunnel.row in due(rig, opened(tunnel) + (n + 1) * IDLE_AFTER)
        assert tunnel.row not in due(rig, opened(tunnel) + (n + 1) * IDLE_AFTER - 1)
    assert due(rig, opened(tunnels[0]) + IDLE_AFTER) == [tunnels[0].row]


def test_free_and_reserved_rows_are_never_due(rig: Rig) -> None:
    reserved = rig.slice.allocate(0, 0)
    tunnel = rig.open(idle=IDLE_AFTER)
    tunnel.client.close()
    tunnel.backend.close()
    rig.end()
    assert reserved is not None
    assert due(rig, NEVER - 1) == []
    rig.sweep(NEVER - 1)


def test_traffic_costs_the_sweep_one_look_in_each_period(rig: Rig) -> None:
    """A frame does not touch the deadline: the sweep finds the row due, sees that it was used, and puts it off."""
    tunnel = rig.open(idle=IDLE_AFTER)
    first = tunnel.cell(DEADLINE_NS)
    used = send(rig, tunnel, CLIENT, frame(TEXT, b"hello", masked=True))
    assert tunnel.cell(DEADLINE_NS) == first
    rig.sweep(first)
    assert_open(rig, tunnel)
    assert tunnel.cell(DEADLINE_NS) == used + IDLE_AFTER


def test_the_sweep_is_the_workers_heartbeat(rig: Rig) -> None:
    rig.sweep(12345)
    assert rig.cells[rig.slice.block + W_HEARTBEAT_NS] == 12345


# --- idle -------------------------------------------------------------------------------------------------------------


def test_a_tunnel_that_was_never_used_is_idle(rig: Rig) -> None:
    tunnel = rig.open(idle=IDLE_AFTER)
    rig.sweep(opened(tunnel) + IDLE_AFTER - 1)
    assert_open(rig, tunnel)
    rig.sweep(opened(tunnel) + IDLE_AFTER)
    assert_closed_with(rig, tunnel, 1001, "idle")


@pytest.mark.parametrize("side", [CLIENT, BACKEND_SIDE])
def test_data_of_either_side_counts(rig: Rig, side: int) -> None:
    tunnel = rig.open(idle=IDLE_AFTER)
    used = send(rig, tunnel, side, frame(BINARY, b"data", masked=side == CLIENT))
    rig.sweep(used + IDLE_AFTER - 1)
    assert_open(rig, tunnel)
    rig.sweep(used + IDLE_AFTER)
    assert_closed_with(rig, tunnel, 1001, "idle")


def test_pings_do_not_count(rig: Rig) -> None:
    tunnel = rig.open(idle=IDLE_AFTER)
    send(rig, tunnel, CLIENT, frame(PING, b"1", masked=True))
    send(rig, tunnel, BACKEND_SIDE, frame(PONG, b"1"))
    rig.sweep(opened(tunnel) + IDLE_AFTER)
    assert_closed_with(rig, tunnel, 1001, "idle")


def test_a_frame_on_its_way_counts(rig: Rig) -> None:
    tunnel = rig.open(idle=IDLE_AFTER)
    data = frame(BINARY, bytes(1000), masked=True)
    send(rig, tunnel, CLIENT, data[:500])
    used = send(rig, tunnel, CLIENT, data[500:600])
    rig.sweep(used + IDLE_AFTER - 1)
    assert_open(rig, tunnel)


@pytest.mark.parametrize("kind", [OPAQUE, WEBSOCKET], ids=["opaque", "broken"])
def test_where_there_are_no_frames_any_byte_counts(rig: Rig, kind: int) -> None:
    tunnel = rig.open(kind=kind, idle=IDLE_AFTER)
    send(rig, tunnel, CLIENT, b"\xff" * 20)
    used = send(rig, tunnel, CLIENT, b"\0")
    rig.sweep(used + IDLE_AFTER - 1)
    assert_open(rig, tunnel)
    rig.sweep(used + IDLE_AFTER)
    if not rig.ends:
        rig.sweep(rig.relay.now + CLOSE_WITHIN)
    end = rig.end()
    assert (end.initiator, end.cause) == ("gateway", "idle")


# --- max_lifetime -----------------------------------------------------------------------------------------------------


def test_a_tunnel_ends_when_its_life_is_over_however_busy_it_is(rig: Rig) -> None:
    tunnel = rig.open(lifetime=100 * NS)
    send(rig, tunnel, CLIENT, frame(TEXT, b"hello", masked=True))
    rig.sweep(opened(tunnel) + 100 * NS - 1)
    assert_open(rig, tunnel)
    rig.sweep(opened(tunnel) + 100 * NS)
    assert_closed_with(rig, tunnel, 1012, "max_lifetime")


def test_the_earliest_limit_is_the_deadline(rig: Rig) -> None:
    for idle, lifetime in ((10 * NS, 20 * NS), (20 * NS, 10 * NS), (NEVER, 10 * NS), (10 * NS, NEVER)):
        tunnel = rig.open(idle=idle, lifetime=lifetime)
        assert tunnel.cell(DEADLINE_NS) == opened(tunnel) + 10 * NS


def test_a_tunnel_that_is_ending_is_neither_idle_nor_too_old(rig: Rig) -> None:
    tunnel = rig.open(idle=NS, lifetime=NS)
    tunnel.client.half_close()
    rig.until(tunnel.backend.has_ended, "FIN")
    ended = tunnel.cell(CLOSING_NS)
    rig.sweep(ended + 5 * NS)
    assert_open(rig, tunnel)
    assert tunnel.cell(DEADLINE_NS) == ended + CLOSE_WITHIN
    rig.sweep(ended + CLOSE_WITHIN)
    assert rig.end().cause == "fin"


def test_many_rows_at_once(rig: Rig) -> None:
    tunnels = [rig.open("unix", idle=IDLE_AFTER) for _ in range(8)]
    rig.sweep(opened(tunnels[-1]) + IDLE_AFTER)
    for tunnel in tunnels:
        tunnel.client.close()
        tunnel.backend.close()
    causes = [rig.end().cause for _ in tunnels]
    assert causes == ["idle"] * 8
    assert rig.slice.rows_in_use == 0
