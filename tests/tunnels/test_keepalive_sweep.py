"""Keepalive in the sweep: who is sent a Ping and when, who is dead, and that those due together are spread out."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing as closes

import pytest

from gateway.tunnels import deadlines
from gateway.tunnels.layout import (
    BACKEND_SIDE,
    CLIENT,
    DEADLINE_NS,
    DRAIN,
    FD,
    HELD,
    LAST_NS,
    NEVER,
    OPAQUE,
    PING_AFTER_NS,
    PING_TAG,
    PINGED_NS,
    PINGS_SENT,
    SIDES,
    SILENCE_NS,
)
from gateway.tunnels.sweep import TICK_NS, has_unread, is_taking
from tests.support.frames import BINARY, PING, PONG, TEXT

from .harness import CLOSE_WITHIN, NS, PONG_WITHIN, Rig, Tunnel
from .sweep_simulation import HABIT, MS, NO_DESCRIPTOR, Simulation
from .wire import close_frames, closing, frame

BOTH = (CLIENT, BACKEND_SIDE)
AFTER = 10 * NS
HELLO = {CLIENT: frame(TEXT, b"from the client", masked=True), BACKEND_SIDE: frame(TEXT, b"from the backend")}
PING_SIZE = {CLIENT: 10, BACKEND_SIDE: 14}

both_sides = pytest.mark.parametrize("side", BOTH, ids=SIDES)


def only(side: int, after: int = AFTER) -> tuple[int, int]:
    """Intervals, with one side kept alive."""
    return (after, NEVER) if side == CLIENT else (NEVER, after)


def send(rig: Rig, tunnel: Tunnel, side: int, data: bytes) -> None:
    """One side sends, the other receives."""
    peer = tunnel.peer(1 - side)
    before = len(peer.received)
    tunnel.peer(side).send(data)
    rig.until(lambda: peer.read() >= 0 and len(peer.received) >= before + len(data), "the bytes")


def pong(tunnel: Tunnel, side: int) -> bytes:
    """The answer to the latest Ping."""
    payload = tunnel.side(side, PING_TAG).to_bytes(4, "big") + tunnel.side(side, PINGS_SENT).to_bytes(4, "big")
    return frame(PONG, payload, masked=side == CLIENT)


def due(tunnel: Tunnel, side: int) -> int:
    return deadlines.keepalive_due(tunnel.rig.cells, tunnel.row, side)


def walk(rig: Rig) -> None:
    """One walk, and every tick until the next."""
    now = time.monotonic_ns()
    more = rig.sweeper.walk(now)
    while more:
        now += TICK_NS
        more = rig.sweeper.tick(now)


def pinged(rig: Rig, side: int, after: int = AFTER, family: str = "tcp", timeout: int = PONG_WITHIN) -> Tunnel:
    """A tunnel with a side that was silent for its interval, and was sent a Ping."""
    tunnel = rig.open(family, on_loss=1012, ping_after=only(side, after), pong_timeout=timeout)
    tunnel.age(after)
    walk(rig)
    assert tunnel.side(side, PINGS_SENT) == 1
    peer = tunnel.peer(side)
    rig.until(lambda: peer.read() >= 0 and len(peer.received) >= PING_SIZE[side], "the Ping")
    peer.received.clear()
    return tunnel


def assert_alive(rig: Rig, tunnel: Tunnel, side: int) -> None:
    """A walk finds nothing wrong with it."""
    walk(rig)
    rig.assert_live(tunnel)
    assert rig.totals(side).timeouts == 0


def assert_dead(rig: Rig, tunnel: Tunnel, side: int, before: bytes = b"") -> None:
    """A walk finds a side dead: the other is told, says goodbye, and the end is put down to the side's silence."""
    walk(rig)
    assert rig.totals(side).timeouts == 1
    other = tunnel.peer(1 - side)
    rig.until(other.has_ended, "FIN")
    assert other.received[: len(before)] == before
    code = 1001 if side == CLIENT else 1012
    assert close_frames(bytes(other.received[len(before) :])) == [(code, side == CLIENT)]
    rig.assert_live(tunnel)
    other.send(closing(code, masked=side == BACKEND_SIDE))
    end = rig.end()
    assert (end.initiator, end.cause) == ("gateway", "ping_timeout")
    assert (end.decided.cut, end.decided.exact) == (side, False)
    rig.assert_nothing_left(tunnel)


# --- when a Ping is sent ----------------------------------------------------------------------------------------------


