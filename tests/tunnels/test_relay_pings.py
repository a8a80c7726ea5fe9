"""Pings of the gateway's own: what they are, where they go into the streams, and where not."""

from __future__ import annotations

import fcntl
import termios

import pytest

from gateway.tunnels.table.layout import (
    AT_BOUNDARY,
    BACKEND_SIDE,
    BYTES,
    CLIENT,
    DRAIN,
    GATE,
    OPAQUE,
    PASS,
    PINGED_NS,
    PINGS_SENT,
    SILENCE_NS,
    WROTE_NS,
)
from tests.support.frames import CONTINUATION, PING, PONG, TEXT

from .harness import NS, PONG_WITHIN, Rig, Tunnel
from .own_pings import BOTH, CLOSE, FRAGMENTS, HELLO, LONG, answer, both_sides, control, ping, pong, send
from .wire import frame, split


def assert_refused(rig: Rig, tunnel: Tunnel, side: int) -> None:
    """A side gets no Ping now, and nothing was noted of one."""

    def noted() -> list[object]:
        unread = fcntl.ioctl(tunnel.peer(side).sock, termios.FIONREAD, bytes(4))
        fields = [tunnel.side(side, field) for field in (PINGS_SENT, PINGED_NS, WROTE_NS, SILENCE_NS)]
        return [unread, fields, rig.totals(side).pings, tunnel.dirty, tunnel.pending, tunnel.side(1 - side, GATE)]

    before = noted()
    assert not rig.relay.ping(tunnel.row, side)
    assert noted() == before


# --- what is sent -----------------------------------------------------------------------------------------------------


