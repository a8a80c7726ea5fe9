"""Tunnels whose sides use TLS, with OpenSSL at the other ends: every byte, whatever TCP and OpenSSL make of it."""

from __future__ import annotations

import random

import pytest

from gateway.protocol.tls.state import HALF
from gateway.tunnels.table.layout import BACKEND_SIDE, BYTES, CLIENT, OPAQUE, TLS
from tests.protocol.tls.ends import AT, End
from tests.support.frames import BINARY, TEXT

from .harness import Held, Rig, Tunnel
from .states import BOTH, HELLO
from .tls_peers import KINDS, SUITES, TLS12, TLS13, Sides, TlsPeer, with_own_records
from .wire import cut, frame

ENDS = {CLIENT: "the client", BACKEND_SIDE: "the backend"}


def stream(side: int, seed: int) -> bytes:
    """Frames of all sizes from a side."""
    rng = random.Random(seed)
    sizes = [0, 1, 125, 126, 1400, 65536, *(rng.randrange(1 << rng.randrange(1, 18)) for _ in range(12))]
    rng.shuffle(sizes)
    return b"".join(frame(rng.choice((TEXT, BINARY)), rng.randbytes(size), masked=side == CLIENT) for size in sizes)


def exchange(rig: Rig, tunnel: Tunnel, sent: dict[int, bytes], style: str, seed: int) -> None:
    """Both sides send at once, in pieces; each receives what the other has sent."""
    left = {side: list(cut(data, style, seed)) for side, data in sent.items()}
    expected = {1 - side: len(tunnel.peer(1 - side).received) + len(data) for side, data in sent.items()}

    def done() -> bool:
        for side in BOTH:
            peer = tunnel.peer(side)
            for _ in range(100):
                if not left[side] or not (took := peer.send(left[side][0])):
                    break
                left[side][0] = left[side][0][took:]
                if not left[side][0]:
                    left[side].pop(0)
            peer.read()
        return all(len(tunnel.peer(side).received) >= size for side, size in expected.items())

    rig.until(done, "everything")
    for side, data in sent.items():
        assert tunnel.peer(1 - side).received[-len(data) :] == data, f"what {ENDS[1 - side]} has received"


@pytest.mark.parametrize("suite", SUITES)
def test_each_suite_both_ways(rig: Rig, suite: str) -> None:
    tunnel = rig.open(tls=(suite, suite))
    sent = {side: stream(side, side) for side in BOTH}
    exchange(rig, tunnel, sent, "mixed", 1)
    for side in BOTH:
        assert rig.totals(side).bytes == tunnel.side(side, BYTES) == len(sent[side]), "plaintext is what counts"
        assert rig.totals(side).violations == 0
    assert not tunnel.dirty
    rig.assert_live(tunnel)


@pytest.mark.parametrize("style", ["bytes", "small", "mixed", "whole"])
@pytest.mark.parametrize("kind", KINDS)
def test_data_in_any_pieces(rig: Rig, kind: Sides, style: str) -> None:
    """Each piece is a record, down to one of a single byte."""
    tunnel = rig.open(tls=kind)
    for seed in range(2):
        exchange(rig, tunnel, {side: stream(side, seed) for side in BOTH}, style, seed)
    rig.assert_live(tunnel)


@pytest.mark.parametrize("suite", [TLS12, TLS13])
def test_records_in_any_pieces(rig: Rig, suite: str) -> None:
    """TCP cuts where it likes: half a record waits, and the row with it."""
    tunnel = rig.open("unix", tls=(suite, None), engines=with_own_records)
    client = tunnel.client
    assert isinstance(client, TlsPeer)
    data = stream(CLIENT, 3)[:5000]
    wire = b"".join(client.engine.seal(data[at : at + 700]) for at in range(0, len(data), 700))
    dirty = 0
    for piece in cut(wire, "bytes", 0):
        client.put(bytes(piece))
        rig.rest()
        half = rig.cells[tunnel.side(CLIENT, TLS) + HALF]
        assert tunnel.dirty == (half > 0)
        dirty += tunnel.dirty
    assert tunnel.backend.has(data)
    assert dirty
    assert not tunnel.dirty


@pytest.mark.parametrize("kind", KINDS)
def test_another_protocol(rig: Rig, kind: Sides) -> None:
    tunnel = rig.open(kind=OPAQUE, tls=kind)
    exchange(rig, tunnel, {side: random.Random(side).randbytes(300_000) for side in BOTH}, "mixed", 5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_that_stalls(rig: Rig, kind: Sides) -> None:
    """What waits for it is sealed already; nothing is lost, and the other direction goes on."""
    tunnel = rig.open(buffers=64 * 1024, tls=kind)
    data = frame(BINARY, random.Random(1).randbytes(50_000))
    sent = rig.stall(tunnel.backend, data)
    assert tunnel.pending[CLIENT]
    assert tunnel.dirty
    tunnel.client.send(HELLO[CLIENT])
    rig.until(lambda: tunnel.client.read(10_000) >= 0 and tunnel.backend.has(HELLO[CLIENT]), "the other direction")
    rig.until(lambda: tunnel.client.read(100_000) >= 0 and len(tunnel.client.received) >= len(sent), "all of it")
    rig.until(lambda: tunnel.client.has(sent), "all of it")
    rig.rest()
    assert not tunnel.dirty


def test_what_the_edge_held_comes_first(rig: Rig) -> None:
    """Half a record that it has read, and sealed bytes that the client's socket did not take yet."""
    session, theirs = with_own_records(TLS13, CLIENT)
    ours = End(session)
    answer = ours.send(b"HTTP/1.1 101")
    question = theirs.seal(HELLO[CLIENT])
    after = ours.cells[AT:].tolist()
    tunnel = rig.open(
        tls=(TLS13, None),
        engines=lambda suite, side: (after, theirs),
        held=Held(client_pending=answer, client_half=question[:9]),
    )
    assert tunnel.dirty
    tunnel.backend.send(HELLO[BACKEND_SIDE])
    rig.until(lambda: tunnel.client.has(b"HTTP/1.1 101" + HELLO[BACKEND_SIDE]), "both")
    assert isinstance(tunnel.client, TlsPeer)
    tunnel.client.put(question[9:])
    rig.until(lambda: tunnel.backend.has(HELLO[CLIENT]), "the rest")
    rig.rest()
    assert not tunnel.dirty


def test_a_plain_tunnel_beside(rig: Rig) -> None:
    """Sessions are their own rows' only."""
    plain, sealed = rig.open(), rig.open(tls=(TLS12, TLS13))
    for tunnel in (sealed, plain, sealed):
        exchange(rig, tunnel, {side: stream(side, 8) for side in BOTH}, "mixed", 8)
    assert rig.table.sessions(plain.row) is None