@both_sides
def test_a_silent_side_gets_one_ping_when_it_is_due(rig: Rig, side: int) -> None:
    tunnel = rig.open(on_loss=1012, ping_after=only(side))
    tunnel.age(AFTER - NS)
    when = due(tunnel, side)
    assert when == tunnel.side(side, LAST_NS) + AFTER
    assert not rig.sweeper.walk(when - NS - 1)
    assert rig.sweeper.walk(when - NS // 2)
    assert rig.sweeper.tick(when - TICK_NS - 1)
    assert tunnel.side(side, PINGS_SENT) == 0
    assert not rig.sweeper.tick(when - TICK_NS)
    assert tunnel.side(side, PINGS_SENT) == 1
    for later in (0, TICK_NS, NS, 2 * NS):
        assert not rig.sweeper.tick(when + later)
        assert not rig.sweeper.walk(when + later)
    rig.assert_live(tunnel)
    assert [rig.totals(each).pings for each in BOTH] == [side == CLIENT, side == BACKEND_SIDE]
    assert tunnel.peer(side).read() == PING_SIZE[side]
    assert tunnel.peer(1 - side).read() == 0


@both_sides
def test_a_ping_that_is_overdue_is_sent_by_the_next_walk(rig: Rig, side: int) -> None:
    tunnel = rig.open(on_loss=1012, ping_after=only(side))
    tunnel.age(3 * AFTER)
    rig.sweeper.walk(time.monotonic_ns())
    assert tunnel.side(side, PINGS_SENT) == 1


@both_sides
def test_what_the_side_itself_sends_puts_its_ping_off(rig: Rig, side: int) -> None:
    """Whatever it is; also between the walk that planned the Ping and the moment for it."""
    for data in (HELLO[side], frame(PING, b"", masked=side == CLIENT), frame(PONG, b"", masked=side == CLIENT)):
        tunnel = rig.open(on_loss=1012, ping_after=only(side))
        tunnel.age(AFTER - NS // 2)
        when = due(tunnel, side)
        assert rig.sweeper.walk(when - NS // 2)
        send(rig, tunnel, side, data)
        assert not rig.sweeper.tick(when)
        assert tunnel.side(side, PINGS_SENT) == 0
        heard = tunnel.side(side, LAST_NS)
        rig.sweeper.walk(when + NS)
        assert tunnel.side(side, PINGS_SENT) == 0
        assert tunnel.cell(DEADLINE_NS) <= heard + AFTER
        tunnel.age(AFTER)
        walk(rig)
        assert tunnel.side(side, PINGS_SENT) == 1


@both_sides
def test_what_goes_to_the_side_does_not(rig: Rig, side: int) -> None:
    tunnel = rig.open(on_loss=1012, ping_after=only(side))
    tunnel.age(AFTER)
    send(rig, tunnel, 1 - side, HELLO[1 - side])
    walk(rig)
    assert tunnel.side(side, PINGS_SENT) == 1


@both_sides
def test_no_ping_where_keepalive_is_off(rig: Rig, side: int) -> None:
    tunnel = rig.open(on_loss=1012, ping_after=only(1 - side))
    assert due(tunnel, side) == NEVER
    tunnel.age(1000 * NS)
    walk(rig)
    assert [tunnel.side(each, PINGS_SENT) for each in (side, 1 - side)] == [0, 1]


def test_each_side_has_its_own_interval(rig: Rig) -> None:
    tunnel = rig.open(on_loss=1012, ping_after=(5 * NS, 20 * NS))
    sent = []
    for _ in range(12):
        tunnel.age(5 * NS)
        walk(rig)
        for side in BOTH:
            if tunnel.side(side, PINGED_NS):
                tunnel.peer(side).send(pong(tunnel, side))
                rig.until(lambda side=side: not tunnel.side(side, PINGED_NS), "the Pong")
        sent.append([tunnel.side(side, PINGS_SENT) for side in BOTH])
    assert sent[-1] == [12, 3]
    assert [rig.totals(side).pongs for side in BOTH] == [12, 3]


@pytest.mark.parametrize("kind", ["opaque", "broken by the client", "broken by the backend"])
def test_no_ping_where_there_are_no_frames(rig: Rig, kind: str) -> None:
    tunnel = rig.open(kind=OPAQUE if kind == "opaque" else 0, on_loss=1012, ping_after=(AFTER, AFTER))
    if kind != "opaque":
        send(rig, tunnel, CLIENT if kind == "broken by the client" else BACKEND_SIDE, b"\xff" * 20)
    tunnel.age(1000 * NS)
    walk(rig)
    rig.assert_live(tunnel)
    assert [tunnel.side(side, PINGS_SENT) for side in BOTH] == [0, 0]


@both_sides
def test_a_ping_that_has_to_wait_for_the_end_of_a_frame_is_tried_each_second(rig: Rig, side: int) -> None:
    tunnel = rig.open(on_loss=1012, ping_after=only(side))
    data = frame(BINARY, bytes(1000), masked=side == BACKEND_SIDE)
    send(rig, tunnel, 1 - side, data[:500])
    tunnel.age(AFTER)
    for _ in range(3):
        now = time.monotonic_ns()
        walk(rig)
        assert tunnel.side(side, PINGS_SENT) == 0
        assert tunnel.cell(DEADLINE_NS) <= now + 2 * NS
        tunnel.age(2 * NS)
    send(rig, tunnel, 1 - side, data[500:])
    walk(rig)
    assert tunnel.side(side, PINGS_SENT) == 1


@both_sides
@pytest.mark.parametrize("answer", ["Pong", "data"])
@pytest.mark.parametrize("after", [NS, 3 * NS, 30 * NS], ids=["1 s", "3 s", "30 s"])
def test_ping_and_answer_over_and_over(rig: Rig, side: int, answer: str, after: int) -> None:
    """The next is due an interval after the answer, however short either is beside the time for a Pong."""
    tunnel = rig.open(on_loss=1012, ping_after=only(side, after))
    for n in range(1, 5):
        tunnel.age(due(tunnel, side) - TICK_NS - time.monotonic_ns())  # a tick ahead, as Pings are sent
        assert tunnel.cell(DEADLINE_NS) <= due(tunnel, side)
        rig.sweeper.walk(time.monotonic_ns())
        assert tunnel.side(side, PINGS_SENT) == n
        if answer == "Pong":
            tunnel.peer(side).send(pong(tunnel, side))
            rig.until(lambda n=n: rig.totals(side).pongs == n, "the Pong")
            assert tunnel.cell(DEADLINE_NS) == due(tunnel, side)
        else:
            send(rig, tunnel, side, HELLO[side])
        assert tunnel.cell(DEADLINE_NS) <= due(tunnel, side)


# --- an endpoint's own Pings ------------------------------------------------------------------------------------------


@both_sides
def test_an_endpoints_ping_does_the_job(rig: Rig, side: int) -> None:
    """While it is unanswered the gateway sends none; its Pong is a sign of life; nothing at all is death."""
    for answered in (True, False):
        tunnel = rig.open(on_loss=1012, ping_after=only(side))
        tunnel.age(AFTER - NS)
        send(rig, tunnel, 1 - side, frame(PING, b"mine", masked=side == BACKEND_SIDE))
        tunnel.age(2 * NS)
        assert_alive(rig, tunnel, side)
        assert tunnel.side(side, PINGS_SENT) == 0
        tunnel.age(PONG_WITHIN - 4 * NS)
        assert_alive(rig, tunnel, side)
        if answered:
            send(rig, tunnel, side, frame(PONG, b"mine", masked=side == CLIENT))
            tunnel.age(4 * NS)
            assert_alive(rig, tunnel, side)
            assert tunnel.side(side, PINGS_SENT) == 0
            tunnel.age(AFTER)
            walk(rig)
            assert tunnel.side(side, PINGS_SENT) == 1
            rig.relay.finish(tunnel.row)
            rig.end()
        else:
            tunnel.age(4 * NS)
            tunnel.peer(side).received.clear()
            assert_dead(rig, tunnel, side)


@both_sides
def test_an_endpoints_ping_that_is_sent_long_before_the_gateways_would_be(rig: Rig, side: int) -> None:
    """Whoever asks, an answer is due after the same time."""
    tunnel = rig.open(ping_after=only(side, 10 * PONG_WITHIN), on_loss=1012)
    send(rig, tunnel, 1 - side, frame(PING, b"mine", masked=side == BACKEND_SIDE))
    tunnel.age(PONG_WITHIN - NS)
    assert_alive(rig, tunnel, side)
    tunnel.peer(side).received.clear()
    tunnel.age(NS)
    # The walk that is due anyway notices.
    tunnel.rig.cells[tunnel.row + DEADLINE_NS] = time.monotonic_ns()
    assert_dead(rig, tunnel, side)


@both_sides
def test_a_side_that_talks_but_answers_no_pings_is_not_dead(rig: Rig, side: int) -> None:
    tunnel = rig.open(on_loss=1012, ping_after=only(side))
    for _ in range(4):
        send(rig, tunnel, 1 - side, frame(PING, b"?", masked=side == BACKEND_SIDE))
        tunnel.age(AFTER + NS)
        walk(rig)
        tunnel.age(PONG_WITHIN // 2)
        send(rig, tunnel, side, HELLO[side])
        assert_alive(rig, tunnel, side)


# --- who is dead ------------------------------------------------------------------------------------------------------


@both_sides
def test_a_side_that_answers_nothing_is_dead(rig: Rig, side: int) -> None:
    tunnel = pinged(rig, side)
    when = due(tunnel, side)
    assert when == tunnel.side(side, PINGED_NS) + PONG_WITHIN
    rig.sweeper.walk(when - 1)
    rig.assert_live(tunnel)
    assert rig.totals(side).timeouts == 0
    tunnel.age(PONG_WITHIN)
    assert_dead(rig, tunnel, side)


@both_sides
def test_the_silence_that_it_is_put_down_to_is_that_before_the_ping(rig: Rig, side: int) -> None:
    tunnel = pinged(rig, side)
    silence = tunnel.side(side, SILENCE_NS)
    assert AFTER <= silence < AFTER + NS
    tunnel.age(PONG_WITHIN)
    walk(rig)
    tunnel.age(5 * NS)
    tunnel.peer(1 - side).send(closing(1001, masked=side == BACKEND_SIDE))
    end = rig.end()
    assert end.decided.silence_ns == silence
    assert end.decided.last_from == (CLIENT if tunnel_idle(end.cells) else BACKEND_SIDE)


def tunnel_idle(cells: list[int]) -> bool:
    """Whether the client was heard no earlier than the backend."""
    from gateway.tunnels.layout import END_IDLE_NS, SIDE_0, SIDE_CELLS

    return cells[SIDE_0 + END_IDLE_NS] <= cells[SIDE_0 + SIDE_CELLS + END_IDLE_NS]


@both_sides
def test_the_other_side_is_told_behind_what_it_was_sent(rig: Rig, side: int) -> None:
    tunnel = rig.open(on_loss=1012, ping_after=only(side))
    send(rig, tunnel, side, HELLO[side])
    tunnel.age(AFTER)
    walk(rig)
    tunnel.age(PONG_WITHIN)
    assert_dead(rig, tunnel, side, before=HELLO[side])


@both_sides
@pytest.mark.parametrize("cut", [1, 5, 500])
def test_a_side_that_dies_inside_a_frame_leaves_no_place_for_a_close(rig: Rig, side: int, cut: int) -> None:
    tunnel = rig.open(on_loss=1012, ping_after=only(side))
    data = frame(BINARY, bytes(1000), masked=side == CLIENT)
    send(rig, tunnel, side, data[:cut])
    tunnel.age(AFTER)
    walk(rig)
    tunnel.age(PONG_WITHIN)
    walk(rig)
    other = tunnel.peer(1 - side)
    rig.until(other.has_ended, "FIN")
    assert other.received == data[:cut]
    other.close()
    end = rig.end()
    assert (end.initiator, end.cause) == ("gateway", "ping_timeout")
    rig.assert_nothing_left(tunnel)


@both_sides
def test_whoever_does_not_answer_the_close_is_cut_when_its_time_is_up(rig: Rig, side: int) -> None:
    tunnel = pinged(rig, side)
    tunnel.age(PONG_WITHIN)
    walk(rig)
    tunnel.age(CLOSE_WITHIN - NS)
    walk(rig)
    rig.assert_live(tunnel)
    tunnel.age(NS)
    walk(rig)
    assert rig.end().cause == "ping_timeout"
    rig.assert_nothing_left(tunnel)


def test_both_sides_are_dead(rig: Rig) -> None:
    tunnel = rig.open(on_loss=1012, ping_after=(AFTER, AFTER))
    tunnel.age(AFTER)
    walk(rig)
    tunnel.age(PONG_WITHIN)
    walk(rig)
    tunnel.age(CLOSE_WITHIN)
    walk(rig)
    end = rig.end()
    assert (end.initiator, end.cause) == ("gateway", "ping_timeout")
    rig.assert_nothing_left(tunnel)


# --- who is not -------------------------------------------------------------------------------------------------------

LIFE: dict[str, Callable[[Tunnel, int], bytes]] = {
    "the Pong": pong,
    "half the Pong": lambda tunnel, side: pong(tunnel, side)[:5],
    "another Pong": lambda tunnel, side: frame(PONG, b"12345678", masked=side == CLIENT),
    "a Ping": lambda tunnel, side: frame(PING, b"", masked=side == CLIENT),
    "a message": lambda tunnel, side: HELLO[side],
    "a byte": lambda tunnel, side: HELLO[side][:1],
}


@both_sides
@pytest.mark.parametrize("sign", LIFE.values(), ids=LIFE)
def test_one_late_byte_is_life(rig: Rig, side: int, sign: Callable[[Tunnel, int], bytes]) -> None:
    tunnel = pinged(rig, side)
    tunnel.age(PONG_WITHIN - NS)
    assert_alive(rig, tunnel, side)
    tunnel.peer(side).send(sign(tunnel, side))
    rig.until(lambda: rig.waiting(), "it to arrive", turn=None)
    rig.rest()
    tunnel.age(2 * NS)
    assert_alive(rig, tunnel, side)
    # And it is asked again in its turn.
    tunnel.age(AFTER)
    walk(rig)
    assert tunnel.side(side, PINGS_SENT) == 2 or tunnel.side(side, HELD) == 5


@both_sides
def test_a_pong_that_is_later_still(rig: Rig, side: int) -> None:
    """Not heard of before its time was up, but before anyone looked."""
    tunnel = pinged(rig, side)
    tunnel.age(PONG_WITHIN + NS // 2)
    tunnel.peer(side).send(pong(tunnel, side))
    rig.until(lambda: rig.totals(side).pongs, "the Pong")
    assert_alive(rig, tunnel, side)


@both_sides
def test_what_was_not_read_yet_counts(rig: Rig, side: int) -> None:
    """A worker that was stopped, or has ten thousand others to read first, blames nobody for it."""
    tunnel = pinged(rig, side)
    tunnel.peer(side).send(pong(tunnel, side))
    rig.until(lambda: tunnel.unread(side), "the Pong to arrive", turn=None)
    tunnel.age(PONG_WITHIN + NS)
    assert_alive_unread(rig, tunnel, side)


def assert_alive_unread(rig: Rig, tunnel: Tunnel, side: int) -> None:
    """A walk before anything is read finds nothing wrong; afterwards the Pong is there."""
    walk(rig)
    assert rig.totals(side).timeouts == 0
    assert not rig.ends
    rig.until(lambda: rig.totals(side).pongs == 1, "the Pong to be read")
    assert_alive(rig, tunnel, side)


@both_sides
@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_a_side_that_is_not_read_because_the_other_takes_nothing(rig: Rig, side: int, family: str) -> None:
    """Backpressure: its Pong lies in the kernel."""
    tunnel = rig.open(family, buffers=32 * 1024, on_loss=1012, ping_after=only(side))
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    flood = HELLO[side] * 100
    sent = rig.stall(near, flood)
    tunnel.age(AFTER)
    walk(rig)
    assert tunnel.side(side, PINGS_SENT) == 1
    tunnel.age(PONG_WITHIN)
    walk(rig)
    assert rig.totals(side).timeouts == 0
    rest = flood[len(sent) % len(flood) :] + pong(tunnel, side)

    def arrived() -> bool:
        nonlocal rest
        rest = rest[near.send(rest) :]
        far.read()
        return not rest and rig.totals(side).pongs == 1

    rig.until(arrived, "the rest")
    assert_alive(rig, tunnel, side)
    assert len(far.received) % len(HELLO[side]) == 0


@pytest.fixture
def full(rig: Rig) -> tuple[Tunnel, bytes]:
    """A client with bytes on their way to it in the kernel, and none in the process's hands."""
    tunnel = rig.open(buffers=32 * 1024, on_loss=1012, ping_after=only(CLIENT))
    sent = b""
    while not tunnel.pending[CLIENT]:
        sent += HELLO[BACKEND_SIDE]
        rig.relay.write(tunnel.row, CLIENT, HELLO[BACKEND_SIDE])
    rig.until(lambda: tunnel.client.read(limit=2000) and not tunnel.pending[CLIENT], "what is pending to go")
    return tunnel, sent


def test_a_slow_reader_whose_queue_moves_is_not_dead(rig: Rig, full: tuple[Tunnel, bytes]) -> None:
    tunnel, sent = full
    tunnel.age(AFTER)
    walk(rig)
    assert tunnel.side(CLIENT, PINGS_SENT) == 1
    before = len(tunnel.client.received)
    for _ in range(5):
        tunnel.age(PONG_WITHIN)
        assert_alive(rig, tunnel, CLIENT)
    assert len(tunnel.client.received) == before
    rig.until(lambda: tunnel.client.read() >= 0 and len(tunnel.client.received) >= len(sent) + 10, "the Ping")
    tunnel.client.send(pong(tunnel, CLIENT))
    rig.until(lambda: rig.totals(CLIENT).pongs, "the Pong")
    assert_alive(rig, tunnel, CLIENT)


def test_a_reader_that_acknowledges_nothing_is_dead(rig: Rig, full: tuple[Tunnel, bytes]) -> None:
    tunnel, _ = full
    fd = tunnel.side(CLIENT, FD)
    rig.until(lambda: not is_taking(fd, 30 * MS, again=False), "its acknowledgements to stop", turn=None)
    assert is_taking(fd, 60 * NS, again=True)


def test_a_reader_of_a_unix_socket_that_takes_nothing_is_given_the_time_twice(rig: Rig) -> None:
    """Such a socket tells what is queued, and not when something of it was taken last."""
    tunnel = rig.open("unix", on_loss=1012, ping_after=only(BACKEND_SIDE))
    tunnel.age(AFTER)
    walk(rig)
    assert tunnel.side(BACKEND_SIDE, PINGS_SENT) == 1
    tunnel.age(PONG_WITHIN)
    assert_alive(rig, tunnel, BACKEND_SIDE)
    tunnel.age(PONG_WITHIN - NS)
    assert_alive(rig, tunnel, BACKEND_SIDE)
    tunnel.age(NS)
    assert_dead(rig, tunnel, BACKEND_SIDE)


def test_a_unix_socket_with_nothing_queued_is_like_any_other(rig: Rig) -> None:
    tunnel = pinged(rig, BACKEND_SIDE, family="unix")
    tunnel.age(PONG_WITHIN)
    assert_dead(rig, tunnel, BACKEND_SIDE)


def test_what_is_no_connection_neither_takes_anything_nor_holds_anything_unread() -> None:
    with open("/dev/null", "rb") as file, socket.socket() as sock:
        for fd in (file.fileno(), sock.fileno(), NO_DESCRIPTOR):
            assert not is_taking(fd, NS, again=False)
            assert not has_unread(fd)


# --- what changes between a walk and a tick ---------------------------------------------------------------------------


def test_a_row_that_is_another_tunnels_by_then(rig: Rig) -> None:
    first = rig.open(on_loss=1012, ping_after=(AFTER, AFTER))
    first.age(AFTER - NS // 2)
    when = due(first, CLIENT)
    assert rig.sweeper.walk(when - NS // 2)
    first.client.close()
    first.backend.close()
    rig.end()
    second = rig.open(on_loss=1012, ping_after=(AFTER, AFTER))
    assert second.row == first.row
    assert not rig.sweeper.tick(when + TICK_NS)
    assert [second.side(side, PINGS_SENT) for side in BOTH] == [0, 0]
    assert second.cell(DEADLINE_NS) == due(second, CLIENT)


def test_a_row_that_is_reserved_again_by_then(rig: Rig) -> None:
    tunnel = rig.open(on_loss=1012, ping_after=(AFTER, AFTER))
    tunnel.age(AFTER - NS // 2)
    when = due(tunnel, CLIENT)
    assert rig.sweeper.walk(when - NS // 2)
    tunnel.client.close()
    tunnel.backend.close()
    rig.end()
    assert rig.slice.allocate(0, 0) == tunnel.row
    assert not rig.sweeper.tick(when + TICK_NS)
    assert tunnel.cell(DEADLINE_NS) == NEVER


@pytest.mark.parametrize("after", [NEVER, 2 * AFTER], ids=["off", "longer"])
def test_an_interval_that_is_another_by_then(rig: Rig, after: int) -> None:
    tunnel = rig.open(on_loss=1012, ping_after=only(CLIENT))
    tunnel.age(AFTER - NS // 2)
    when = due(tunnel, CLIENT)
    assert rig.sweeper.walk(when - NS // 2)
    tunnel.write_side(CLIENT, PING_AFTER_NS, after)
    assert not rig.sweeper.tick(when + TICK_NS)
    assert tunnel.side(CLIENT, PINGS_SENT) == 0
    rig.sweeper.walk(when + NS // 2)
    assert tunnel.cell(DEADLINE_NS) == due(tunnel, CLIENT)


def test_a_tunnel_that_is_closing_by_then(rig: Rig) -> None:
    tunnel = rig.open(on_loss=1012, ping_after=(AFTER, AFTER))
    tunnel.age(AFTER - NS // 2)
    when = due(tunnel, CLIENT)
    assert rig.sweeper.walk(when - NS // 2)
    rig.relay.close_tunnel(tunnel.row, 1012, DRAIN)
    assert not rig.sweeper.tick(when + TICK_NS)
    rig.rest()
    for side in BOTH:
        tunnel.peer(side).read()
        assert close_frames(bytes(tunnel.peer(side).received)) == [(1012, side == BACKEND_SIDE)]
    tunnel.age(CLOSE_WITHIN)
    walk(rig)
    assert rig.end().cause == "drain"


def test_a_tunnel_that_the_first_of_its_two_pings_finds_gone(rig: Rig) -> None:
    tunnel = rig.open(on_loss=1012, ping_after=(AFTER, AFTER))
    tunnel.age(AFTER)
    tunnel.client.reset()
    tunnel.backend.reset()
    rig.until(lambda: len(rig.waiting()) == 2, "the resets to arrive", turn=None)
    walk(rig)
    end = rig.end()
    assert end.cause == "reset"
    rig.assert_nothing_left(tunnel)


# --- thousands --------------------------------------------------------------------------------------------------------


@pytest.fixture
def simulate() -> Iterator[Callable[..., Simulation]]:
    made = []

    def make(rows: int, **options: int) -> Simulation:
        made.append(Simulation(rows, **options))
        return made[-1]

    yield make
    for simulation in made:
        simulation.close()


def open_within(simulation: Simulation, rows: int, seconds: float, after: tuple[int, int]) -> list[int]:
    """Open tunnels evenly; the list fills as they open."""
    opened: list[int] = []
    for n in range(rows):
        simulation.at(seconds * n / rows, lambda: opened.append(simulation.open(after)))
    return opened


def assert_none_late(simulation: Simulation, after: tuple[int, int]) -> None:
    assert simulation.dead == []
    assert max(ping.silence - after[ping.side] for ping in simulation.pings) <= 0


@pytest.mark.either_build
@pytest.mark.parametrize(
    ("rows", "opening", "client", "backend"),
    [
        (4000, 5.0, 10, None),
        (4000, 0.1, 10, None),
        (4000, 5.0, 10, 10),
        (4000, 5.0, 25, None),
        (4000, 0.0, 25, 25),
        (1000, 2.0, 2, None),
        (1000, 1.0, 1, None),
        (30, 0.0, 20, None),
    ],
)
def test_pings_that_fall_due_together_are_spread(
    simulate: Callable[..., Simulation], rows: int, opening: float, client: int, backend: int | None
) -> None:
    after = (client * NS, backend * NS if backend else NEVER)
    simulation = simulate(rows)
    open_within(simulation, rows, opening, after)
    seconds = int(opening) + 4 * client
    simulation.run(seconds)
    assert_none_late(simulation, after)
    assert min(ping.silence for ping in simulation.pings) >= client * NS // 4
    counts = simulation.each_second()
    mean = rows / client + (rows / backend if backend else 0)
    assert max(counts.values()) <= max(1.5 * mean, 30)
    # Once spread they stay so, and each goes out when it is due.
    last = range(seconds - client, seconds)
    assert sum(counts[second] for second in last) == pytest.approx(client * mean, rel=0.03)
    settled = [ping for ping in simulation.pings if ping.at >= simulation.began + (seconds - client) * NS]
    assert min(ping.silence for ping in settled) >= client * NS - 2 * NS


@pytest.mark.either_build
def test_each_second_has_its_pings_evenly(simulate: Callable[..., Simulation]) -> None:
    """Within a second, too: none of its ticks has many."""
    simulation = simulate(4000)
    open_within(simulation, 4000, 0, (10 * NS, NEVER))
    simulation.run(60)
    ticks = [ping.at // TICK_NS for ping in simulation.pings]
    a_second = NS // TICK_NS
    assert max(Counter(ticks).values()) <= 4000 / a_second
    settled = Counter(tick for tick in ticks if tick >= (simulation.began + 40 * NS) // TICK_NS)
    assert max(settled.values()) <= 4 * 400 / a_second


@pytest.mark.either_build
def test_a_few_are_pinged_when_they_are_due_and_not_before(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(8)
    open_within(simulation, 8, 3, (10 * NS, 7 * NS))
    simulation.run(60)
    late = [ping.silence - (10 * NS, 7 * NS)[ping.side] for ping in simulation.pings]
    assert len(late) >= 8 * (5 + 7)
    assert min(late) >= -TICK_NS
    assert max(late) <= 0


@pytest.mark.either_build
def test_intervals_of_all_lengths(simulate: Callable[..., Simulation]) -> None:
    """Whatever is mixed, none is late, and none is pinged much more often than it has to be."""
    simulation = simulate(1000)
    intervals: dict[int, tuple[int, int]] = {}

    def open_one(after: tuple[int, int]) -> None:
        intervals[simulation.open(after)] = after

    for n in range(1000):
        after = ((n % 60 + 1) * NS, (n * 7 % 90 + 1) * NS)
        simulation.at(n % 4, lambda after=after: open_one(after))
    simulation.run(200)
    assert simulation.dead == []
    assert all(ping.silence <= intervals[ping.row][ping.side] for ping in simulation.pings)
    least = sum(196 * NS // after for pair in intervals.values() for after in pair)
    assert len(simulation.pings) < 1.1 * least


@pytest.mark.either_build
def test_the_same_broadcast_to_all(simulate: Callable[..., Simulation]) -> None:
    """All are heard at one moment, again and again."""
    after = (10 * NS, NEVER)
    simulation = simulate(4000)
    rows = open_within(simulation, 4000, 5, after)

    def broadcast() -> None:
        for row in rows:
            simulation.hear(row, CLIENT)

    for n in range(1, 3):
        simulation.at(30 * n, broadcast)
    simulation.run(85)
    assert_none_late(simulation, after)
    assert min(ping.silence for ping in simulation.pings) >= 10 * NS // 4
    assert max(simulation.each_second().values()) <= 4000 // 3


@pytest.mark.either_build
def test_those_who_talk_are_sent_nothing(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(2000)
    rows = open_within(simulation, 2000, 0, (10 * NS, NEVER))
    talking = set()

    def talk(row: int, second: float) -> None:
        simulation.hear(row, CLIENT)
        if second < 60:
            simulation.at(second + 7, lambda: talk(row, second + 7))

    def begin() -> None:
        for n, row in enumerate(rows[::2]):
            talking.add(row)
            talk(row, 0.01 + n / 1000)

    simulation.at(0.005, begin)
    simulation.run(60)
    early = [ping for ping in simulation.pings if ping.row in talking]
    assert all(ping.silence >= 10 * NS // 4 for ping in early)
    # Spreading sends Pings ahead of their time, but none once it is known that a side speaks again by itself.
    assert max(Counter(ping.row for ping in early).values()) <= HABIT
    known = simulation.began + 7 * HABIT * NS + NS
    assert not [ping for ping in early if ping.at > known]


@pytest.mark.either_build
def test_the_dead_among_thousands(simulate: Callable[..., Simulation]) -> None:
    """Each is found within a second of its time, and nobody else is."""
    simulation = simulate(3000)
    rows = open_within(simulation, 3000, 5, (10 * NS, NEVER))
    mute: set[int] = set()

    def fall_silent() -> None:
        mute.update(rows[::30])
        simulation.mute.update((row, CLIENT) for row in mute)

    simulation.at(20, fall_silent)
    simulation.run(60)
    asked = {ping.row: ping.at for ping in simulation.pings if ping.row in mute}
    assert {row for _, row, _ in simulation.dead} == mute
    for at, row, side in simulation.dead:
        assert side == CLIENT
        assert 0 <= at - asked[row] - PONG_WITHIN <= NS + TICK_NS


@pytest.mark.either_build
def test_a_worker_that_was_stopped_catches_up_and_blames_nobody(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(3000)
    open_within(simulation, 3000, 5, (10 * NS, NEVER))
    simulation.run(31.5)
    before = len(simulation.pings)
    simulation.skip(300)
    simulation.run(30)
    assert simulation.dead == []
    counts = simulation.each_second()
    overdue = [ping for ping in simulation.pings[before:] if ping.silence > 11 * NS]
    assert {ping.row for ping in overdue} == {ping.row for ping in simulation.pings}
    assert len({ping.row for ping in overdue}) == len(overdue)
    assert max(counts[second] for second in range(345, 361)) <= 1.5 * 300


@pytest.mark.either_build
def test_pings_that_are_refused_do_not_hold_up_the_others(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(2000)
    rows = open_within(simulation, 2000, 2, (10 * NS, NEVER))
    refusing: set[int] = set()
    simulation.refusing = lambda row, side: row in refusing
    simulation.at(5, lambda: refusing.update(rows[::2]))
    simulation.at(40, refusing.clear)
    simulation.run(60)
    assert simulation.dead == []
    assert max(ping.silence for ping in simulation.pings if ping.row in rows[1::2]) <= 10 * NS
    first = {}
    for ping in simulation.pings:
        if ping.at >= simulation.began + 40 * NS:
            first.setdefault(ping.row, ping.at)
    assert max(first[row] for row in rows[::2]) <= simulation.began + 42 * NS


def test_simulations_are_cleared_away() -> None:
    with closes(Simulation(1)) as simulation:
        simulation.open((10 * NS, NEVER))
        simulation.run(12)
        assert len(simulation.pings) == 1
