"""Close frames of the gateway's own: where they go into the streams, and where they must not."""

from __future__ import annotations

import random

import pytest

from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    BYTES,
    CLIENT,
    CLOSE_CODE_SENT,
    CLOSING,
    DRAIN,
    IDLE,
    MAX_LIFETIME,
    OPAQUE,
    PHASE,
    RELAYING,
    SIDES,
)
from tests.support.frames import BINARY, CONTINUATION, PING, TEXT

from .harness import CLOSE_WITHIN, Rig, Tunnel
from .wire import close_frames, closing, ends_of, frame, split

BUFFERS = 64 * 1024
BOTH = (CLIENT, BACKEND_SIDE)
HELLO = {CLIENT: frame(TEXT, b"from the client", masked=True), BACKEND_SIDE: frame(TEXT, b"from the backend")}
ANSWER = {CLIENT: closing(1012, masked=True), BACKEND_SIDE: closing(1012, masked=False)}
LONG = {CLIENT: frame(BINARY, bytes(70_000), masked=True), BACKEND_SIDE: frame(BINARY, bytes(70_000))}

both_sides = pytest.mark.parametrize("side", BOTH, ids=SIDES)


def close(rig: Rig, tunnel: Tunnel, code: int = 1012, cause: int = DRAIN) -> None:
    rig.relay.close_tunnel(tunnel.row, code, cause)


def assert_told(rig: Rig, tunnel: Tunnel, side: int, before: bytes = b"", code: int = 1012) -> None:
    """A side has received ``before``, then a Close frame, then nothing."""
    peer = tunnel.peer(side)
    size = len(before) + (8 if side == BACKEND_SIDE else 4)
    rig.until(lambda: peer.read() >= 0 and len(peer.received) >= size, "the Close frame")
    assert peer.received[: len(before)] == before
    assert close_frames(bytes(peer.received[len(before) :])) == [(code, side == BACKEND_SIDE)]


def assert_ends(rig: Rig, cause: str = "drain") -> None:
    end = rig.end()
    assert (end.initiator, end.cause) == ("gateway", cause)


def answer(rig: Rig, tunnel: Tunnel, cause: str = "drain") -> None:
    """Both sides answer; that ends the tunnel, and neither hears of the other's answer."""
    for side in BOTH:
        rig.assert_live(tunnel)
        tunnel.peer(side).read()
    heard = [bytes(tunnel.peer(side).received) for side in BOTH]
    for side in BOTH:
        rig.assert_live(tunnel)
        tunnel.peer(side).send(ANSWER[side])
        rig.rest()
    assert_ends(rig, cause)
    for side in BOTH:
        rig.until(tunnel.peer(side).has_ended, "FIN")
        assert (bytes(tunnel.peer(side).received), tunnel.peer(side).end) == (heard[side], "fin")


def send(rig: Rig, tunnel: Tunnel, side: int, data: bytes) -> None:
    """One side sends, the other receives."""
    peer = tunnel.peer(1 - side)
    before = len(peer.received)
    tunnel.peer(side).send(data)
    rig.until(lambda: peer.read() >= 0 and len(peer.received) == before + len(data), "the bytes")


# --- where ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "cause", "name"), [(1012, DRAIN, "drain"), (1012, MAX_LIFETIME, "max_lifetime"), (1001, IDLE, "idle")]
)
def test_at_a_boundary_at_once(rig: Rig, code: int, cause: int, name: str) -> None:
    tunnel = rig.open()
    for side in BOTH:
        send(rig, tunnel, side, HELLO[side])
    close(rig, tunnel, code, cause)
    assert (tunnel.cell(PHASE), tunnel.cell(CLOSE_CODE_SENT)) == (CLOSING, code)
    for side in BOTH:
        assert_told(rig, tunnel, side, HELLO[1 - side], code)
    assert not tunnel.dirty
    answer(rig, tunnel, name)


