"""Messages that cost their sender time: it is not read until they are paid for, and nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing as closed_after

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    CLIENT,
    DRAIN,
    INTEREST,
    MESSAGE_BURST_NS,
    MESSAGE_NS,
    NEXT_MESSAGE_NS,
    SECOND,
)
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.examples import examples
from tests.support.frames import BINARY, CONTINUATION, PING, PONG, TEXT

from .harness import PONG_WITHIN, Rig, Tunnel
from .pair import Pair
from .tls_peers import TLS13
from .wire import close_frames, closing, cut, frame, split

HOUR = 3600 * SECOND
LATE_SECONDS = 0.1
"""How much time a client is given back at most that was woken late."""

KINDS = ((None, None), (TLS13, None), (TLS13, TLS13))


def message(n: int, size: int = 20) -> bytes:
    return frame(BINARY, n.to_bytes(4, "big").ljust(size, b"."), masked=True)


def slow(rig: Rig, burst: int = 10, cost: int = HOUR, family: str = "unix", **more: object) -> Tunnel:
    """A tunnel whose client may send ``burst`` messages, and then one an hour."""
    return rig.open(family, message_ns=cost, burst_ns=burst * cost, **more)  # type: ignore[arg-type]  # of Rig.open


def is_read(tunnel: Tunnel) -> bool:
    return tunnel.side(CLIENT, INTEREST) != 0


def pay(tunnel: Tunnel, messages: int) -> None:
    """Let so much time pass for what the client has sent."""
    paid = tunnel.side(CLIENT, NEXT_MESSAGE_NS) - messages * tunnel.side(CLIENT, MESSAGE_NS)
    tunnel.write_side(CLIENT, NEXT_MESSAGE_NS, paid)


def assert_passed(rig: Rig, tunnel: Tunnel, data: bytes) -> None:
    """The backend has received this, and gets no more."""
    rig.until(lambda: tunnel.backend.read() >= 0 and len(tunnel.backend.received) >= len(data), "the messages")
    rig.assert_live(tunnel)
    assert tunnel.backend.has(data)
    rig.until(lambda: not tunnel.dirty, "the row to be clean", turn=None)


# --- how many ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["tcp", "unix"])
@pytest.mark.parametrize(("burst", "size"), [(1, 4), (10, 4), (100, 4), (1, 70_000), (3, 70_000)])
def test_exactly_the_burst_passes(rig: Rig, family: str, burst: int, size: int) -> None:
    """And not a byte of the next message."""
    tunnel = slow(rig, burst, family=family)
    data = b"".join(message(n, size) for n in range(burst))
    left = memoryview(data + message(burst, size))
    while left:
        took = tunnel.client.send(left)
        left = left[took:]
        rig.rest()
        if not tunnel.backend.read() and not took:
            break  # the socket is full of what is not read
    assert_passed(rig, tunnel, data)
    assert not is_read(tunnel)


def test_one_at_a_time(rig: Rig) -> None:
    tunnel = slow(rig, 10)
    sent = b""
    for n in range(10):
        assert is_read(tunnel)
        sent += message(n)
        tunnel.client.send(message(n))
        assert_passed(rig, tunnel, sent)
    assert not is_read(tunnel)
    tunnel.client.send(message(10))
    assert_passed(rig, tunnel, sent)
    assert tunnel.unread(CLIENT) == len(message(10))


def test_a_flood_of_the_smallest_frames(rig: Rig) -> None:
    """Thousands fit into what is read at once."""
    tunnel = slow(rig, 7)
    flood = frame(TEXT, b"", masked=True) * 10_000
    tunnel.client.send(flood)
    assert_passed(rig, tunnel, frame(TEXT, b"", masked=True) * 7)


def test_what_counts(rig: Rig) -> None:
    """Messages by their first frame, and control frames; neither continuations nor answers to our Pings."""
    tunnel = slow(rig, 4)
    assert rig.relay.ping(tunnel.row, CLIENT)
    rig.until(tunnel.client.read, "the Ping")
    pong = frame(PONG, bytes(tunnel.client.received[2:]), masked=True)
    fragments = [frame(TEXT, b"one", masked=True, fin=False)]
    fragments += [frame(CONTINUATION, b"more", masked=True, fin=False)] * 50
    fragments += [frame(CONTINUATION, b"end", masked=True)]
    data = b"".join(fragments)
    tunnel.client.send(data + pong)
    assert_passed(rig, tunnel, data)
    assert rig.totals(CLIENT).pongs == 1
    data += frame(PING, b"?", masked=True) + frame(PONG, b"!", masked=True) + message(0)
    tunnel.client.send(data[len(b"".join(fragments)) :] + message(1))
    assert_passed(rig, tunnel, data)


def test_the_backend_is_not_limited(rig: Rig) -> None:
    tunnel = slow(rig, 1)
    data = frame(TEXT, b"from the backend") * 2000
    left = memoryview(data)
    while left:
        left = left[tunnel.backend.send(left) :]
        rig.serve()
        tunnel.client.read()
    rig.until(lambda: tunnel.client.has(data), "all of it")


def test_what_was_not_sent_is_lost(rig: Rig) -> None:
    """A client that is silent for long may not send more than a burst after that."""
    tunnel = slow(rig, 3)
    pay(tunnel, 1000)
    tunnel.client.send(b"".join(map(message, range(5))))
    assert_passed(rig, tunnel, b"".join(map(message, range(3))))


@settings(max_examples=examples(80), deadline=None, phases=(Phase.generate,))
@given(
    st.integers(1, 120),
    st.lists(st.integers(4, 600), min_size=1, max_size=40),
    st.sampled_from(("whole", "mixed")),
    st.integers(),
)
def test_any_sizes_and_any_cuts(burst: int, sizes: list[int], style: str, seed: int) -> None:
    with closed_after(Rig()) as rig:
        tunnel = slow(rig, burst)
        messages = [message(n, size) for n, size in enumerate(sizes)]
        for piece in cut(b"".join(messages), style, seed):
            tunnel.client.send(piece)
            rig.rest()
        assert_passed(rig, tunnel, b"".join(messages[:burst]))
        assert is_read(tunnel) == (len(messages) < burst)


# --- when it goes on --------------------------------------------------------------------------------------------------


def seconds_for(rig: Rig, tunnel: Tunnel, flood: bytes, size: int) -> float:
    """How long a client that sends all the time takes until ``size`` bytes have come."""
    start = time.monotonic()
    at = 0
    got = len(tunnel.backend.received)
    while len(tunnel.backend.received) - got < size:
        while took := tunnel.client.send(memoryview(flood)[at % len(flood) :]):
            at += took
        rig.poller.select(0.02)
        tunnel.backend.read()
        assert time.monotonic() < start + 30
    return time.monotonic() - start


@pytest.mark.parametrize(
    ("rate", "burst", "tls"),
    [
        (10_000, 1, ()),
        (10_000, 100, ()),
        (200, 1, ()),
        (200, 40, ()),
        (200, 1, (TLS13, None)),
        (200, 40, (TLS13, TLS13)),
    ],
)
def test_the_rate(rig: Rig, rate: int, burst: int, tls: tuple[str | None, ...]) -> None:
    """Never above it; and not below it, but where a busy machine is late, which it is not again and again."""
    cost = SECOND // rate
    count = rate // 3
    tunnel = slow(rig, burst, cost, "tcp", tls=tls)
    one = message(1)
    flood = one if tls else one * 100  # with TLS that is a record
    seconds_for(rig, tunnel, flood, burst * len(one))  # from now on it waits all the time
    rates = []
    while len(rates) < 5 and (not rates or rates[-1] < rate * 0.6):
        seconds = seconds_for(rig, tunnel, flood, count * len(one))
        rates.append(count / seconds)
        assert count <= rate * (seconds + LATE_SECONDS) + burst, f"{rates[-1]:.0f} a second"
    assert rates[-1] >= rate * 0.6, f"{', '.join(f'{each:.0f}' for each in rates)} a second"


def test_waiting_costs_the_worker_nothing(rig: Rig) -> None:
    tunnel = slow(rig, 1)
    tunnel.client.send(message(0) + message(1))
    assert_passed(rig, tunnel, message(0))
    assert rig.waiting() == []
    assert tunnel.unread(CLIENT) == len(message(1))


def test_it_goes_on_when_it_is_time(rig: Rig) -> None:
    """Nothing but the clock wakes the worker."""
    tunnel = slow(rig, 1, cost=SECOND // 10)
    start = time.monotonic()
    tunnel.client.send(b"".join(map(message, range(4))))
    select_until(rig, lambda: tunnel.backend.has(b"".join(map(message, range(4)))))
    assert time.monotonic() - start >= 0.3


def test_the_end_of_the_stream_comes_behind_the_messages(rig: Rig) -> None:
    tunnel = slow(rig, 1)
    tunnel.client.send(message(0) + message(1))
    tunnel.client.half_close()
    assert_passed(rig, tunnel, message(0))
    assert not tunnel.backend.end
    for _ in range(2):
        pay(tunnel, 1)
        rig.relay.wake_at(0, tunnel.row)
        rig.rest()
        rig.serve()
    rig.until(tunnel.backend.has_ended, "FIN")
    assert tunnel.backend.received == message(0) + message(1)


def test_a_backend_that_takes_nothing_gives_no_credit(rig: Rig) -> None:
    """While it is backpressure that keeps the client from being read, its time runs on all the same."""
    tunnel = rig.open("unix", buffers=8192, message_ns=SECOND // 1000, burst_ns=SECOND // 1000 * 5)
    rig.stall(tunnel.client, frame(BINARY, bytes(60_000), masked=True))
    assert not is_read(tunnel) or tunnel.pending[BACKEND_SIDE]
    rig.relay.wake_at(0, tunnel.row)
    rig.serve(0.01)
    assert tunnel.pending[BACKEND_SIDE]
    before = tunnel.unread(CLIENT)
    rig.serve(0.01)
    assert tunnel.unread(CLIENT) == before


# --- what else goes on meanwhile --------------------------------------------------------------------------------------


def test_it_is_not_given_up_while_it_is_not_read(rig: Rig) -> None:
    """It has answered the Ping, behind a message that has to wait."""
    tunnel = slow(rig, 1, ping_after=(25 * SECOND, 25 * SECOND))
    tunnel.client.send(message(0))
    assert_passed(rig, tunnel, message(0))
    tunnel.age(30 * SECOND)
    assert rig.relay.ping(tunnel.row, CLIENT)
    rig.until(tunnel.client.read, "the Ping")
    pong = frame(PONG, bytes(tunnel.client.received[2:]), masked=True)
    tunnel.client.send(message(1) + pong)
    for _ in range(3):
        tunnel.age(PONG_WITHIN + SECOND)
        tunnel.backend.send(frame(TEXT, b"alive"))
        rig.rest()
        rig.sweep(rig.relay.now)
        rig.assert_live(tunnel)
    pay(tunnel, 1)
    rig.relay.wake_at(0, tunnel.row)
    assert_passed(rig, tunnel, message(0) + message(1))
    assert rig.totals(CLIENT).pongs == 1 or tunnel.unread(CLIENT) == len(pong)
    assert rig.totals(CLIENT).timeouts == 0


def test_one_that_is_gone_is_given_up_though_it_is_not_read(rig: Rig) -> None:
    tunnel = slow(rig, 1, ping_after=(25 * SECOND, 10**6 * SECOND))
    tunnel.client.send(message(0))
    assert_passed(rig, tunnel, message(0))
    tunnel.age(30 * SECOND)
    assert rig.relay.ping(tunnel.row, CLIENT)
    rig.until(tunnel.client.read, "the Ping")
    tunnel.age(PONG_WITHIN + SECOND)
    rig.sweep(rig.relay.now)
    tunnel.backend.half_close()
    assert rig.end().cause == "ping_timeout"


def test_it_is_not_idle_while_it_is_not_read(rig: Rig) -> None:
    """The time for that begins when it may speak again."""
    tunnel = slow(rig, 1, idle=60 * SECOND)
    tunnel.client.send(message(0) + message(1))
    assert_passed(rig, tunnel, message(0))
    now = rig.relay.now
    rig.sweep(now + HOUR + 59 * SECOND)
    rig.assert_live(tunnel)
    rig.sweep(now + HOUR + 62 * SECOND)
    rig.until(lambda: tunnel.client.read(), "the Close frame")
    assert close_frames(bytes(tunnel.client.received)) == [(1001, False)]


def test_a_drain_need_not_wait(rig: Rig) -> None:
    """Its answer to our Close frame is read at once, and what comes before that goes no further."""
    tunnel = slow(rig, 1)
    tunnel.client.send(message(0) + message(1) + message(2))
    assert_passed(rig, tunnel, message(0))
    rig.relay.close_tunnel(tunnel.row, 1012, DRAIN)
    rig.until(lambda: tunnel.client.read() and tunnel.backend.read(), "Close frames")
    tunnel.client.send(closing(1012, masked=True))
    tunnel.backend.send(closing(1012, masked=False))
    assert rig.end().cause == "drain"
    *data, last = split(bytes(tunnel.backend.received))
    assert data == [message(0)]
    assert close_frames(last) == [(1012, True)]


def test_the_end_of_a_backend_need_not_wait(rig: Rig) -> None:
    tunnel = slow(rig, 1)
    tunnel.client.send(message(0) + message(1))
    assert_passed(rig, tunnel, message(0))
    tunnel.backend.half_close()
    rig.until(tunnel.client.has_ended, "FIN")
    rig.until(lambda: tunnel.backend.has(message(0) + message(1)), "what the client had sent")
    tunnel.client.half_close()
    end = rig.end()
    assert (end.initiator, end.cause) == ("backend", "fin")


def test_a_close_frame_waits_like_any_message(rig: Rig) -> None:
    tunnel = slow(rig, 1)
    tunnel.client.send(message(0) + closing(1000, masked=True))
    assert_passed(rig, tunnel, message(0))
    pay(tunnel, 1)
    rig.relay.wake_at(0, tunnel.row)
    rig.until(lambda: tunnel.backend.has(message(0) + closing(1000, masked=True)), "the Close frame")
    tunnel.backend.send(closing(1000, masked=False))
    rig.until(lambda: tunnel.client.has(closing(1000, masked=False)), "the answer")
    for peer in (tunnel.client, tunnel.backend):
        peer.half_close()
    end = rig.end()
    assert (end.initiator, end.cause) == ("client", "close_frame")


def test_neighbours_are_not_touched(rig: Rig) -> None:
    """What a row that ended is to be woken for does nothing to the tunnel that has the row now."""
    tunnel = slow(rig, 1, cost=SECOND // 20)
    tunnel.client.send(message(0))
    assert_passed(rig, tunnel, message(0))
    for peer in (tunnel.client, tunnel.backend):
        peer.close()
    rig.end()
    another = rig.open("unix")
    assert another.row == tunnel.row
    time.sleep(0.06)
    rig.serve()
    another.client.send(message(1) * 100)
    assert_passed(rig, another, message(1) * 100)


# --- moves ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", KINDS)
def test_a_killed_worker(rig: Rig, tls: tuple[str | None, str | None]) -> None:
    """Its successor neither forgets what the client has sent, nor that it has to be woken."""
    tunnel = slow(rig, 2, cost=HOUR, family="tcp", tls=tls)
    for n in range(4):
        tunnel.client.send(message(n))  # with TLS in a record of its own
    rig.until(lambda: not is_read(tunnel), "the limit")
    rig.rest()
    tunnel.backend.read()
    assert tunnel.backend.has(message(0) + message(1))
    for _ in range(2):
        assert rig.succeed() == (1, 0, 0)
        rig.rest()
        assert not is_read(tunnel)
        assert not tunnel.backend.read()
    tunnel.write_side(CLIENT, MESSAGE_NS, SECOND // 20)
    tunnel.write_side(CLIENT, MESSAGE_BURST_NS, SECOND // 20)
    tunnel.write_side(CLIENT, NEXT_MESSAGE_NS, rig.relay.now + SECOND // 20)
    assert rig.succeed() == (1, 0, 0)
    select_until(rig, lambda: tunnel.backend.has(b"".join(map(message, range(4)))))


@pytest.mark.parametrize("taken", [True, False])
def test_an_upgrade(pair: Pair, taken: bool) -> None:
    """The new worker goes on where the old one was; and so does the old one, if the new one does not take it."""
    rig = pair.rig
    tunnel = slow(rig, 2, cost=SECOND // 20, family="tcp")
    tunnel.client.send(b"".join(map(message, range(8))))
    rig.until(lambda: tunnel.backend.read() >= 0 and not is_read(tunnel), "the limit")
    assert pair.move(keep=taken) == ((1, []) if taken else (0, [tunnel.id]))
    if taken:
        pair.go_on_with_the_new_one()
    select_until(rig, lambda: tunnel.backend.has(b"".join(map(message, range(8)))))


def select_until(rig: Rig, condition: Callable[[], bool]) -> None:
    """Turns of the loop that only an event or the clock ends."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        rig.poller.select(1)


# --- sent ahead -------------------------------------------------------------------------------------------------------


def test_what_was_sent_ahead_is_charged(rig: Rig) -> None:
    tunnel = slow(rig, 3)
    rig.relay.feed(tunnel.row, CLIENT, b"".join(map(message, range(5))))
    assert_passed(rig, tunnel, b"".join(map(message, range(5))))
    assert not is_read(tunnel)
    pay(tunnel, 2)
    rig.relay.wake_at(0, tunnel.row)
    tunnel.client.send(message(5))
    rig.rest()
    assert not is_read(tunnel)
    pay(tunnel, 1)
    rig.relay.wake_at(0, tunnel.row)
    assert_passed(rig, tunnel, b"".join(map(message, range(6))))
