"""Pongs to Pings of the gateway's own: they are taken out of the streams, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.tunnels.table.layout import CLIENT, GATE, HELD, PASS, PINGED_NS, PINGS_ANSWERED, PONG_DUE, RTT_NS
from tests.support.frames import PING, PONG, TEXT

from .harness import Rig
from .own_pings import BOTH, CLOSE, FRAGMENTS, HELLO, LONG, answer, both_sides, ping, pong, send
from .wire import frame

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
