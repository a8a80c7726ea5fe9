"""Pongs to Pings of the gateway's own while a tunnel ends: half of one, one behind a Close frame, none at all."""

from __future__ import annotations

import itertools

import pytest

from gateway.tunnels.table.layout import (
    AT_BOUNDARY,
    BACKEND_SIDE,
    CLIENT,
    DISCARD,
    DRAIN,
    ENDED,
    GATE,
    HELD,
    PASS,
    SIDES,
)
from tests.support.frames import CLOSE as CLOSE_OPCODE

from .harness import Rig
from .own_pings import CLOSE, HELLO, LONG, both_sides, ping, pong, send
from .wire import close_frames, closing

EVENTS = ("rest", "gateway closes", "fin", "reset")
ORDERS = [
    order
    for length in (1, 2, 3)
    for order in itertools.permutations(EVENTS, length)
    # Nothing comes from a side that has ended; a reset may follow its FIN.
    if "rest" not in order or not {"fin", "reset"} & set(order[: order.index("rest")])
    if "fin" not in order or "reset" not in order[: order.index("fin")]
]


@both_sides
@pytest.mark.parametrize("cut", [1, 9])
@pytest.mark.parametrize("order", ORDERS, ids=", ".join)
def test_half_a_pong_and_then(rig: Rig, side: int, order: tuple[str, ...], cut: int) -> None:
    tunnel = rig.open()
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    data = pong(side, ping(rig, tunnel, side))
    near.send(data[:cut])
    rig.until(lambda: tunnel.side(side, HELD) == cut, "half a Pong")
    expected = b""
    closed = False
    for event in order:
        if event == "rest":
            near.send(data[cut:])
            rig.until(lambda: not tunnel.unread(side), "the rest of it")
        elif event == "gateway closes":
            rig.relay.close_tunnel(tunnel.row, 1012, DRAIN)
            closed = not tunnel.side(side, ENDED)
        else:
            if event == "fin":
                near.half_close()
            else:
                near.reset()
            rig.until(lambda: rig.ends or tunnel.side(side, ENDED), "it to be noticed")
            if not closed and "rest" not in order:
                expected = data[:cut]  # no Pong of the gateway's after all
        rig.rest()
        assert not rig.ends
        assert not tunnel.dirty
    rig.rest()
    far.read()
    if closed:
        assert close_frames(bytes(far.received)) == [(1012, side == CLIENT)]
    else:
        assert far.received == expected
    assert rig.totals(side).pongs == (1 if "rest" in order and not closed_before_rest(order) else 0)
    assert (far.end == "fin") == bool({"fin", "reset"} & set(order))
    far.close()
    if not {"fin", "reset"} & set(order):
        near.close()
    end = rig.end()
    if closed:
        assert (end.initiator, end.cause) == ("gateway", "drain")
    elif first := next((event for event in order if event in ("fin", "reset")), None):
        assert (end.initiator, end.cause) == (SIDES[side], first)
    rig.assert_nothing_left(tunnel)


def closed_before_rest(order: tuple[str, ...]) -> bool:
    return "gateway closes" in order and order.index("gateway closes") < order.index("rest")


@both_sides
def test_a_pong_behind_the_frame_that_the_gateways_close_waits_for(rig: Rig, side: int) -> None:
    """What comes after the Close is discarded: that Pong too."""
    tunnel = rig.open()
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    payload = ping(rig, tunnel, side)
    data = LONG[side]
    send(rig, tunnel, side, data[:100])
    rig.relay.close_tunnel(tunnel.row, 1012, DRAIN)
    assert tunnel.side(1 - side, GATE) == AT_BOUNDARY
    near.send(data[100:] + pong(side, payload) + HELLO[side] + closing(1012, masked=side == CLIENT))
    rig.until(lambda: tunnel.side(1 - side, GATE) == DISCARD and not tunnel.unread(side), "the end of the frame")
    rig.rest()
    far.read()
    assert far.received[: len(data)] == data
    assert close_frames(bytes(far.received[len(data) :])) == [(1012, side == CLIENT)]
    far.send(closing(1012, masked=side == BACKEND_SIDE))
    assert rig.end().cause == "drain"


@both_sides
def test_a_pong_after_the_other_side_has_said_close(rig: Rig, side: int) -> None:
    """An endpoint that is closing gets no Pong that it never asked for."""
    tunnel = rig.open()
    payload = ping(rig, tunnel, side)
    send(rig, tunnel, 1 - side, CLOSE[1 - side])
    tunnel.peer(side).send(pong(side, payload) + CLOSE[side])
    rig.until(lambda: tunnel.peer(1 - side).has(CLOSE[side]), "the Close frame alone")
    assert rig.totals(side).pongs == 1


@both_sides
@pytest.mark.parametrize("style", ["glued", "apart", "bytes"])
def test_a_side_answers_though_it_has_said_close(rig: Rig, side: int, style: str) -> None:
    """Its Close was on its way when the Ping was sent. An endpoint that has closed expects nothing more."""
    tunnel = rig.open()
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    first, second = ping(rig, tunnel, side), ping(rig, tunnel, side)
    data = CLOSE[side] + pong(side, first) + pong(side, second)
    size = {"glued": len(data), "apart": len(CLOSE[side]), "bytes": 1}[style]
    for at in range(0, len(data), size):
        near.send(data[at : at + size])
        rig.until(lambda: not rig.waiting() and not tunnel.unread(side), "the bytes to be read")
        assert not tunnel.dirty
    rig.until(lambda: far.has(CLOSE[side]), "the Close frame alone")
    assert rig.totals(side).pongs == 2
    assert tunnel.side(1 - side, GATE) == PASS
    far.send(CLOSE[1 - side])
    far.half_close()
    near.half_close()
    end = rig.end()
    assert (end.initiator, end.cause) == (SIDES[side], "close_frame")
    rig.assert_nothing_left(tunnel)


@both_sides
@pytest.mark.parametrize("behind", [b"\xff" * 30, b"\x8a", b"\x8a\x88\0\0\0\0whatever", b"\x8a\x08whatever!"])
def test_what_else_comes_behind_a_close_passes(rig: Rig, side: int, behind: bytes) -> None:
    """The first of it that is no such Pong ends the search: what follows looks like one only by chance."""
    tunnel = rig.open()
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    late = pong(side, ping(rig, tunnel, side))
    near.send(CLOSE[side] + behind)
    rig.rest()
    near.send(late)
    near.half_close()
    rig.until(far.has_ended, "FIN")
    assert far.received == CLOSE[side] + behind + late
    assert rig.totals(side).pongs == 0
    assert rig.totals(side).frames == {CLOSE_OPCODE: 1}


@both_sides
def test_a_side_that_is_gone_when_it_is_pinged(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    tunnel.peer(side).reset()
    rig.relay.ping(tunnel.row, side)
    rig.until(tunnel.peer(1 - side).has_ended, "FIN")
    assert tunnel.peer(1 - side).received == b""
    tunnel.peer(1 - side).close()
    end = rig.end()
    assert (end.initiator, end.cause) == (SIDES[side], "reset")
    rig.assert_nothing_left(tunnel)
