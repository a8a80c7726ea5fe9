"""Any requests over any connections, cut, delayed, broken off anywhere: scenes that are made up at random.

``GATEWAY_SOAK=1`` has many more of them. A scene that fails is found again by its number.
"""

from __future__ import annotations

import random

import pytest

from tests.support.deadline import SOAK

from .choices import Choices
from .made_up import AHEAD, SWITCH, Ask, Made, make
from .messages import HEAD_END, messages, requests_in
from .play import Actor, Play
from .worker import Worker

pytestmark = [pytest.mark.either_build, pytest.mark.timeout(3600 if SOAK else 300)]

SCENES = 16_000 if SOAK else 800
PARTS = 4
ERRORS = (408, 502, 503, 504)


@pytest.mark.parametrize("part", range(PARTS))
def test_any_scene(part: int) -> None:
    with Worker() as worker:
        for seed in range(part, SCENES, PARTS):
            made = make(seed)
            made.scene.check = lambda play, made=made: check(play, made)
            try:
                Play(worker, made.scene, Choices([], random.Random(seed))).run()
            except BaseException as error:
                error.add_note(f"scene {seed}")
                raise


def check(play: Play, made: Made) -> None:
    """Each answer is the one to its request, and each request went on once."""
    actors = {"client": play.client, **play.clients}
    answered = sum(got_answers(play, actors[name], asks, made) for name, asks in made.asks.items())
    all_asks = [one for asks in made.asks.values() for one in asks]
    logged = [line for line in play.lines if line["event"] in ("http", "handshake")]
    assert answered <= len(logged) <= len(all_asks)
    sent_on(play, {one.path: one for one in all_asks}, made.calm)


def got_answers(play: Play, client: Actor, asks: list[Ask], made: Made) -> int:
    """Look at what a client got. :returns: how many answers, those of the gateway's own too"""
    assert client.peer is not None
    data = client.received
    answered = 0
    for one in asks:
        reply = made.replies[one.path]
        while data.startswith(b"HTTP/1.1 103 ") and HEAD_END in data:
            assert data.startswith(reply.interim)
            data = data[len(reply.interim) :]
        if not data:
            break
        size = matches(data, reply.seen) or refusal(data, one.method)
        if not size:
            broke_off(play, client, data, one, made)
            break
        assert not made.calm or matches(data, reply.seen), data[:200]
        answered += 1
        data = data[size:]
        if made.calm and reply.ends_client:
            assert not data
            assert one.upgrades or client.ended == "fin"
            return answered
    else:
        assert not data, data[:200]
    assert not made.calm or answered == len(asks)
    return answered


def broke_off(play: Play, client: Actor, data: bytes, one: Ask, made: Made) -> None:
    """An answer broke off: nothing is behind it, and the client can see that."""
    reply = made.replies[one.path]
    assert client.peer is not None
    error_to_slow_client = client is play.client and play.scene.slow_client and is_error(data)
    assert begins(data, reply.seen) or reply.interim.startswith(data) or error_to_slow_client, data[:200]
    assert client.ended or client.peer.gone or data.startswith(SWITCH), data[:200]
    assert not made.calm
    if reply.ends_client and not one.upgrades and HEAD_END in data:
        peers = [backend.peer for backend in play.backends if backend.peer is not None]
        ended_well = any(peer.said_all and not peer.was_reset for peer in peers)
        assert client.ended == "reset" or client.peer.gone or ended_well, "it looks whole"


def matches(data: bytes, seen: bytes) -> int:
    """How much of the client's stream is a whole answer; it may say that the connection is closed. 0 for none."""
    return next((len(whole) for whole in either_way(seen) if data.startswith(whole)), 0)


def begins(data: bytes, seen: bytes) -> bool:
    """Whether the client's stream is the beginning of an answer."""
    return any(whole.startswith(data) for whole in either_way(seen))


def either_way(seen: bytes) -> list[bytes]:
    """An answer to a client that stays, and to one that does not."""
    head, _, body = seen.partition(HEAD_END)
    return [seen, head + b"\r\nConnection: close" + HEAD_END + body]


def is_error(data: bytes) -> bool:
    """Whether the client's stream goes on with an answer of the gateway's own, or with how one begins."""
    return any(data.startswith((b"HTTP/1.1 %d " % status)[: len(data)]) for status in ERRORS)


def refusal(data: bytes, method: bytes) -> int:
    """How much of the client's stream is an answer of the gateway's own."""
    if not is_error(data) or HEAD_END not in data:
        return 0
    if method == b"HEAD" and not data.startswith(b"HTTP/1.1 408 "):  # whose method was not read
        return data.find(HEAD_END) + 4
    first = messages(data)[0]
    assert b"text/plain" in first.fields[b"content-type"]
    return len(first.framed) if first.whole else 0


def sent_on(play: Play, asks: dict[bytes, Ask], calm: bool) -> None:
    """What may not be repeated was sent once; bodies are what was sent, as far as they came."""
    once = []
    for backend in play.backends:
        head, end, behind = backend.received.partition(HEAD_END)
        if end and b"\r\nUpgrade: raw\r\n" in head + end:
            assert AHEAD.startswith(behind)
            assert not calm or behind == AHEAD
            continue
        for message in requests_in(backend.received):
            if not message.fields:
                continue
            one = asks[message.path]
            assert message.line == b"%b %b HTTP/1.1" % (one.method, one.path)
            assert one.body.startswith(message.body)
            assert not message.whole or message.body == one.body
            if one.method == b"POST":
                once.append(one.path)
    assert len(once) == len(set(once)), once
