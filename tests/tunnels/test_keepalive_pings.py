"""Keepalive in the sweep: who is sent a Ping, when, and who is not."""

from __future__ import annotations

import time

import pytest

from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    CLIENT,
    DEADLINE_NS,
    DRAIN,
    LAST_NS,
    NEVER,
    OPAQUE,
    PING_AFTER_NS,
    PINGED_NS,
    PINGS_SENT,
)
from gateway.tunnels.upkeep.sweep import TICK_NS
from tests.support.frames import BINARY, PING, PONG

from .harness import CLOSE_WITHIN, NS, PONG_WITHIN, Rig
from .kept_alive import AFTER, PING_SIZE, assert_alive, assert_dead, due, only, pong, send, walk
from .own_pings import BOTH, HELLO, both_sides
from .wire import close_frames, frame

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
    """An answer is due after the same time, whichever side is asked."""
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
