"""How tunnels end when an endpoint ends them: what still arrives, who is blamed, and that nothing is left behind."""

from __future__ import annotations

import pytest

from gateway.protocol.scanner_state import CLOSE_CODE
from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    BYTES,
    CLIENT,
    SCANNER,
    SHUT,
    SIDES,
)
from tests.support.frames import BINARY, TEXT

from .harness import CLOSE_WITHIN, Rig
from .wire import closing, frame

BUFFERS = 64 * 1024
HELLO = {CLIENT: frame(TEXT, b"from the client", masked=True), BACKEND_SIDE: frame(TEXT, b"from the backend")}
FLOOD = {CLIENT: frame(BINARY, bytes(50_000), masked=True), BACKEND_SIDE: frame(BINARY, bytes(50_000))}
CLOSE = {CLIENT: closing(1000, masked=True), BACKEND_SIDE: closing(1000, masked=False)}

both_families = pytest.mark.parametrize("family", ["tcp", "unix"])
both_sides = pytest.mark.parametrize("side", [CLIENT, BACKEND_SIDE], ids=SIDES)


# --- half-close -------------------------------------------------------------------------------------------------------


@both_families
@both_sides
def test_the_other_direction_lives_on_after_fin(rig: Rig, family: str, side: int) -> None:
    tunnel = rig.open(family)
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    near.send(HELLO[side])
    near.half_close()
    rig.until(far.has_ended, "FIN")
    assert (far.received, far.end) == (HELLO[side], "fin")
    rig.assert_live(tunnel)
    for n in range(1, 4):
        far.send(HELLO[1 - side])
        rig.until(lambda n=n: near.has(HELLO[1 - side] * n), "the other direction")
    rig.assert_live(tunnel)
    far.half_close()
    end = rig.end()
    assert (end.initiator, end.cause) == (SIDES[side], "fin")
    rig.until(near.has_ended, "the other FIN")
    assert near.end == "fin"
    rig.assert_nothing_left(tunnel)


@both_families
@both_sides
def test_fin_comes_behind_what_is_pending(rig: Rig, family: str, side: int) -> None:
    tunnel = rig.open(family, buffers=BUFFERS)
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    sent = rig.stall(near, FLOOD[side])
    near.half_close()
    rig.assert_live(tunnel)
    while len(far.received) < len(sent):
        rig.until(lambda: far.read(limit=10_000), "a little")
        assert not (far.end and far.received != sent)
    rig.until(far.has_ended, "FIN")
    assert (far.received, far.end) == (sent, "fin")
    far.close()
    assert rig.end().cause == "fin"
    rig.assert_nothing_left(tunnel)


@both_families
def test_both_sides_send_fin_with_bytes_pending_for_both(rig: Rig, family: str) -> None:
    tunnel = rig.open(family, buffers=BUFFERS)
    sent = {side: rig.stall(tunnel.peer(side), FLOOD[side]) for side in (CLIENT, BACKEND_SIDE)}
    for side in sent:
        tunnel.peer(side).half_close()
    rig.assert_live(tunnel)
    rig.until(lambda: tunnel.client.has_ended() and tunnel.backend.has_ended(), "everything")
    assert tunnel.client.received == sent[BACKEND_SIDE]
    assert tunnel.backend.received == sent[CLIENT]
    assert tunnel.client.end == tunnel.backend.end == "fin"
    assert rig.end().cause == "fin"
    rig.assert_nothing_left(tunnel)


