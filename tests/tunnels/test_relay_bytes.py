"""Every byte arrives, in order and as it was, and is counted once, however TCP cuts the streams."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.protocol.scanner_state import FRAMES
from gateway.tunnels.relay.poller import RECEIVE_BUFFER_BYTES
from gateway.tunnels.table.layout import BACKEND_SIDE, BYTES, CLIENT, OPAQUE, SCANNER, WEBSOCKET
from tests.support.examples import examples
from tests.support.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

from .harness import Peer, Rig, Tunnel, end_counts
from .wire import cut, frame

BOTH = (CLIENT, BACKEND_SIDE)


class Stream:
    """What one endpoint sends, and how."""

    def __init__(self, data: bytes, frames: Counter[int], style: str, seed: int, eagerness: float) -> None:
        """
        :param style: how it is cut, see :func:`.wire.cut`
        :param eagerness: how often the other endpoint reads
        """
        self.data = data
        self.frames = frames
        self.style = style
        self.seed = seed
        self.eagerness = eagerness

    def __repr__(self) -> str:
        frames = dict(self.frames)
        return f"<{len(self.data)} bytes, {frames=}, {self.style}, seed={self.seed}, eagerness={self.eagerness}>"


SIZES = st.sampled_from([0, 1, 2, 125, 126, 127, 65535, 65536, 65537, 3 << 20]) | st.integers(0, 200_000)
CONTROL = st.tuples(st.sampled_from([PING, PONG]), st.integers(0, 125))


@st.composite
def streams(draw: st.DrawFn, masked: bool) -> Stream:
    """Messages whole and in fragments, control frames between those, RSV bits; at the end perhaps a Close."""
    rng = random.Random(draw(st.integers(0, 1 << 32)))
    pieces: list[bytes] = []
    frames: Counter[int] = Counter()

    def add(opcode: int, size: int, fin: bool = True) -> None:
        pieces.append(frame(opcode, rng.randbytes(size), masked=masked, fin=fin, rsv=rng.choice((0, 0, 1, 4, 7))))
        frames[opcode] += 1

    for opcode, sizes, control in draw(
        st.lists(
            st.tuples(st.sampled_from([TEXT, BINARY]), st.lists(SIZES, max_size=3), st.lists(CONTROL, max_size=2)),
            max_size=4,
        )
    ):
        for at, size in enumerate(sizes):
            add(opcode if at == 0 else CONTINUATION, size, fin=at == len(sizes) - 1)
            for kind, length in control:
                add(kind, length)
    if draw(st.booleans()):
        add(CLOSE, draw(st.sampled_from([0, 2, 20, 125])))
    return Stream(
        b"".join(pieces),
        frames,
        draw(st.sampled_from(["bytes", "small", "mixed", "whole"])),
        rng.randint(0, 1 << 32),
        draw(st.sampled_from([1.0, 0.3, 0.05])),
    )


class Endpoint:
    """Sends its stream cut to pieces, and reads when it feels like it."""

    def __init__(self, peer: Peer, sends: Stream, eagerness: float) -> None:
        self.peer = peer
        self._pieces: Iterator[memoryview] = cut(sends.data, sends.style, sends.seed)
        self._piece = memoryview(b"")
        self._rng = random.Random(sends.seed)
        self._eagerness = eagerness

    def step(self) -> int:
        """Send a piece and read; bytes moved."""
        if not self._piece:
            self._piece = next(self._pieces, self._piece)
        sent = self.peer.send(self._piece) if self._piece else 0
        self._piece = self._piece[sent:]
        return sent + (self.peer.read() if self._rng.random() < self._eagerness else 0)


def exchange(rig: Rig, tunnel: Tunnel, from_client: Stream, from_backend: Stream) -> None:
    """Both endpoints send everything and receive everything."""
    endpoints = (
        Endpoint(tunnel.client, from_client, from_backend.eagerness),
        Endpoint(tunnel.backend, from_backend, from_client.eagerness),
    )

    quiet = 0

    def step() -> bool:
        nonlocal quiet
        quiet = 0 if sum(endpoint.step() for endpoint in endpoints) else quiet + 1
        if quiet > 100:
            rig.serve(0.001)  # the kernel has a timer running
        assert max(tunnel.pending) <= RECEIVE_BUFFER_BYTES
        assert tunnel.dirty == any(tunnel.pending)
        return len(tunnel.client.received) >= len(from_backend.data) and len(tunnel.backend.received) >= len(
            from_client.data
        )

    rig.until(step, "everything to arrive", turn=0)
    rig.rest()


def digest(data: bytes | bytearray) -> str:
    return sha256(data).hexdigest()


@settings(
    deadline=None, max_examples=examples(120), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(
    streams(masked=True),
    streams(masked=False),
    st.sampled_from([("tcp", None), ("tcp", 32 * 1024), ("unix", None), ("unix", 8 * 1024)]),
)
def test_streams_of_both_directions(from_client: Stream, from_backend: Stream, wire: tuple[str, int | None]) -> None:
    with closing(Rig()) as rig:
        tunnel = rig.open(wire[0], buffers=wire[1])
        exchange(rig, tunnel, from_client, from_backend)
        assert digest(tunnel.backend.received) == digest(from_client.data)
        assert digest(tunnel.client.received) == digest(from_backend.data)
        tunnel.client.half_close()
        tunnel.backend.half_close()
        end = rig.end()
        for side, stream in zip(BOTH, (from_client, from_backend), strict=True):
            totals = rig.totals(side)
            assert totals.frames == dict(stream.frames)
            assert totals.bytes == len(stream.data)
            assert totals.violations == 0
            assert end_counts(end, side) == (len(stream.data), stream.frames.total())


def test_totals_go_on_from_tunnel_to_tunnel(rig: Rig) -> None:
    for n in (1, 2):
        tunnel = rig.open()
        tunnel.client.send(frame(TEXT, b"12345", masked=True) * 10)
        rig.until(lambda tunnel=tunnel: tunnel.backend.read(), "the frames")
        tunnel.client.reset()
        tunnel.backend.half_close()
        assert end_counts(rig.end(), CLIENT) == (110, 10)
        assert rig.totals(CLIENT).frames == {TEXT: 10 * n}
        assert rig.totals(CLIENT).bytes == 110 * n


# --- streams that are no WebSocket ------------------------------------------------------------------------------------

BROKEN = {
    "reserved data opcode": frame(3, b"abc", masked=True),
    "reserved control opcode": frame(11, b"abc", masked=True),
    "not masked": frame(TEXT, b"abc"),
    "long control frame": frame(PING, bytes(126), masked=True),
    "control frame in fragments": frame(PING, b"abc", masked=True, fin=False),
    "continuation of nothing": frame(CONTINUATION, b"abc", masked=True),
    "half a close code": frame(CLOSE, b"\x03", masked=True),
    "length of two bytes that fits in one": b"\x82\xfe\x00\x05\x01\x02\x03\x04abcde",
    "length of eight bytes that fits in two": b"\x82\xff" + bytes(6) + b"\x00\x05\x01\x02\x03\x04abcde",
    "length with its highest bit": b"\x82\xff\x80" + bytes(7) + b"\x01\x02\x03\x04abcde",
    "another protocol": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
}
GOOD = frame(TEXT, b"fine", masked=True) + frame(PING, masked=True) + frame(BINARY, bytes(300), masked=True)


@pytest.mark.parametrize("style", ["whole", "bytes"])
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_stream_that_breaks_the_rules_is_relayed_as_it_is_and_counted_once(
    rig: Rig, broken: bytes, style: str
) -> None:
    data = GOOD + broken + GOOD + broken
    tunnel = rig.open()
    for piece in cut(data, style, 0):
        tunnel.client.send(piece)
        rig.rest()
    rig.until(lambda: tunnel.backend.has(data), "the stream")
    totals = rig.totals(CLIENT)
    assert totals.violations == 1
    assert totals.bytes == tunnel.side(CLIENT, BYTES) == len(data)
    # What came before the violation is counted, whatever came in the same read.
    assert totals.frames == {TEXT: 1, PING: 1, BINARY: 1}
    assert tunnel.side(CLIENT, SCANNER + FRAMES) == 3
    # The other direction is none the worse.
    tunnel.backend.send(frame(TEXT, b"hello"))
    rig.until(lambda: tunnel.client.has(frame(TEXT, b"hello")), "the answer")
    assert rig.totals(BACKEND_SIDE).violations == 0
    assert rig.totals(BACKEND_SIDE).frames == {TEXT: 1}


def test_what_follows_a_close_frame_is_relayed_and_not_counted_as_frames(rig: Rig) -> None:
    data = frame(CLOSE, b"\x03\xe8", masked=True) + b"\xff" * 1000
    tunnel = rig.open()
    tunnel.client.send(data)
    rig.until(lambda: tunnel.backend.has(data), "the stream")
    assert rig.totals(CLIENT).frames == {CLOSE: 1}
    assert rig.totals(CLIENT).violations == 0


@pytest.mark.parametrize("data", [GOOD * 50, b"\xff" * 5000, b"".join(BROKEN.values())])
def test_an_opaque_tunnel_is_never_scanned(rig: Rig, data: bytes) -> None:
    tunnel = rig.open(kind=OPAQUE)
    tunnel.client.send(data)
    tunnel.backend.send(data)
    rig.until(lambda: tunnel.backend.has(data) and tunnel.client.has(data), "the streams")
    for side in BOTH:
        totals = rig.totals(side)
        assert (totals.frames, totals.violations, totals.bytes) == ({}, 0, len(data))
        assert tunnel.side(side, SCANNER + FRAMES) == 0


# --- bytes from before the tunnel -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [WEBSOCKET, OPAQUE])
@pytest.mark.parametrize("buffers", [None, 8 * 1024])
def test_what_was_read_before_the_tunnel_opened_comes_first(rig: Rig, kind: int, buffers: int | None) -> None:
    answer = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
    early = {CLIENT: frame(BINARY, bytes(300_000), masked=True), BACKEND_SIDE: frame(BINARY, bytes(100_000))}
    late = {CLIENT: frame(TEXT, b"from the client", masked=True), BACKEND_SIDE: frame(TEXT, b"from the backend")}
    tunnel = rig.open("unix", kind=kind, buffers=buffers)
    rig.relay.write(tunnel.row, CLIENT, answer)
    for side in BOTH:
        rig.relay.feed(tunnel.row, side, early[side])
    assert tunnel.dirty == any(tunnel.pending)
    tunnel.client.send(late[CLIENT])
    tunnel.backend.send(late[BACKEND_SIDE])
    rig.until(lambda: tunnel.backend.has(early[CLIENT] + late[CLIENT]), "the client's bytes")
    rig.until(lambda: tunnel.client.has(answer + early[BACKEND_SIDE] + late[BACKEND_SIDE]), "the backend's bytes")
    for side in BOTH:
        assert rig.totals(side).bytes == tunnel.side(side, BYTES) == len(early[side]) + len(late[side])
        assert rig.totals(side).frames == ({BINARY: 1, TEXT: 1} if kind == WEBSOCKET else {})
    assert not tunnel.dirty


def test_what_the_gateway_writes_itself_and_the_socket_does_not_take_is_dirty(rig: Rig) -> None:
    tunnel = rig.open("unix", buffers=8 * 1024)
    rig.relay.write(tunnel.row, CLIENT, bytes(100_000))
    assert tunnel.pending[CLIENT]
    assert tunnel.dirty
    rig.until(lambda: tunnel.client.has(bytes(100_000)), "all of it")
    assert not tunnel.dirty
