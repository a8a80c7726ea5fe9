"""Frames above the limit of their side: refused with Close 1009, and not a byte of them is relayed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing as closed_after

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    CLIENT,
    CLOSE_CODE_SENT,
    DRAIN,
    GATE,
    HELD,
    LIMITED,
    OPAQUE,
    SECOND,
    SIDES,
)
from tests.support.examples import examples
from tests.support.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

from .harness import Rig, Tunnel
from .tls_peers import KINDS, TLS13
from .wire import KEY, close_frames, closing, cut, frame, split

BOTH = (CLIENT, BACKEND_SIDE)
LIMIT = 1000
GIB = 1 << 30
TOO_LARGE, BROKE_PROTOCOL, GOING_AWAY, SERVICE_RESTART = 1009, 1002, 1001, 1012
TO_THE_OTHER = {CLIENT: GOING_AWAY, BACKEND_SIDE: SERVICE_RESTART}
"""Close code for the other side, by the sender."""

both_sides = pytest.mark.parametrize("side", BOTH, ids=SIDES)


def limited(rig: Rig, family: str = "unix", **more: object) -> Tunnel:
    return rig.open(family, frames=(LIMIT, LIMIT), **more)  # type: ignore[arg-type]  # of Rig.open


def of(side: int, opcode: int, payload: bytes = b"", **more: object) -> bytes:
    return frame(opcode, payload, masked=side == CLIENT, **more)  # type: ignore[arg-type]  # of frame


def header(side: int, size: int) -> bytes:
    """Of a binary frame."""
    key = KEY if side == CLIENT else b""
    masked = 0x80 if side == CLIENT else 0
    if size < 65536:
        return struct.pack("!BBH", 0x82, masked | 126, size) + key
    return struct.pack("!BBQ", 0x82, masked | 127, size) + key


def codes(tunnel: Tunnel, side: int, before: bytes = b"") -> list[int]:
    """Codes of the Close frames that a side has received, behind ``before`` and nothing else."""
    received = bytes(tunnel.peer(side).received)
    assert received.startswith(before)
    return [code for code, _ in close_frames(received[len(before) :])]


def assert_refused(
    rig: Rig, tunnel: Tunnel, sender: int, passed: bytes, code: int = TOO_LARGE, cause: str = "limit"
) -> None:
    """The sender gets a Close frame, the other side what was sent before, then its Close frame, then nothing."""
    rig.until(lambda: tunnel.peer(sender).read() >= 0 and codes(tunnel, sender), "the sender's Close frame")
    other = tunnel.peer(1 - sender)
    rig.until(lambda: other.read() >= 0 and len(other.received) > len(passed), "the other side's Close frame")
    rig.rest()
    for side in BOTH:
        tunnel.peer(side).read()
    assert codes(tunnel, sender) == [code]
    assert codes(tunnel, 1 - sender, passed) == [TO_THE_OTHER[sender]]
    assert tunnel.cell(CLOSE_CODE_SENT) == code
    for side in BOTH:
        tunnel.peer(side).half_close()
    end = rig.end()
    assert (end.initiator, end.cause) == ("gateway", cause)
    rig.assert_nothing_left(tunnel)


# --- by the byte ------------------------------------------------------------------------------------------------------


@both_sides
@pytest.mark.parametrize("size", [LIMIT + 1, 65535, 65536, GIB, 2**63 - 1])
@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_the_header_byte_by_byte(rig: Rig, side: int, size: int, family: str) -> None:
    """The sender is told as soon as its header is whole, the other side never hears of a byte of it."""
    tunnel = limited(rig, family)
    first = of(side, TEXT, b"before")
    tunnel.peer(side).send(first)
    rig.until(lambda: tunnel.peer(1 - side).has(first), "the message")
    whole = header(side, size)
    assert len(whole) <= 14
    for n in range(len(whole)):
        assert tunnel.side(side, HELD) == n
        rig.assert_live(tunnel)
        assert not tunnel.dirty
        assert tunnel.peer(1 - side).has(first)
        tunnel.peer(side).send(whole[n : n + 1])
        rig.until(lambda n=n: tunnel.side(side, HELD) != n or tunnel.peer(side).read(), "the byte to be read")
    assert_refused(rig, tunnel, side, first)


@both_sides
def test_a_frame_of_just_the_limit_passes(rig: Rig, side: int) -> None:
    tunnel = limited(rig)
    data = b"".join(of(side, BINARY, bytes(size)) for size in (0, 125, 126, LIMIT)) + of(side, PING, bytes(125))
    for times, style in enumerate(("whole", "bytes"), 1):
        for piece in cut(data, style, 0):
            tunnel.peer(side).send(piece)
            rig.rest()
        rig.until(lambda times=times: tunnel.peer(1 - side).has(data * times), "the frames")
    rig.assert_live(tunnel)
    assert rig.totals(side).bytes == 2 * len(data)
    assert rig.totals(side).frames == {BINARY: 8, PING: 2}


def test_a_message_may_be_larger_than_its_frames(rig: Rig) -> None:
    tunnel = limited(rig)
    data = of(CLIENT, BINARY, bytes(LIMIT), fin=False) + of(CLIENT, CONTINUATION, bytes(LIMIT))
    tunnel.client.send(data)
    rig.until(lambda: tunnel.backend.has(data), "the message")
    tunnel.client.send(of(CLIENT, TEXT, b"!", fin=False) + of(CLIENT, CONTINUATION, bytes(LIMIT + 1)))
    assert_refused(rig, tunnel, CLIENT, data + of(CLIENT, TEXT, b"!", fin=False))


@both_sides
def test_each_side_has_a_limit_of_its_own(rig: Rig, side: int) -> None:
    limits = [0, 0]
    limits[1 - side] = 10
    tunnel = rig.open("unix", frames=(limits[0], limits[1]))
    long = of(side, BINARY, bytes(LIMIT))
    tunnel.peer(side).send(long)
    rig.until(lambda: tunnel.peer(1 - side).has(long), "what is not limited")
    tunnel.peer(1 - side).send(of(1 - side, BINARY, bytes(11)))
    rig.until(lambda: tunnel.peer(1 - side).read() or len(tunnel.peer(1 - side).received) > len(long), "a Close frame")
    assert codes(tunnel, 1 - side, long) == [TOO_LARGE]


def test_the_limit_is_on_what_is_on_the_wire(rig: Rig) -> None:
    """A compressed frame may be as long as another, whatever is in it."""
    tunnel = limited(rig)
    small = of(CLIENT, BINARY, bytes(LIMIT), rsv=4)
    tunnel.client.send(small)
    rig.until(lambda: tunnel.backend.has(small), "the message")
    tunnel.client.send(of(CLIENT, BINARY, bytes(LIMIT + 1), rsv=4))
    assert_refused(rig, tunnel, CLIENT, small)


def test_opaque_tunnels_have_no_frames(rig: Rig) -> None:
    tunnel = rig.open("unix", kind=OPAQUE, frames=(10, 10))
    data = header(CLIENT, GIB) * 100
    tunnel.client.send(data)
    rig.until(lambda: tunnel.backend.has(data), "the bytes")
    rig.assert_live(tunnel)


# --- where the other Close frame goes ---------------------------------------------------------------------------------


@both_sides
def test_the_sender_is_told_at_a_boundary_of_the_other_stream(rig: Rig, side: int) -> None:
    """It is in the middle of a frame from the other side, which comes first."""
    tunnel = limited(rig)
    slow = of(1 - side, BINARY, bytes(LIMIT))
    tunnel.peer(1 - side).send(slow[:500])
    rig.until(lambda: tunnel.peer(side).has(slow[:500]), "half a frame")
    tunnel.peer(side).send(header(side, GIB))
    rig.until(lambda: tunnel.peer(1 - side).read(), "the other side's Close frame")
    assert codes(tunnel, 1 - side) == [TO_THE_OTHER[side]]
    assert tunnel.peer(side).has(slow[:500])
    tunnel.peer(1 - side).send(slow[500:] + of(1 - side, TEXT, b"too late"))
    rig.until(lambda: tunnel.peer(side).read() and len(tunnel.peer(side).received) > len(slow), "the Close frame")
    assert codes(tunnel, side, slow) == [TOO_LARGE]


def test_the_answer_may_follow_the_refused_frame(rig: Rig) -> None:
    """A sender that had begun its frame completes it, and answers the Close frame then."""
    tunnel = limited(rig)
    refused = of(CLIENT, BINARY, bytes(200_000))
    tunnel.client.send(refused[:1000])
    rig.until(lambda: tunnel.client.read() and tunnel.backend.read() >= 0, "the Close frame")
    for piece in (refused[1000:100_000], refused[100_000:], closing(1009, masked=True)):
        while piece:
            piece = piece[tunnel.client.send(piece) :]
            rig.serve()
    tunnel.backend.send(closing(1001, masked=False))
    end = rig.end()
    assert (end.initiator, end.cause) == ("gateway", "limit")
    assert codes(tunnel, CLIENT) == [TOO_LARGE]
    tunnel.backend.read()
    assert codes(tunnel, BACKEND_SIDE) == [GOING_AWAY]


def test_a_close_frame_is_the_last_that_passes(rig: Rig) -> None:
    """Nothing may follow it (RFC 6455 5.5.1); and in what is not scanned, frames could not be measured."""
    tunnel = limited(rig)
    last = closing(1000, masked=True)
    tunnel.client.send(last + header(CLIENT, GIB) + bytes(5000))
    rig.until(lambda: tunnel.backend.read(), "the Close frame")
    tunnel.client.send(bytes(5000))
    rig.rest()
    assert tunnel.backend.has(last)
    tunnel.backend.send(closing(1000, masked=False))
    rig.until(lambda: tunnel.client.has(closing(1000, masked=False)), "the answer")


@both_sides
def test_a_stream_that_breaks_the_protocol_passes_no_further(rig: Rig, side: int) -> None:
    """Its frames cannot be measured from there on."""
    tunnel = limited(rig)
    first = of(side, TEXT, b"good")
    bad = frame(3, b"reserved", masked=side == CLIENT)
    tunnel.peer(side).send(first + bad + header(side, GIB))
    assert_refused(rig, tunnel, side, first, BROKE_PROTOCOL, "protocol_error")
    assert rig.totals(side).violations == 1


@both_sides
def test_a_length_in_too_many_bytes_is_not_measured_but_refused(rig: Rig, side: int) -> None:
    tunnel = limited(rig)
    key = KEY if side == CLIENT else b""
    tunnel.peer(side).send(struct.pack("!BBQ", 0x82, (0x80 if side == CLIENT else 0) | 127, 5) + key + b"hello")
    assert_refused(rig, tunnel, side, b"", BROKE_PROTOCOL, "protocol_error")


@both_sides
def test_a_piece_of_a_header_goes_no_further_when_its_stream_ends(rig: Rig, side: int) -> None:
    tunnel = limited(rig)
    first = of(side, TEXT, b"good")
    tunnel.peer(side).send(first + header(side, GIB)[:9])
    rig.until(lambda: tunnel.peer(1 - side).has(first), "the message")
    tunnel.peer(side).half_close()
    rig.until(tunnel.peer(1 - side).has_ended, "FIN")
    assert tunnel.peer(1 - side).received == first


def test_a_drain_closes_in_front_of_a_header_that_is_held(rig: Rig) -> None:
    tunnel = limited(rig)
    tunnel.client.send(header(CLIENT, 500)[:5])
    rig.until(lambda: tunnel.side(CLIENT, HELD), "the piece")
    rig.relay.close_tunnel(tunnel.row, SERVICE_RESTART, DRAIN)
    rig.until(lambda: tunnel.client.read() and tunnel.backend.read(), "Close frames")
    tunnel.client.send(header(CLIENT, 500)[5:] + bytes(500) + closing(1012, masked=True))
    tunnel.backend.send(closing(1012, masked=False))
    assert rig.end().cause == "drain"
    tunnel.backend.read()
    assert codes(tunnel, BACKEND_SIDE) == codes(tunnel, CLIENT) == [SERVICE_RESTART]


# --- beside Pings -----------------------------------------------------------------------------------------------------


@both_sides
@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
@pytest.mark.parametrize("whole", [False, True])
def test_while_a_pong_is_awaited(rig: Rig, side: int, size: int, whole: bool) -> None:
    """Both are found: the Pong that is for the gateway, and the frame behind it."""
    tunnel = limited(rig)
    assert rig.relay.ping(tunnel.row, side)
    rig.until(tunnel.peer(side).read, "the Ping")
    ping = bytes(tunnel.peer(side).received)
    payload = ping[2:] if side == CLIENT else bytes(b ^ ping[2 + n % 4] for n, b in enumerate(ping[6:]))
    tunnel.peer(side).received.clear()
    before, after = of(side, TEXT, b"before"), of(side, BINARY, bytes(size))
    for piece in cut(before + of(side, PONG, payload) + after, "whole" if whole else "bytes", 0):
        tunnel.peer(side).send(piece)
        rig.rest()
    if size > LIMIT:
        assert_refused(rig, tunnel, side, before)
    else:
        rig.until(lambda: tunnel.peer(1 - side).has(before + after), "the frames")
        assert tunnel.side(1 - side, GATE) == LIMITED
    assert rig.totals(side).pongs == 1


# --- any chunking -----------------------------------------------------------------------------------------------------


@st.composite
def streams(draw: st.DrawFn) -> tuple[int, bytes, bytes, list[int]]:
    """A side, the frames that it may send, what comes behind them, and where TCP cuts that."""
    side = draw(st.sampled_from(BOTH))
    passed = b""
    for kind, size in draw(st.lists(st.tuples(st.sampled_from((TEXT, BINARY, PING, PONG)), st.integers(0, LIMIT)))):
        passed += of(side, kind, bytes(size if kind in (TEXT, BINARY) else size % 126))
    refused = header(side, draw(st.sampled_from((LIMIT + 1, 65535, 65536, GIB)))) + bytes(draw(st.integers(0, 40)))
    size = len(passed + refused)
    cuts = draw(st.lists(st.integers(max(0, size - 60), size))) + draw(st.lists(st.integers(0, size), max_size=3))
    return side, passed, refused, sorted(cuts)


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        if start < end:
            yield data[start:end]


@settings(max_examples=examples(100), deadline=None)
@given(streams(), st.booleans())
def test_all_before_it_arrives_and_nothing_of_it(stream: tuple[int, bytes, bytes, list[int]], dies: bool) -> None:
    """However it is cut, and if the worker dies between any two pieces: the row is clean."""
    side, passed, refused, cuts = stream
    with closed_after(Rig()) as rig:
        tunnel = limited(rig)
        for piece in pieces(passed + refused, cuts):
            while piece:
                piece = piece[tunnel.peer(side).send(piece) :]
                rig.rest()
                tunnel.peer(1 - side).read()
            if dies and not tunnel.peer(side).read():
                assert rig.succeed() == (1, 0, 0)
        assert_refused(rig, tunnel, side, passed)


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@both_sides
def test_over_tls(rig: Rig, kind: tuple[str | None, str | None], side: int) -> None:
    tunnel = limited(rig, "tcp", tls=kind)
    first = of(side, TEXT, b"before")
    for piece in cut(first + header(side, GIB), "bytes", 0):
        tunnel.peer(side).send(piece)
        rig.rest()
    assert_refused(rig, tunnel, side, first)


def test_held_over_tls_when_the_worker_dies(rig: Rig) -> None:
    tunnel = limited(rig, "tcp", tls=(TLS13, None))
    tunnel.client.send(header(CLIENT, GIB)[:13])
    rig.until(lambda: tunnel.side(CLIENT, HELD) == 13, "the piece")
    rig.rest()
    assert rig.succeed() == (1, 0, 0)
    tunnel.client.send(header(CLIENT, GIB)[13:])
    assert_refused(rig, tunnel, CLIENT, b"")


def test_a_silence_ends_with_a_piece_of_a_header(rig: Rig) -> None:
    """A client that sends its header slowly is heard, and not given up."""
    tunnel = limited(rig, ping_after=(10 * SECOND, 10 * SECOND))
    tunnel.age(30 * SECOND)
    tunnel.client.send(header(CLIENT, 500)[:1])
    rig.until(lambda: tunnel.side(CLIENT, HELD), "the byte")
    rig.sweep(rig.relay.now)
    rig.rest()
    assert not tunnel.client.read()
    assert tunnel.backend.read()  # it has been silent
    assert split(bytes(tunnel.backend.received))[0][0] & 0x0F == PING
    assert CLOSE not in rig.totals(CLIENT).frames
