"""Pings of the gateway's own: where they go into the streams, where not, and how their Pongs come out again."""

from __future__ import annotations

import fcntl
import itertools
import termios
from collections.abc import Callable

import pytest

from gateway.protocol.scanner_state import SCANNER_CELLS
from gateway.tunnels.layout import (
    AT_BOUNDARY,
    BACKEND_SIDE,
    BYTES,
    CLIENT,
    DISCARD,
    DRAIN,
    ENDED,
    GAP_BOUNDS_NS,
    GATE,
    HELD,
    OPAQUE,
    PASS,
    PINGED_NS,
    PINGS_ANSWERED,
    PINGS_SENT,
    PONG_DUE,
    PONG_NS,
    RTT_BOUNDS_NS,
    RTT_NS,
    SCANNER,
    SIDE_0,
    SIDE_CELLS,
    SIDES,
    SILENCE_NS,
    WROTE_NS,
)
from tests.support.frames import BINARY, CONTINUATION, PING, PONG, TEXT
from tests.support.frames import CLOSE as CLOSE_OPCODE

from .harness import NS, PONG_WITHIN, Rig, Tunnel
from .wire import close_frames, closing, frame, split

BOTH = (CLIENT, BACKEND_SIDE)
MS = 1_000_000
HELLO = {CLIENT: frame(TEXT, b"from the client", masked=True), BACKEND_SIDE: frame(TEXT, b"from the backend")}
LONG = {CLIENT: frame(BINARY, bytes(70_000), masked=True), BACKEND_SIDE: frame(BINARY, bytes(70_000))}
FRAGMENTS = {
    side: (
        frame(TEXT, b"first", masked=side == CLIENT, fin=False),
        frame(CONTINUATION, b"second", masked=side == CLIENT, fin=False),
        frame(CONTINUATION, b"third", masked=side == CLIENT),
    )
    for side in BOTH
}
CLOSE = {CLIENT: closing(1000, masked=True), BACKEND_SIDE: closing(1000, masked=False)}

both_sides = pytest.mark.parametrize("side", BOTH, ids=SIDES)


def send(rig: Rig, tunnel: Tunnel, side: int, data: bytes) -> None:
    """One side sends, the other receives just that."""
    peer = tunnel.peer(1 - side)
    before = len(peer.received)
    tunnel.peer(side).send(data)
    rig.until(lambda: peer.read() >= 0 and len(peer.received) >= before + len(data), "the bytes")
    assert peer.received[before:] == data


def control(data: bytes) -> tuple[int, bytes, bytes | None]:
    """Opcode, payload and mask of a control frame."""
    assert data[0] & 0xF0 == 0x80
    size = data[1] & 0x7F
    if not data[1] & 0x80:
        assert len(data) == 2 + size
        return data[0] & 0x0F, data[2:], None
    assert len(data) == 6 + size
    mask = data[2:6]
    return data[0] & 0x0F, bytes(byte ^ mask[i % 4] for i, byte in enumerate(data[6:])), mask


def ping(rig: Rig, tunnel: Tunnel, side: int) -> bytes:
    """Have a side sent a Ping; what it carried when it arrived."""
    peer = tunnel.peer(side)
    peer.read()
    before = len(peer.received)
    assert rig.relay.ping(tunnel.row, side)
    assert not tunnel.dirty
    size = 14 if side == BACKEND_SIDE else 10
    rig.until(lambda: peer.read() >= 0 and len(peer.received) >= before + size, "the Ping")
    opcode, payload, mask = control(bytes(peer.received[before:]))
    assert (opcode, len(payload), mask is not None) == (PING, 8, side == BACKEND_SIDE)
    del peer.received[before:]
    return payload


def pong(side: int, payload: bytes) -> bytes:
    return frame(PONG, payload, masked=side == CLIENT)


def answer(rig: Rig, tunnel: Tunnel, side: int, payload: bytes) -> None:
    """A side answers a Ping of the gateway's, and the other hears nothing of it."""
    heard = bytes(tunnel.peer(1 - side).received)
    pongs = rig.totals(side).pongs
    tunnel.peer(side).send(pong(side, payload))
    rig.until(lambda: rig.totals(side).pongs == pongs + 1, "the Pong to be taken")
    rig.rest()
    tunnel.peer(1 - side).read()
    assert tunnel.peer(1 - side).received == heard
    assert not tunnel.dirty


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
    """Its Pong comes behind that frame, be it in the same read."""
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
    # Whoever asks is not being asked.
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


# --- the Pong is taken out --------------------------------------------------------------------------------------------


