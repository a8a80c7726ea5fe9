"""A slow reader slows its sender down, costs bounded memory and no work, and is given up in the end."""

from __future__ import annotations

import pytest

from gateway.tunnels.relay.poller import RECEIVE_BUFFER_BYTES
from gateway.tunnels.table.layout import BACKEND_SIDE, BYTES, CLIENT, DEADLINE_NS, NEVER, OPAQUE, STALLED_NS, WEBSOCKET
from tests.support.frames import BINARY, TEXT

from .harness import CLOSE_WITHIN, NS, WRITE_STALL_AFTER, Rig, Tunnel
from .wire import close_frames, closing, frame

BUFFERS = 64 * 1024
DATA = {CLIENT: frame(BINARY, bytes(range(256)) * 300, masked=True), BACKEND_SIDE: frame(BINARY, b"backend" * 9999)}

both_families = pytest.mark.parametrize("family", ["tcp", "unix"])
both_ways = pytest.mark.parametrize("source", [CLIENT, BACKEND_SIDE], ids=["from_client", "from_backend"])


def assert_stalled(rig: Rig, tunnel: Tunnel, source: int) -> None:
    """What ``source`` sends is not read, and the bytes at hand are bounded and marked."""
    assert 0 < tunnel.pending[1 - source] <= RECEIVE_BUFFER_BYTES
    assert tunnel.dirty
    assert tunnel.unread(source)
    assert rig.waiting() == []
    read = tunnel.side(source, BYTES)
    for _ in range(20):
        rig.serve()
    assert tunnel.side(source, BYTES) == read


def drain(rig: Rig, tunnel: Tunnel, source: int, sent: bytes) -> None:
    """The other side reads everything that ``source`` sent."""
    rig.until(lambda: tunnel.peer(1 - source).has(sent), "what was sent to arrive")


@both_families
@both_ways
def test_a_side_that_does_not_read_stops_the_other(rig: Rig, family: str, source: int) -> None:
    tunnel = rig.open(family, buffers=BUFFERS)
    sent = rig.stall(tunnel.peer(source), DATA[source])
    assert_stalled(rig, tunnel, source)
    # The other direction is none the worse, and its bytes do not clear the mark.
    hello = frame(TEXT, b"hello", masked=source != CLIENT)
    tunnel.peer(1 - source).send(hello)
    rig.until(lambda: tunnel.peer(source).has(hello), "the other direction")
    assert tunnel.dirty == any(tunnel.pending)
    drain(rig, tunnel, source, sent)
    rig.rest()
    assert tunnel.pending == (0, 0)
    assert not tunnel.dirty
    assert tunnel.side(1 - source, STALLED_NS) == 0
    # And on it goes.
    tunnel.peer(source).send(b"\0")
    drain(rig, tunnel, source, sent + b"\0")


@both_families
def test_both_directions_stalled(rig: Rig, family: str) -> None:
    tunnel = rig.open(family, buffers=BUFFERS)
    sent = {side: rig.stall(tunnel.peer(side), DATA[side]) for side in (CLIENT, BACKEND_SIDE)}
    for side in sent:
        assert_stalled(rig, tunnel, side)
    drain(rig, tunnel, CLIENT, sent[CLIENT])
    rig.rest()
    assert_stalled(rig, tunnel, BACKEND_SIDE)
    drain(rig, tunnel, BACKEND_SIDE, sent[BACKEND_SIDE])
    rig.rest()
    assert not tunnel.dirty


def test_a_slow_reader_gets_one_bufferful_after_the_other(rig: Rig) -> None:
    tunnel = rig.open("unix", buffers=BUFFERS)
    sent = rig.stall(tunnel.client, DATA[CLIENT])
    while len(tunnel.backend.received) < len(sent):
        rig.until(lambda: tunnel.backend.read(limit=1000), "a little")
        assert max(tunnel.pending) <= RECEIVE_BUFFER_BYTES
        assert tunnel.dirty == any(tunnel.pending)
    assert tunnel.backend.received == sent