@both_sides
@pytest.mark.parametrize("left", [1, 5, 69_999])
def test_in_the_middle_of_a_frame_only_after_it(rig: Rig, side: int, left: int) -> None:
    tunnel = rig.open()
    data = LONG[side]
    send(rig, tunnel, side, data[:-left])
    close(rig, tunnel)
    assert_told(rig, tunnel, side)  # nothing was under way in the other direction
    rig.assert_live(tunnel)
    assert tunnel.peer(1 - side).read() == 0
    tunnel.peer(side).send(data[-left:] + HELLO[side])
    assert_told(rig, tunnel, 1 - side, data)
    answer(rig, tunnel)


@pytest.mark.parametrize("cut", range(1, 14))
def test_in_the_middle_of_a_header(rig: Rig, cut: int) -> None:
    tunnel = rig.open()
    data = LONG[CLIENT]
    send(rig, tunnel, CLIENT, data[:cut])
    close(rig, tunnel)
    for at in range(cut, 20):
        send(rig, tunnel, CLIENT, data[at : at + 1])
    tunnel.client.send(data[20:] + HELLO[CLIENT])
    assert_told(rig, tunnel, BACKEND_SIDE, data)
    answer(rig, tunnel)


@both_sides
def test_a_header_without_payload_is_a_frame_too(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    data = frame(PING, masked=side == CLIENT)
    send(rig, tunnel, side, data[:-1])
    close(rig, tunnel)
    tunnel.peer(side).send(data[-1:])
    assert_told(rig, tunnel, 1 - side, data)
    answer(rig, tunnel)


@both_sides
def test_between_fragments(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    first = frame(TEXT, b"first", masked=side == CLIENT, fin=False)
    send(rig, tunnel, side, first)
    close(rig, tunnel)
    tunnel.peer(side).send(frame(CONTINUATION, b"rest", masked=side == CLIENT))
    assert_told(rig, tunnel, 1 - side, first)
    answer(rig, tunnel)


@both_sides
def test_inside_a_chunk(rig: Rig, side: int) -> None:
    """A flood without pause: the boundary is somewhere in what was read, and what is behind it is discarded."""
    tunnel = rig.open(buffers=BUFFERS)
    rng = random.Random(side)
    frames = [frame(BINARY, bytes([n % 256]) * rng.randint(0, 3000), masked=side == CLIENT) for n in range(4000)]
    flood = b"".join(frames)
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    sent = 0

    def turn() -> None:
        nonlocal sent
        sent += near.send(memoryview(flood)[sent : sent + 50_001])
        rig.serve()
        far.read()

    while len(far.received) < 300_000:
        turn()
    close(rig, tunnel)
    read_then = tunnel.side(side, BYTES)
    while tunnel.side(side, BYTES) < read_then + 500_000:
        turn()
    rig.until(lambda: not far.read(), "all that was for it")
    *data, last = split(bytes(far.received))
    assert data == frames[: len(data)]
    assert close_frames(last) == [(1012, side == CLIENT)]
    assert sum(map(len, data)) == next(end for end in ends_of(frames) if end >= read_then)
    assert tunnel.pending == (0, 0)
    # It hears of it as well, and answers when its flood is over.
    assert_told(rig, tunnel, side)
    tail = next(end for end in ends_of(frames) if end >= sent)
    near.sock.settimeout(0)
    rest = flood[sent:tail] + ANSWER[side]
    rig.until(lambda: not tunnel.unread(side), "the flood to be read")
    assert near.send(rest) == len(rest)
    far.send(ANSWER[1 - side])
    assert_ends(rig)


@both_sides
def test_behind_what_is_pending(rig: Rig, side: int) -> None:
    tunnel = rig.open(buffers=BUFFERS)
    flood = HELLO[side] * 1000
    sent = rig.stall(tunnel.peer(side), flood)
    close(rig, tunnel)
    pending = tunnel.pending[1 - side]
    far = tunnel.peer(1 - side)
    rig.until(lambda: not far.read() and not tunnel.pending[1 - side] and not rig.waiting(), "all of it")
    *data, last = split(bytes(far.received))
    assert close_frames(last) == [(1012, side == CLIENT)]
    assert pending
    assert sent.startswith(b"".join(data))
    assert set(data) == {HELLO[side]}
    # The flooding side's bytes are read on, though nobody gets them: its answer is behind them.
    rest = flood[len(sent) % len(flood) :] + ANSWER[side]
    rig.until(lambda: not tunnel.unread(side), "the flood to be read")
    assert tunnel.peer(side).send(rest) == len(rest)
    far.send(ANSWER[1 - side])
    assert_ends(rig)


@both_sides
def test_who_is_stalled_does_not_keep_the_other_from_being_heard(rig: Rig, side: int) -> None:
    """What is pending for one side does not stop the other's bytes, which nobody waits for, nor its answer."""
    tunnel = rig.open("unix", buffers=BUFFERS)
    far = tunnel.peer(1 - side)
    before = HELLO[side] * 20_000
    rig.relay.write(tunnel.row, 1 - side, before)
    close(rig, tunnel)
    assert_told(rig, tunnel, side)
    for piece in (HELLO[side] * 100, ANSWER[side]):
        tunnel.peer(side).send(piece)
        rig.until(lambda: not tunnel.unread(side), "its bytes to be read")
    assert tunnel.pending[1 - side]
    # Both have said goodbye, but one has yet to hear it.
    far.send(ANSWER[1 - side])
    rig.until(lambda: not tunnel.unread(1 - side), "the other's answer to be read")
    rig.assert_live(tunnel)
    assert_told(rig, tunnel, 1 - side, before)
    assert_ends(rig)


# --- where not --------------------------------------------------------------------------------------------------------


@both_sides
def test_nothing_after_an_endpoint_has_said_close(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    send(rig, tunnel, side, ANSWER[side])
    close(rig, tunnel, 1001)
    rig.assert_live(tunnel)
    assert tunnel.cell(PHASE) == RELAYING
    assert tunnel.peer(side).read() == tunnel.peer(1 - side).read() == 0
    # Its handshake goes on as if nothing had been.
    send(rig, tunnel, 1 - side, ANSWER[1 - side])
    tunnel.backend.close()
    tunnel.client.close()
    end = rig.end()
    assert (end.initiator, end.cause) == (SIDES[side], "close_frame")


@both_sides
@pytest.mark.parametrize("cut", [1, 3, 5])
def test_nothing_after_an_endpoints_close_that_was_on_its_way(rig: Rig, side: int, cut: int) -> None:
    tunnel = rig.open()
    data = closing(1000, masked=side == CLIENT)
    cut = min(cut, len(data) - 1)
    send(rig, tunnel, side, data[:cut])
    close(rig, tunnel)
    assert_told(rig, tunnel, side)
    tunnel.peer(side).send(data[cut:] + b"\xff\xff\xff")
    rig.until(lambda: tunnel.peer(1 - side).has(data), "the rest of the Close frame")
    rig.assert_live(tunnel)
    tunnel.peer(1 - side).send(ANSWER[1 - side])
    assert_ends(rig)
    assert tunnel.peer(1 - side).received == data


@both_sides
def test_nothing_into_a_broken_stream(rig: Rig, side: int) -> None:
    """Where frames cannot be told apart, bytes are relayed on, until the time to close is up."""
    tunnel = rig.open()
    send(rig, tunnel, side, b"\xff" * 100)
    close(rig, tunnel)
    assert_told(rig, tunnel, side)
    send(rig, tunnel, side, b"\xff" * 100)
    assert tunnel.peer(1 - side).received == b"\xff" * 200
    rig.assert_live(tunnel)
    rig.sweep(rig.relay.now + CLOSE_WITHIN)
    assert_ends(rig)


def test_a_stream_that_breaks_while_a_boundary_is_waited_for(rig: Rig) -> None:
    tunnel = rig.open()
    send(rig, tunnel, CLIENT, b"\x81")
    close(rig, tunnel)
    send(rig, tunnel, CLIENT, b"\x05" + bytes(50))  # not masked
    send(rig, tunnel, CLIENT, bytes(50))
    assert tunnel.backend.received == b"\x81\x05" + bytes(100)
    assert rig.totals(CLIENT).violations == 1
    rig.sweep(rig.relay.now + CLOSE_WITHIN)
    assert_ends(rig)


def test_an_opaque_tunnel_just_ends(rig: Rig) -> None:
    tunnel = rig.open(kind=OPAQUE)
    for side in BOTH:
        send(rig, tunnel, side, b"anything")
    close(rig, tunnel)
    assert_ends(rig)
    for side in BOTH:
        rig.until(tunnel.peer(side).has_ended, "FIN")
        assert (tunnel.peer(side).received, tunnel.peer(side).end) == (b"anything", "fin")


@both_sides
def test_nothing_into_a_tunnel_that_has_seen_fin(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    tunnel.peer(side).half_close()
    rig.until(tunnel.peer(1 - side).has_ended, "FIN")
    close(rig, tunnel)
    rig.assert_live(tunnel)
    assert tunnel.peer(side).read() == 0
    tunnel.peer(1 - side).close()
    assert rig.end().cause == "fin"


# --- afterwards -------------------------------------------------------------------------------------------------------


def test_closing_twice_is_closing_once(rig: Rig) -> None:
    tunnel = rig.open()
    close(rig, tunnel)
    close(rig, tunnel, 1001, IDLE)
    for side in BOTH:
        assert_told(rig, tunnel, side)
    answer(rig, tunnel)
    close(rig, tunnel)  # the row is free
    assert not rig.ends


@both_sides
def test_what_comes_after_it_is_read_and_discarded(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    close(rig, tunnel)
    tunnel.peer(side).send(HELLO[side] * 3)
    rig.rest()
    assert tunnel.side(side, BYTES) == 3 * len(HELLO[side])
    assert rig.totals(side).frames == {TEXT: 3}
    assert not tunnel.dirty
    for each in BOTH:
        assert_told(rig, tunnel, each)
    answer(rig, tunnel)


@pytest.mark.parametrize("answering", [None, CLIENT, BACKEND_SIDE])
def test_whoever_does_not_answer_is_cut(rig: Rig, answering: int | None) -> None:
    tunnel = rig.open()
    close(rig, tunnel)
    closed_at = rig.relay.now
    if answering is not None:
        tunnel.peer(answering).send(ANSWER[answering])
    rig.assert_live(tunnel)
    rig.sweep(closed_at + CLOSE_WITHIN - 1)
    rig.assert_live(tunnel)
    rig.sweep(closed_at + CLOSE_WITHIN)
    assert_ends(rig)


@both_sides
def test_fin_or_reset_is_an_answer_too(rig: Rig, side: int) -> None:
    for leave in ("half_close", "close", "reset"):
        tunnel = rig.open()
        close(rig, tunnel)
        getattr(tunnel.peer(side), leave)()
        rig.assert_live(tunnel)
        tunnel.peer(1 - side).send(ANSWER[1 - side])
        assert_ends(rig)


def test_masks_are_fresh(rig: Rig) -> None:
    keys = set()
    for _ in range(8):
        tunnel = rig.open("unix")
        close(rig, tunnel)
        assert_told(rig, tunnel, BACKEND_SIDE)
        keys.add(bytes(tunnel.backend.received[2:6]))
        answer(rig, tunnel)
    assert len(keys) == 8


@both_sides
def test_a_side_that_was_reset_does_not_keep_the_other_from_being_told(rig: Rig, side: int) -> None:
    """The Close frame is what finds the side gone."""
    tunnel = rig.open()
    tunnel.peer(side).reset()
    close(rig, tunnel)
    assert_told(rig, tunnel, 1 - side)
    tunnel.peer(1 - side).send(ANSWER[1 - side])
    assert_ends(rig)
