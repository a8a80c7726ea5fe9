"""Keepalive in the sweep: who is dead, what then becomes of the tunnel, and whom nobody blames."""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Callable

import pytest

from gateway.tunnels.table.layout import BACKEND_SIDE, CLIENT, FD, HELD, PINGED_NS, PINGS_SENT, SILENCE_NS
from gateway.tunnels.upkeep.sweep import has_unread, is_taking
from tests.support.frames import BINARY, PING, PONG

from .harness import CLOSE_WITHIN, NS, PONG_WITHIN, Rig, Tunnel
from .kept_alive import AFTER, assert_alive, assert_dead, due, only, pinged, pong, send, walk
from .own_pings import HELLO, both_sides
from .sweep_simulation import MS, NO_DESCRIPTOR
from .wire import closing, frame

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
    from gateway.tunnels.table.layout import END_IDLE_NS, SIDE_0, SIDE_CELLS

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


SIOCOUTQNSD = 0x894B
"""Asks how many bytes a socket has not sent yet (linux/sockios.h)."""


@pytest.fixture
def full(rig: Rig) -> tuple[Tunnel, bytes]:
    """A client with bytes on their way to it in the kernel, and none in the process's hands."""
    tunnel = rig.open(buffers=32 * 1024, on_loss=1012, ping_after=only(CLIENT))
    sent = b""
    while not tunnel.pending[CLIENT]:
        sent += HELLO[BACKEND_SIDE]
        rig.relay.write(tunnel.row, CLIENT, HELLO[BACKEND_SIDE])
    rig.until(lambda: tunnel.client.read(limit=2000) and not tunnel.pending[CLIENT], "what is pending to go")
    # It may have read so much more than that that its window is open again, and takes what is left in a while.
    while not any(fcntl.ioctl(tunnel.side(CLIENT, FD), SIOCOUTQNSD, bytes(4))):
        sent += HELLO[BACKEND_SIDE]
        rig.relay.write(tunnel.row, CLIENT, HELLO[BACKEND_SIDE])
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