@both_sides
def test_a_half_closed_tunnel_ends_when_the_time_for_it_is_up(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    tunnel.peer(side).half_close()
    rig.until(tunnel.peer(1 - side).has_ended, "FIN")
    rig.sweep(rig.relay.now + CLOSE_WITHIN)
    assert rig.end().cause == "fin"
    rig.assert_nothing_left(tunnel)


# --- reset ------------------------------------------------------------------------------------------------------------


@both_sides
def test_a_reset_ends_the_other_side_behind_what_was_sent(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    near.send(HELLO[side])
    near.reset()
    rig.until(far.has_ended, "the end")
    assert (far.received, far.end) == (HELLO[side], "fin")
    far.close()
    end = rig.end()
    assert (end.initiator, end.cause) == (SIDES[side], "reset")
    rig.assert_nothing_left(tunnel)


@both_sides
def test_what_is_pending_still_goes_to_the_side_that_is_left(rig: Rig, side: int) -> None:
    """All that TCP delivered of a stream arrives, though its sender is gone and the receiver is slow and talking."""
    tunnel = rig.open(buffers=BUFFERS)
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    rig.stall(near, FLOOD[side])
    near.reset()
    delivered = 0

    def read_on() -> bool:
        nonlocal delivered
        far.send(HELLO[1 - side])  # unread by the relay when it hears of the reset
        far.read(limit=5000)
        delivered = max(delivered, tunnel.side(side, BYTES)) if not rig.ends else delivered
        return bool(far.end)

    rig.until(read_on, "the end", turn=0)
    assert far.end == "fin"
    assert len(far.received) == delivered
    far.close()
    assert rig.end().cause == "reset"
    rig.assert_nothing_left(tunnel)


@both_sides
def test_what_is_pending_for_a_side_that_is_gone_is_dropped(rig: Rig, side: int) -> None:
    tunnel = rig.open(buffers=BUFFERS)
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    rig.stall(far, FLOOD[1 - side])
    near.reset()
    rig.until(far.has_ended, "the end")
    far.close()
    end = rig.end()
    assert (end.initiator, end.cause) == (SIDES[side], "reset")
    rig.assert_nothing_left(tunnel)


@both_sides
def test_a_side_that_closed_before_it_was_sent_something(rig: Rig, side: int) -> None:
    """Its FIN is read first; what is sent to it afterwards is answered by a reset."""
    tunnel = rig.open()
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    near.close()
    rig.until(far.has_ended, "FIN")
    far.send(HELLO[1 - side])
    rig.rest()
    far.send(HELLO[1 - side])
    rig.rest()
    far.half_close()
    end = rig.end()
    assert (end.initiator, end.cause) == (SIDES[side], "fin")
    rig.assert_nothing_left(tunnel)


@both_families
@both_sides
def test_a_side_that_goes_away_after_its_fin_is_noticed(rig: Rig, family: str, side: int) -> None:
    tunnel = rig.open(family)
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    near.half_close()
    rig.until(far.has_ended, "FIN")
    assert not tunnel.side(side, SHUT)
    near.reset()
    rig.until(lambda: tunnel.side(side, SHUT), "its end to be noticed")
    far.send(HELLO[1 - side] * 10)
    rig.assert_live(tunnel)
    far.close()
    end = rig.end()
    assert (end.initiator, end.cause) == (SIDES[side], "fin")
    rig.assert_nothing_left(tunnel)


# --- Close frames -----------------------------------------------------------------------------------------------------


@both_families
@both_sides
def test_a_close_handshake_between_the_endpoints(rig: Rig, family: str, side: int) -> None:
    tunnel = rig.open(family)
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    near.send(CLOSE[side])
    rig.until(lambda: far.has(CLOSE[side]), "the Close frame")
    far.send(CLOSE[1 - side])
    rig.until(lambda: near.has(CLOSE[1 - side]), "the answer")
    rig.assert_live(tunnel)
    tunnel.backend.close()
    rig.until(tunnel.client.has_ended, "FIN")
    tunnel.client.close()
    end = rig.end()
    assert (end.initiator, end.cause) == (SIDES[side], "close_frame")
    assert end.side(CLIENT, SCANNER + CLOSE_CODE) == end.side(BACKEND_SIDE, SCANNER + CLOSE_CODE) == 1000
    rig.assert_nothing_left(tunnel)


@both_sides
def test_a_close_frame_and_then_a_reset(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    near.send(HELLO[side] + CLOSE[side])
    near.reset()
    rig.until(far.has_ended, "the end")
    assert (far.received, far.end) == (HELLO[side] + CLOSE[side], "fin")
    far.close()
    end = rig.end()
    assert (end.initiator, end.cause) == (SIDES[side], "close_frame")
    rig.assert_nothing_left(tunnel)


@pytest.mark.parametrize("last", [b"", HELLO[BACKEND_SIDE]], ids=["alone", "behind a message"])
def test_a_close_frame_that_is_unread_when_sending_fails(rig: Rig, last: bytes) -> None:
    """The client's bytes are sent first, to a backend that said Close and closed without reading: it is still heard."""
    tunnel = rig.open()
    rig.relay.write(tunnel.row, BACKEND_SIDE, HELLO[CLIENT])  # so that the backend has something unread
    tunnel.backend.send(last + CLOSE[BACKEND_SIDE])
    tunnel.backend.close()
    rig.relay.feed(tunnel.row, CLIENT, HELLO[CLIENT])
    rig.until(tunnel.client.has_ended, "the end")
    assert (tunnel.client.received, tunnel.client.end) == (last + CLOSE[BACKEND_SIDE], "fin")
    tunnel.client.close()
    end = rig.end()
    assert (end.initiator, end.cause) == ("backend", "close_frame")
    rig.assert_nothing_left(tunnel)


def test_sending_fails_and_there_was_no_close_frame(rig: Rig) -> None:
    tunnel = rig.open()
    tunnel.backend.send(HELLO[BACKEND_SIDE])
    tunnel.backend.reset()
    rig.relay.feed(tunnel.row, CLIENT, HELLO[CLIENT])
    assert not tunnel.dirty
    rig.until(tunnel.client.has_ended, "the end")
    assert tunnel.client.received == HELLO[BACKEND_SIDE]
    tunnel.client.close()
    end = rig.end()
    assert (end.initiator, end.cause) == ("backend", "reset")
    rig.assert_nothing_left(tunnel)