@both_sides
def test_a_pong_alone(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    for _ in range(3):
        payload = ping(rig, tunnel, side)
        assert tunnel.side(1 - side, GATE) == PONG_DUE
        answer(rig, tunnel, side, payload)
        assert tunnel.side(1 - side, GATE) == PASS
    send(rig, tunnel, side, HELLO[side])


@both_sides
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda side: HELLO[side], lambda side: b""),
        (lambda side: b"", lambda side: HELLO[side]),
        (lambda side: HELLO[side] * 3, lambda side: HELLO[side] * 3),
        (lambda side: FRAGMENTS[side][0], lambda side: b"".join(FRAGMENTS[side][1:])),
        (lambda side: LONG[side], lambda side: LONG[side][:50_000]),
        (lambda side: frame(PING, b"", masked=side == CLIENT), lambda side: frame(PONG, b"", masked=side == CLIENT)),
        (lambda side: HELLO[side], lambda side: CLOSE[side] + b"\xff" * 30),
        (lambda side: HELLO[side], lambda side: HELLO[side][:1]),
        (lambda side: HELLO[side], lambda side: b"\xff" * 30),
    ],
    ids=["behind", "before", "between", "fragments", "64 KiB", "control", "close", "cut", "broken"],
)
def test_a_pong_glued_to_other_frames(
    rig: Rig, side: int, before: Callable[[int], bytes], after: Callable[[int], bytes]
) -> None:
    """All of it in one read."""
    tunnel = rig.open("unix", buffers=1 << 20)
    payload = ping(rig, tunnel, side)
    data = before(side) + pong(side, payload) + after(side)
    assert tunnel.peer(side).send(data) == len(data)
    rig.serve()
    assert not tunnel.unread(side)
    assert tunnel.peer(1 - side).has(before(side) + after(side))
    assert rig.totals(side).pongs == 1
    assert rig.totals(side).bytes == len(before(side) + after(side))
    assert not tunnel.dirty
    assert tunnel.side(1 - side, GATE) == PASS


@both_sides
def test_several_pongs_in_one_read_with_frames_between(rig: Rig, side: int) -> None:
    tunnel = rig.open("unix", buffers=1 << 20)
    payloads = [ping(rig, tunnel, side) for _ in range(4)]
    data = b"".join(HELLO[side] + pong(side, payload) for payload in payloads)
    assert tunnel.peer(side).send(data + HELLO[side]) == len(data + HELLO[side])
    rig.serve()
    assert tunnel.peer(1 - side).has(HELLO[side] * 5)
    assert rig.totals(side).pongs == 4


@both_sides
@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_one_byte_at_a_time(rig: Rig, side: int, family: str) -> None:
    tunnel = rig.open(family)
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    fragments = FRAGMENTS[side]
    first, second = ping(rig, tunnel, side), ping(rig, tunnel, side)
    data = fragments[0] + pong(side, first) + fragments[1] + pong(side, second) + fragments[2]
    for at in range(len(data)):
        near.send(data[at : at + 1])
        rig.until(lambda: not rig.waiting() and not tunnel.unread(side), "the byte")
        assert not tunnel.dirty
    rig.until(lambda: far.has(b"".join(fragments)), "the message")
    assert rig.totals(side).pongs == 2
    assert rig.totals(side).bytes == len(far.received)
    assert not tunnel.side(side, HELD)


@both_sides
def test_cut_anywhere(rig: Rig, side: int) -> None:
    """What may be the beginning of one is neither sent nor held in the process's hands."""
    tunnel = rig.open("unix")
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    size = len(pong(side, bytes(8)))
    for cut in range(1, size):
        far.received.clear()
        data = pong(side, ping(rig, tunnel, side))
        near.send(HELLO[side] + data[:cut])
        rig.until(lambda: far.has(HELLO[side]), "what is in front of it")
        rig.rest()
        assert (tunnel.side(side, HELD), tunnel.dirty) == (cut, False)
        near.send(data[cut:] + HELLO[side])
        rig.until(lambda: far.has(HELLO[side] * 2), "what is behind it")
        assert (tunnel.side(side, HELD), tunnel.dirty) == (0, False)
    assert rig.totals(side).pongs == size - 1
    assert rig.totals(side).frames == {TEXT: 2 * (size - 1)}


@both_sides
def test_held_bytes_and_a_full_buffer_behind_them(rig: Rig, side: int) -> None:
    """As much as one read takes, with as much as is ever held in front of it."""
    tunnel = rig.open("unix", buffers=1 << 20)
    data = pong(side, ping(rig, tunnel, side))
    tunnel.peer(side).send(data[:-1])
    rig.rest()
    assert tunnel.side(side, HELD) == len(data) - 1
    flood = HELLO[side] * 20_000
    assert tunnel.peer(side).send(data[-1:] + flood) == 1 + len(flood)
    rig.until(lambda: tunnel.peer(1 - side).has(flood), "the flood")
    assert rig.totals(side).frames == {TEXT: 20_000}
    assert rig.totals(side).pongs == 1