@both_ways
def test_a_stalled_tunnel_does_not_hear_of_its_senders_end_and_does_not_spin(rig: Rig, source: int) -> None:
    tunnel = rig.open(buffers=BUFFERS)
    rig.stall(tunnel.peer(source), DATA[source])
    tunnel.peer(source).reset()
    rig.assert_live(tunnel)
    # It hears of it once the other side reads on.
    rig.until(tunnel.peer(1 - source).has_ended, "the end to be passed on")
    tunnel.peer(1 - source).close()
    end = rig.end()
    assert (end.initiator, end.cause) == (("client", "backend")[source], "reset")


# --- write_stall ------------------------------------------------------------------------------------------------------


def stalled_since(tunnel: Tunnel, source: int) -> int:
    return tunnel.side(1 - source, STALLED_NS)


@both_ways
def test_a_side_that_takes_nothing_for_too_long_is_given_up_and_the_other_told(rig: Rig, source: int) -> None:
    tunnel = rig.open(buffers=BUFFERS)
    sent = rig.stall(tunnel.peer(source), DATA[source])
    since = stalled_since(tunnel, source)
    rig.sweep(since + WRITE_STALL_AFTER - 1)
    rig.assert_live(tunnel)
    assert tunnel.pending[1 - source]
    rig.sweep(since + WRITE_STALL_AFTER)
    assert tunnel.pending == (0, 0)
    peer = tunnel.peer(source)
    masked = source == BACKEND_SIDE
    rig.until(peer.read, "the Close frame")
    assert close_frames(bytes(peer.received)) == [(1001, masked)]
    # It answers behind the frame that it is sending.
    size = len(DATA[source])
    answer = DATA[source][len(sent) % size :] + closing(1001, masked=not masked)
    at = 0

    def answered() -> bool:
        nonlocal at
        at += peer.send(answer[at:]) if at < len(answer) else 0
        return bool(rig.ends)

    rig.until(answered, "the end")
    end = rig.end()
    assert (end.initiator, end.cause) == ("gateway", "write_stall")
    # Of what the other side has got, nothing was made up.
    stalled = tunnel.peer(1 - source)
    rig.until(stalled.has_ended, "the end of the stalled side")
    assert sent.startswith(stalled.received)


@both_ways
def test_a_side_that_does_not_answer_is_cut_when_the_time_to_close_is_up(rig: Rig, source: int) -> None:
    tunnel = rig.open(buffers=BUFFERS)
    rig.stall(tunnel.peer(source), DATA[source])
    rig.sweep(stalled_since(tunnel, source) + WRITE_STALL_AFTER)
    rig.rest()
    assert not rig.ends
    rig.sweep(rig.relay.now + CLOSE_WITHIN - NS)
    assert not rig.ends
    rig.sweep(rig.relay.now + CLOSE_WITHIN)
    end = rig.end()
    assert (end.initiator, end.cause) == ("gateway", "write_stall")


@both_ways
def test_no_close_frame_is_put_into_a_frame_of_the_stalled_side(rig: Rig, source: int) -> None:
    tunnel = rig.open(buffers=BUFFERS)
    half = frame(TEXT, b"half of it", masked=source != CLIENT)[:-5]
    tunnel.peer(1 - source).send(half)
    rig.until(lambda: tunnel.peer(source).has(half), "half a frame")
    rig.stall(tunnel.peer(source), DATA[source])
    rig.sweep(stalled_since(tunnel, source) + WRITE_STALL_AFTER)
    rig.until(tunnel.peer(source).has_ended, "FIN")
    assert tunnel.peer(source).received == half
    tunnel.peer(source).close()
    assert rig.end().cause == "write_stall"