@both_sides
def test_each_ping_is_another_and_each_mask_is_fresh(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    payloads, masks = set(), set()
    for n in range(1, 17):
        assert rig.relay.ping(tunnel.row, side)
        rig.until(tunnel.peer(side).read, "the Ping")
        opcode, payload, mask = control(bytes(tunnel.peer(side).received))
        tunnel.peer(side).received.clear()
        assert opcode == PING
        payloads.add(payload)
        masks.add(mask)
        assert rig.totals(side).pings == tunnel.side(side, PINGS_SENT) == n
    assert len(payloads) == 16
    assert len(masks) == 16 if side == BACKEND_SIDE else masks == {None}
    assert len({payload[:4] for payload in payloads}) == 1
    assert rig.totals(1 - side).pings == 0


def test_no_two_sides_share_a_tag(rig: Rig) -> None:
    tags = set()
    for _ in range(4):
        tunnel = rig.open()
        tags |= {ping(rig, tunnel, side)[:4] for side in BOTH}
    assert len(tags) == 8


@both_sides
def test_neither_ping_nor_pong_counts_as_relayed(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    answer(rig, tunnel, side, ping(rig, tunnel, side))
    for each in BOTH:
        totals = rig.totals(each)
        assert (totals.bytes, totals.frames, totals.violations) == (0, {}, 0)
        assert tunnel.side(each, BYTES) == 0


# --- where ------------------------------------------------------------------------------------------------------------


@both_sides
def test_between_messages_and_between_fragments(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    other = 1 - side
    for piece in (HELLO[other], *FRAGMENTS[other], LONG[other]):
        send(rig, tunnel, other, piece)
        answer(rig, tunnel, side, ping(rig, tunnel, side))
    assert tunnel.peer(side).received == HELLO[other] + b"".join(FRAGMENTS[other]) + LONG[other]


@both_sides
@pytest.mark.parametrize("rsv", [4, 2, 1])
def test_not_between_the_fragments_of_a_message_that_an_extension_has_changed(rig: Rig, side: int, rsv: int) -> None:
    """Many libraries lose track of such a message when a control frame comes inside it. One that is whole is none."""
    tunnel = rig.open()
    other, masked = 1 - side, side == BACKEND_SIDE
    for _ in range(2):
        send(rig, tunnel, other, frame(TEXT, b"all of it", masked=masked, rsv=rsv))
        answer(rig, tunnel, side, ping(rig, tunnel, side))
        send(rig, tunnel, other, frame(TEXT, b"first", masked=masked, fin=False, rsv=rsv))
        assert_refused(rig, tunnel, side)
        send(rig, tunnel, other, frame(CONTINUATION, b"second", masked=masked, fin=False))
        send(rig, tunnel, other, frame(PONG, b"", masked=masked))
        assert_refused(rig, tunnel, side)
        answer(rig, tunnel, other, ping(rig, tunnel, other))
        send(rig, tunnel, other, frame(CONTINUATION, b"third", masked=masked))
        answer(rig, tunnel, side, ping(rig, tunnel, side))
        send(rig, tunnel, other, FRAGMENTS[other][0])
        answer(rig, tunnel, side, ping(rig, tunnel, side))
        send(rig, tunnel, other, FRAGMENTS[other][2])


@both_sides
@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 9, 10, 13, 14, 20, 69_999])
def test_not_inside_a_frame_to_it(rig: Rig, side: int, cut: int) -> None:
    tunnel = rig.open()
    data = LONG[1 - side]
    send(rig, tunnel, 1 - side, data[:cut])
    assert_refused(rig, tunnel, side)
    send(rig, tunnel, 1 - side, data[cut:-1])
    assert_refused(rig, tunnel, side)
    send(rig, tunnel, 1 - side, data[-1:])
    answer(rig, tunnel, side, ping(rig, tunnel, side))


@both_sides
@pytest.mark.parametrize("cut", [1, 5, 100])
def test_while_it_is_in_the_middle_of_a_frame_itself(rig: Rig, side: int, cut: int) -> None:
    """Its Pong comes behind that frame, also in the same read."""
    tunnel = rig.open()
    data = LONG[side]
    send(rig, tunnel, side, data[:cut])
    payload = ping(rig, tunnel, side)
    tunnel.peer(side).send(data[cut:] + pong(side, payload) + HELLO[side])
    rig.until(lambda: tunnel.peer(1 - side).has(data + HELLO[side]), "the frames")
    assert rig.totals(side).pongs == 1


@both_sides
@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_not_while_bytes_are_pending_for_it(rig: Rig, side: int, family: str) -> None:
    tunnel = rig.open(family, buffers=32 * 1024)
    sent = rig.stall(tunnel.peer(1 - side), HELLO[1 - side] * 100)
    assert tunnel.pending[side]
    assert_refused(rig, tunnel, side)
    rest = HELLO[1 - side] * 100
    rest = rest[len(sent) % len(rest) :]
    near, far = tunnel.peer(1 - side), tunnel.peer(side)

    def drained() -> bool:
        nonlocal rest
        far.read()
        rest = rest[near.send(rest) :]
        return not rest and not tunnel.unread(1 - side) and not tunnel.pending[side]

    rig.until(drained, "the pending bytes to go")
    rig.rest()
    far.read()
    answer(rig, tunnel, side, ping(rig, tunnel, side))


@both_sides
def test_a_ping_that_the_socket_does_not_take_whole(rig: Rig, side: int) -> None:
    """It stays a Ping, in one piece: what comes later comes behind it."""
    tunnel = rig.open("unix", buffers=8 * 1024)
    far = tunnel.peer(side)
    filler = HELLO[1 - side]
    before = b""
    while not tunnel.pending[side]:
        before += filler
        rig.relay.write(tunnel.row, side, filler)
    rig.until(lambda: far.read(limit=1) and not tunnel.pending[side], "room for what was pending, and for nothing else")
    while rig.relay.ping(tunnel.row, side) and not tunnel.pending[side]:
        pass
    sent = tunnel.side(side, PINGS_SENT)
    assert tunnel.pending[side]
    assert tunnel.dirty
    tunnel.peer(1 - side).send(HELLO[1 - side])
    rig.until(lambda: far.read() >= 0 and not tunnel.pending[side] and not tunnel.unread(1 - side), "all of it")
    rig.rest()
    far.read()
    frames = split(bytes(far.received))
    pings = frames[len(split(before)) : -1]
    assert frames[-1] == HELLO[1 - side]
    assert [control(each)[0] for each in pings] == [PING] * sent
    assert not tunnel.dirty


# --- where not --------------------------------------------------------------------------------------------------------


@both_sides
@pytest.mark.parametrize("closing_side", BOTH, ids=["client closed", "backend closed"])
def test_not_after_a_close_frame_of_either_side(rig: Rig, side: int, closing_side: int) -> None:
    tunnel = rig.open()
    send(rig, tunnel, closing_side, CLOSE[closing_side])
    assert_refused(rig, tunnel, side)


@both_sides
@pytest.mark.parametrize("ending_side", BOTH, ids=["client ended", "backend ended"])
def test_not_after_fin_of_either_side(rig: Rig, side: int, ending_side: int) -> None:
    tunnel = rig.open()
    tunnel.peer(ending_side).half_close()
    rig.until(tunnel.peer(1 - ending_side).has_ended, "FIN")
    assert_refused(rig, tunnel, side)


@both_sides
def test_not_once_the_gateway_closes(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    send(rig, tunnel, 1 - side, LONG[1 - side][:100])  # so that its Close waits for a boundary
    rig.relay.close_tunnel(tunnel.row, 1012, DRAIN)
    assert tunnel.side(side, GATE) == AT_BOUNDARY
    for each in BOTH:
        assert_refused(rig, tunnel, each)


@both_sides
@pytest.mark.parametrize("breaking_side", BOTH, ids=["client breaks", "backend breaks"])
def test_not_into_a_tunnel_with_a_broken_stream(rig: Rig, side: int, breaking_side: int) -> None:
    tunnel = rig.open()
    send(rig, tunnel, breaking_side, b"\xff" * 20)
    assert_refused(rig, tunnel, side)


@both_sides
def test_not_into_an_opaque_tunnel(rig: Rig, side: int) -> None:
    tunnel = rig.open(kind=OPAQUE)
    assert_refused(rig, tunnel, side)


@both_sides
def test_not_into_a_row_that_holds_no_tunnel(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    tunnel.client.close()
    tunnel.backend.close()
    rig.end()
    assert not rig.relay.ping(tunnel.row, side)
    reserved = rig.slice.allocate(0, 0)
    assert reserved == tunnel.row
    assert not rig.relay.ping(tunnel.row, side)


# --- an endpoint's own Pings ------------------------------------------------------------------------------------------


@both_sides
@pytest.mark.parametrize("payload", [b"", b"p", bytes(8), bytes(range(125))], ids=["empty", "1", "8", "125"])
def test_not_while_an_endpoints_ping_waits_for_its_pong(rig: Rig, side: int, payload: bytes) -> None:
    tunnel = rig.open()
    other = 1 - side
    send(rig, tunnel, other, frame(PING, payload, masked=other == CLIENT))
    assert_refused(rig, tunnel, side)
    # A side that sends Pings gets none.
    answer(rig, tunnel, other, ping(rig, tunnel, other))
    # Neither data nor another Pong is the answer.
    send(rig, tunnel, side, HELLO[side])
    send(rig, tunnel, side, pong(side, payload + b"?" if len(payload) < 125 else b"?"))
    assert_refused(rig, tunnel, side)
    send(rig, tunnel, side, pong(side, payload))
    answer(rig, tunnel, side, ping(rig, tunnel, side))


@both_sides
def test_of_several_pings_the_latest_has_to_be_answered(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    other = 1 - side
    for payload in (b"1", b"2"):
        send(rig, tunnel, other, frame(PING, payload, masked=other == CLIENT))
    send(rig, tunnel, side, pong(side, b"1"))
    assert_refused(rig, tunnel, side)
    send(rig, tunnel, side, pong(side, b"2"))
    ping(rig, tunnel, side)


@both_sides
def test_an_endpoints_ping_that_is_never_answered_counts_for_as_long_as_one_of_the_gateways(
    rig: Rig, side: int
) -> None:
    tunnel = rig.open()
    send(rig, tunnel, 1 - side, frame(PING, b"hello?", masked=side == BACKEND_SIDE))
    tunnel.age(PONG_WITHIN - NS)
    assert_refused(rig, tunnel, side)
    tunnel.age(NS)
    ping(rig, tunnel, side)


@both_sides
def test_an_endpoints_ping_behind_one_of_the_gateways(rig: Rig, side: int) -> None:
    """Both are answered, or only the later one: the endpoint gets its Pong and nothing else."""
    for answers_both in (True, False):
        tunnel = rig.open()
        own = ping(rig, tunnel, side)
        send(rig, tunnel, 1 - side, frame(PING, b"hello?", masked=side == BACKEND_SIDE))
        reply = pong(side, b"hello?")
        tunnel.peer(side).send((pong(side, own) if answers_both else b"") + reply)
        rig.until(lambda tunnel=tunnel, reply=reply: tunnel.peer(1 - side).has(reply), "its Pong")
        answer(rig, tunnel, side, ping(rig, tunnel, side))
        assert tunnel.side(1 - side, GATE) == PASS