@both_sides
def test_a_pong_behind_what_the_other_side_does_not_take(rig: Rig, side: int) -> None:
    """A slow reader on the other side holds the Pong up, and what is around it arrives all the same."""
    tunnel = rig.open("unix", buffers=32 * 1024)
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    payload = ping(rig, tunnel, side)
    flood = LONG[side] * 20 + pong(side, payload) + LONG[side] * 20
    sent = 0

    def step() -> bool:
        nonlocal sent
        sent += near.send(memoryview(flood)[sent:])
        assert tunnel.dirty == any(tunnel.pending)
        far.read(limit=20_000)
        return len(far.received) >= 40 * len(LONG[side])

    rig.until(step, "the flood", turn=0)
    assert far.received == LONG[side] * 40
    assert rig.totals(side).pongs == 1
    rig.rest()
    assert not tunnel.dirty


# --- other Pongs pass -------------------------------------------------------------------------------------------------


@both_sides
@pytest.mark.parametrize("style", ["whole", "bytes"])
def test_pongs_that_are_not_the_gateways(rig: Rig, side: int, style: str) -> None:
    tunnel = rig.open()
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    answered, waited = ping(rig, tunnel, side), b""
    answer(rig, tunnel, side, answered)
    waited = ping(rig, tunnel, side)
    tag, number = waited[:4], int.from_bytes(waited[4:], "big")
    others = [
        b"",
        b"12345678",
        waited[:7],
        waited + b"!",
        bytes(byte ^ 1 for byte in tag) + waited[4:],
        tag + (number + 1).to_bytes(4, "big"),
        tag + (number | 1 << 31).to_bytes(4, "big"),
        tag + bytes(4),
        answered,
    ]
    data = b"".join(pong(side, payload) for payload in others)
    for at in range(0, len(data), 1 if style == "bytes" else len(data)):
        near.send(data[at : at + (1 if style == "bytes" else len(data))])
        rig.until(lambda: not rig.waiting() and not tunnel.unread(side), "the bytes to be read")
    rig.until(lambda: far.has(data), "the other Pongs")
    assert rig.totals(side).frames == {PONG: len(others)}
    answer(rig, tunnel, side, waited)
    assert rig.totals(side).pongs == 2
    # Nothing is waited for any more: the same again is an unsolicited Pong, which passes.
    send(rig, tunnel, side, pong(side, waited))


@both_sides
def test_the_other_sides_pong_is_not_this_ones(rig: Rig, side: int) -> None:
    """An endpoint that says what the other was asked is not believed."""
    tunnel = rig.open()
    payload = ping(rig, tunnel, side)
    ping(rig, tunnel, 1 - side)
    send(rig, tunnel, 1 - side, pong(1 - side, payload))
    answer(rig, tunnel, side, payload)