def test_whoever_takes_a_little_is_not_given_up(rig: Rig) -> None:
    tunnel = rig.open("unix", buffers=BUFFERS)
    rig.relay.write(tunnel.row, BACKEND_SIDE, bytes(1_000_000))
    since = stalled_since(tunnel, CLIENT)
    pending = tunnel.pending[BACKEND_SIDE]

    def took_some() -> bool:
        tunnel.backend.read(limit=1000)
        return tunnel.pending[BACKEND_SIDE] < pending

    rig.until(took_some, "the relay to send something")
    assert tunnel.pending[BACKEND_SIDE]
    assert stalled_since(tunnel, CLIENT) > since
    rig.sweep(since + WRITE_STALL_AFTER)
    rig.assert_live(tunnel)
    assert tunnel.cell(DEADLINE_NS) == stalled_since(tunnel, CLIENT) + WRITE_STALL_AFTER


@both_ways
def test_a_side_that_stalls_for_less_gets_what_is_pending_for_it(rig: Rig, source: int) -> None:
    """Both are stalled, the other one for too long: what is pending comes before the Close frame and before FIN."""
    tunnel = rig.open("unix", buffers=BUFFERS)
    far = tunnel.peer(1 - source)
    rig.stall(tunnel.peer(source), DATA[source])
    since = stalled_since(tunnel, source)
    hello = frame(TEXT, b"hello", masked=source != CLIENT)
    sent = rig.stall(far, hello * 1000)
    assert tunnel.pending[source]
    rig.sweep(since + WRITE_STALL_AFTER)
    read = tunnel.side(1 - source, BYTES)
    assert tunnel.pending[source]
    rig.assert_live(tunnel)
    rig.until(tunnel.peer(source).has_ended, "FIN")
    received = bytes(tunnel.peer(source).received)
    assert received[:read] == sent[:read]
    if read % len(hello) == 0:
        assert close_frames(received[read:]) == [(1001, source == BACKEND_SIDE)]
    else:
        assert received[read:] == b""
    tunnel.peer(source).close()
    assert rig.end().cause == "write_stall"


def test_a_side_that_stalls_while_the_tunnel_is_ending_is_not_waited_for(rig: Rig) -> None:
    tunnel = rig.open("unix", buffers=BUFFERS, write_stall=CLOSE_WITHIN // 2)
    rig.stall(tunnel.client, DATA[CLIENT])
    since = stalled_since(tunnel, CLIENT)
    goodbye = closing(1000, masked=False)
    tunnel.backend.send(goodbye)
    rig.until(lambda: tunnel.client.has(goodbye), "the backend's Close frame")
    rig.sweep(since + CLOSE_WITHIN // 2)
    end = rig.end()
    assert (end.initiator, end.cause) == ("backend", "close_frame")
    rig.until(tunnel.client.has_ended, "the end")
    assert tunnel.client.received == goodbye


def test_a_stall_that_is_over_leaves_no_deadline(rig: Rig) -> None:
    tunnel = rig.open("unix", buffers=BUFFERS)
    sent = rig.stall(tunnel.client, DATA[CLIENT])
    since = stalled_since(tunnel, CLIENT)
    drain(rig, tunnel, CLIENT, sent)
    rig.sweep(since + WRITE_STALL_AFTER)
    rig.assert_live(tunnel)
    assert tunnel.cell(DEADLINE_NS) >= NEVER


@pytest.mark.parametrize("ways", [[CLIENT], [CLIENT, BACKEND_SIDE]], ids=["one", "both"])
def test_where_nobody_can_be_told_the_tunnel_ends_at_once(rig: Rig, ways: list[int]) -> None:
    """An opaque tunnel has no Close frames; and with both sides stalled there is nobody left to tell."""
    tunnel = rig.open(kind=OPAQUE if len(ways) == 1 else WEBSOCKET, buffers=BUFFERS)
    for source in ways:
        rig.stall(tunnel.peer(source), DATA[source])
    rig.sweep(max(stalled_since(tunnel, source) for source in ways) + WRITE_STALL_AFTER)
    end = rig.ends[0]
    assert (end.initiator, end.cause) == ("gateway", "write_stall")