@both_sides
def test_an_endpoints_pong_of_the_same_size_is_held_until_it_is_whole(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    payload = ping(rig, tunnel, side)
    other = pong(side, b"8 bytes.")
    tunnel.peer(side).send(other[:-1])
    rig.rest()
    assert tunnel.peer(1 - side).read() == 0
    tunnel.peer(side).send(other[-1:])
    rig.until(lambda: tunnel.peer(1 - side).has(other), "the Pong")
    answer(rig, tunnel, side, payload)


# --- several Pings ----------------------------------------------------------------------------------------------------


@both_sides
def test_a_late_pong_after_the_next_ping(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    first, second = ping(rig, tunnel, side), ping(rig, tunnel, side)
    answer(rig, tunnel, side, first)
    assert tunnel.side(side, PINGS_ANSWERED) == 1
    assert tunnel.side(side, PINGED_NS), "the latest is still waited for"
    assert tunnel.side(side, RTT_NS) == 0
    answer(rig, tunnel, side, second)
    assert tunnel.side(side, PINGED_NS) == 0
    assert tunnel.side(side, RTT_NS) > 0
    assert (rig.totals(side).pings, rig.totals(side).pongs, sum(rig.totals(side).rtts)) == (2, 2, 1)


@both_sides
def test_an_endpoint_that_answers_only_the_latest(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    *earlier, latest = [ping(rig, tunnel, side) for _ in range(5)]
    answer(rig, tunnel, side, latest)
    assert tunnel.side(side, PINGS_ANSWERED) == 5
    assert tunnel.side(1 - side, GATE) == PASS
    # It had its chance to answer these: nobody does so afterwards, and if somebody does it is their business.
    send(rig, tunnel, side, pong(side, earlier[0]))
    assert rig.totals(side).pongs == 1


@both_sides
def test_an_endpoint_that_answers_every_other(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    payloads = [ping(rig, tunnel, side) for _ in range(6)]
    for payload in payloads[1::2]:
        answer(rig, tunnel, side, payload)
    assert (rig.totals(side).pings, rig.totals(side).pongs) == (6, 3)


def test_both_sides_at_once(rig: Rig) -> None:
    tunnel = rig.open()
    payloads = {side: ping(rig, tunnel, side) for side in BOTH}
    for side in BOTH:
        tunnel.peer(side).send(HELLO[side] + pong(side, payloads[side]) + HELLO[side])
    rig.until(lambda: all(tunnel.peer(1 - side).has(HELLO[side] * 2) for side in BOTH), "the messages")
    assert [rig.totals(side).pongs for side in BOTH] == [1, 1]


# --- ends, with a Pong half there -------------------------------------------------------------------------------------

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


# --- what is counted --------------------------------------------------------------------------------------------------


@both_sides
@pytest.mark.parametrize("milliseconds", [0, 3, 40, 700, 12_000])
def test_round_trip_times(rig: Rig, side: int, milliseconds: int) -> None:
    tunnel = rig.open()
    payload = ping(rig, tunnel, side)
    tunnel.age(milliseconds * MS)
    answer(rig, tunnel, side, payload)
    rtt = tunnel.side(side, RTT_NS)
    assert milliseconds * MS < rtt < (milliseconds + 200) * MS
    assert tunnel.side(side, PONG_NS) == rig.relay.now
    totals = rig.totals(side)
    assert totals.rtt_sum == rtt
    (bucket,) = (n for n, count in enumerate(totals.rtts) if count)
    assert totals.rtts[bucket] == 1
    assert bucket == sum(bound < rtt for bound in RTT_BOUNDS_NS)
    assert sum(rig.totals(1 - side).rtts) == 0


@both_sides
@pytest.mark.parametrize("seconds", [1, 3, 27, 5000])
def test_silences_that_a_pong_ends(rig: Rig, side: int, seconds: int) -> None:
    tunnel = rig.open()
    tunnel.age(seconds * NS)
    payload = ping(rig, tunnel, side)
    answer(rig, tunnel, side, payload)
    totals = rig.totals(side)
    assert seconds * NS <= totals.gaps_sum < (seconds + 1) * NS
    assert sum(totals.gaps) == 1
    assert totals.gaps[sum(bound < totals.gaps_sum for bound in GAP_BOUNDS_NS)] == 1
    # The other side has been silent all the while, and is so still.
    assert sum(rig.totals(1 - side).gaps) == 0
    # At once again, nothing was silent.
    answer(rig, tunnel, side, ping(rig, tunnel, side))
    assert sum(rig.totals(side).gaps) == 1


@both_sides
def test_silences_that_data_ends(rig: Rig, side: int) -> None:
    """While a Pong is waited for and while none is."""
    tunnel = rig.open()
    for n in (1, 2):
        tunnel.age(3 * NS)
        send(rig, tunnel, side, HELLO[side])
        assert sum(rig.totals(side).gaps) == n
        assert rig.totals(side).gaps[1] == n
        ping(rig, tunnel, side)
    tunnel.age(NS // 2)
    send(rig, tunnel, side, HELLO[side])
    assert sum(rig.totals(side).gaps) == 2


@both_sides
def test_a_pong_is_counted_for_its_side_alone(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    answer(rig, tunnel, side, ping(rig, tunnel, side))
    mine, other = rig.totals(side), rig.totals(1 - side)
    assert (mine.pings, mine.pongs, mine.timeouts, sum(mine.rtts)) == (1, 1, 0, 1)
    assert (other.pings, other.pongs, other.timeouts, sum(other.rtts)) == (0, 0, 0, 0)


@both_sides
def test_the_scanner_never_sees_a_pong_of_the_gateways(rig: Rig, side: int) -> None:
    """Or it would take it for the answer to an endpoint's Ping."""
    tunnel = rig.open()

    def scanners() -> list[list[int]]:
        starts = (tunnel.row + SIDE_0 + each * SIDE_CELLS + SCANNER for each in BOTH)
        return [rig.cells[start : start + SCANNER_CELLS].tolist() for start in starts]

    before = scanners()
    answer(rig, tunnel, side, ping(rig, tunnel, side))
    assert scanners() == before
