"""Any requests over any connections, cut, delayed, broken off anywhere: scenes that are made up at random.

``GATEWAY_SOAK=1`` has many more of them. A scene that fails is found again by its number.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pytest

from tests.support.deadline import SOAK

from .choices import Choices
from .messages import HEAD_END, chunked, messages, request, requests_in
from .play import (
    LATER,
    Actor,
    Backend,
    Play,
    Scene,
    Step,
    accept,
    after,
    close,
    connect,
    fin,
    passes,
    refuse,
    reset,
    send,
    take,
)
from .worker import Worker

pytestmark = [pytest.mark.either_build, pytest.mark.timeout(3600 if SOAK else 60)]

SCENES = 20_000 if SOAK else 600
ENDS = (fin, close, reset)
ERRORS = (408, 502, 503, 504)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as worker:
        yield worker


class Ask(NamedTuple):
    """A request of the client's."""

    path: bytes
    method: bytes
    data: bytes
    body: bytes


class Reply(NamedTuple):
    """What a backend answers to a path."""

    data: bytes
    """as it sends it"""
    seen: bytes
    """the final answer as a client that stays sees it"""
    interim: bytes
    ends: bool
    """whether the backend closes behind it"""
    early: bool
    """whether it comes when the request's head is there"""


def ask(number: int, rng: random.Random) -> Ask:
    kind = rng.choice(("get", "get", "head", "post", "chunks", "expect"))
    path = b"/%d" % number
    body = bytes(rng.choices(b"abcdefgh", k=rng.choice((1, 30, 300))))
    if kind in ("get", "head"):
        return Ask(path, kind.upper().encode(), request(path, kind.upper().encode()), b"")
    if kind == "chunks":
        cut = rng.randrange(1, len(body) + 1)
        framed = chunked(*[piece for piece in (body[:cut], body[cut:]) if piece])
        return Ask(path, b"POST", request(path, b"POST", b"Transfer-Encoding: chunked\r\n", framed), body)
    fields = b"Content-Length: %d\r\n" % len(body)
    if kind == "expect":
        fields += b"Expect: 100-continue\r\n"
    return Ask(path, b"POST", request(path, b"POST", fields, body), body)


def reply(path: bytes, method: bytes, rng: random.Random) -> Reply:
    kind = rng.choice(("length", "length", "chunks", "none", "until close", "close"))
    body = b"answer to " + path + b"." * rng.choice((0, 0, 100, 1000))
    line = b"HTTP/1.1 200 OK\r\n"
    ends = False
    if kind == "length":
        data = seen = line + b"Content-Length: %d\r\n\r\n" % len(body)
    elif kind == "chunks":
        data = seen = line + b"Transfer-Encoding: chunked\r\n\r\n"
        body = chunked(body[:5], body[5:])
    elif kind == "none":
        data = seen = b"HTTP/1.1 204 No Content\r\nX: %b\r\n\r\n" % path
        body = b""
    elif kind == "close":
        data = line + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
        seen = line + b"Content-Length: %d\r\n\r\n" % len(body)
        ends = True
    else:
        data = line + HEAD_END[2:]
        seen = line + HEAD_END[2:]
        ends = True
    if method == b"HEAD":
        body = b""
        seen = line + b"\r\n" if kind == "chunks" else seen
    interim = rng.choice((b"", b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"))
    return Reply(interim + data + body, seen + body, interim, ends, rng.random() < 0.15)


def cut(data: bytes, rng: random.Random, most: int) -> list[bytes]:
    """Cut at random places."""
    places = sorted(rng.randrange(1, len(data)) for _ in range(rng.randrange(most + 1))) if len(data) > 1 else []
    return [piece for piece in (data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)) if piece]


@dataclass
class Made:
    """A scene that was made up."""

    scene: Scene
    asks: list[Ask]
    replies: dict[bytes, Reply]
    calm: bool
    """whether nothing breaks off: each request gets its answer"""


def make(seed: int) -> Made:
    rng = random.Random(seed)
    asks = [ask(number, rng) for number in range(1, rng.randrange(2, 5))]
    replies = {one.path: reply(one.path, one.method, rng) for one in asks}
    calm = True

    steps = [connect()]
    waits = rng.random() < 0.5
    for number, one in enumerate(asks):
        when = after_answers(number) if waits else after()
        steps += [send(piece, when) for piece in cut(one.data, rng, 3)]
    slow = rng.choice((0, 0, 0, 250, 400))
    if slow:
        for _ in range(rng.randrange(4)):
            steps.insert(rng.randrange(1, len(steps) + 1), take(rng.randrange(1, 600)))
    if rng.random() < 0.2:
        steps.insert(rng.randrange(1, len(steps) + 1), rng.choice(ENDS)())
        calm = False

    backends = []
    for _ in range(2 * len(asks) + 2):
        connects = rng.choice((0, 0, 0, LATER))
        does: list[Step] = [rng.choice((accept, accept, accept, refuse))()] if connects else []
        if does and does[0].name == "refuses":
            calm = False
        for number in range(len(asks)):
            does += answer(number, replies, rng)
        if rng.random() < 0.2:
            does.insert(rng.randrange(len(does)) + 1, rng.choice(ENDS)())
            calm = False
        room = rng.choice((0, 0, 0, 50, 500))
        if room:
            for _ in range(rng.randrange(4)):
                does.insert(rng.randrange(len(does)) + 1, take(rng.randrange(1, 200)))
        backends.append(Backend(does, connects, room))

    others: dict[str, list[Step]] = {}
    if rng.random() < 0.2:
        others["clock"] = [passes(rng.choice((1, 6, 16, 61, 80)))]
        calm = False
    if rng.random() < 0.1:
        others["operator"] = [Step("drains", lambda play, actor: play.worker.edge.drain(60, 1012))]
        calm = False
    if any(one.early for one in replies.values()):
        calm = False
    scene = Scene(
        steps, backends, others=others, slow_client=slow, midst=rng.choice((0, 0, 1, 3)), forget=rng.random() < 0.5
    )
    made = Made(scene, asks, replies, calm)
    scene.check = lambda play: check(play, made)
    return made


def after_answers(count: int) -> object:
    """Once so many final answers to the client have begun, or the end has come."""

    def when(play: Play, actor: Actor) -> bool:
        begun = actor.received.count(b"HTTP/1.1 ") - actor.received.count(b"HTTP/1.1 10")
        return begun >= count or actor.ended != ""

    return when


def answer(number: int, replies: dict[bytes, Reply], rng: random.Random) -> list[Step]:
    """Steps of a backend that answers its n-th request, in pieces."""
    shares = sorted(rng.random() for _ in range(rng.randrange(3)))
    bounds = [0.0, *shares, 1.0]

    def mine(actor: Actor) -> Reply | None:
        seen = requests_in(actor.received)
        if len(seen) <= number or not seen[number].fields:
            return None
        found = replies[seen[number].path]
        return found if found.early or seen[number].whole else None

    def piece(a: float, b: float) -> Step:
        def do(play: Play, actor: Actor) -> None:
            assert actor.peer is not None
            found = mine(actor)
            assert found is not None
            data = found.data
            if not actor.peer.said_all:
                actor.peer.send(data[int(a * len(data)) : int(b * len(data))])
                if b == 1 and found.ends:
                    actor.peer.fin()

        return Step(f"answers request {number} up to {b:.2f}", do, lambda play, actor: mine(actor) is not None)

    return [piece(a, b) for a, b in itertools.pairwise(bounds)]


def check(play: Play, made: Made) -> None:
    """Each answer is the one to its request, and each request went on once."""
    data = play.client.received
    http = [line for line in play.lines if line["event"] == "http"]
    assert len(http) <= len(made.asks)
    whole = 0
    for one in made.asks:
        found = made.replies[one.path]
        while data.startswith(b"HTTP/1.1 103 ") and HEAD_END in data:
            assert data.startswith(found.interim)
            data = data[len(found.interim) :]
        if not data:
            break
        size = matches(data, found.seen)
        if size:
            data = data[size:]
            whole += 1
            continue
        size = refusal(data, one.method)
        if size:
            assert not made.calm, data[:200]
            data = data[size:]
            continue
        # It broke off: nothing is behind it, and the client can see that.
        slow_error = play.scene.slow_client and is_error(data)
        assert begins(data, found.seen) or found.interim.startswith(data) or slow_error, data
        assert play.client.ended or play.client.peer.gone, data
        assert not made.calm
        if b"Transfer-Encoding" not in found.data and b"Content-Length" not in found.data and HEAD_END in data:
            ended_well = any(backend.peer.said_all and not backend.peer.was_reset for backend in play.backends)
            assert play.client.ended == "reset" or play.client.peer.gone or ended_well, "it looks whole"
        break
    else:
        assert not data, data[:200]
    if made.calm:
        assert len(http) >= whole
        replies = [made.replies[one.path] for one in made.asks]
        ends = [
            n
            for n, found in enumerate(replies)
            if found.ends and b"Content-Length" not in found.data and made.asks[n].method != b"HEAD"
        ]
        expected = ends[0] + 1 if ends else len(replies)
        assert whole == expected, (whole, expected)
    sent_on(play, made)


def matches(data: bytes, seen: bytes) -> int:
    """How much of the client's stream is a whole answer; it may say that the connection is closed. 0 for none."""
    head, _, body = seen.partition(HEAD_END)
    for option in (b"", b"\r\nConnection: close"):
        whole = head + option + HEAD_END + body
        if data.startswith(whole):
            return len(whole)
    return 0


def begins(data: bytes, seen: bytes) -> bool:
    head, _, body = seen.partition(HEAD_END)
    return any((head + option + HEAD_END + body).startswith(data) for option in (b"", b"\r\nConnection: close"))


def is_error(data: bytes) -> bool:
    """Whether the client's stream goes on with an answer of the gateway's own, or with how one begins."""
    return any(data.startswith((b"HTTP/1.1 %d " % status)[: len(data)]) for status in ERRORS)


def refusal(data: bytes, method: bytes) -> int:
    """How much of the client's stream is an answer of the gateway's own."""
    if not is_error(data) or HEAD_END not in data:
        return 0
    if method == b"HEAD" and b"the request's head did not come" not in data:
        return data.find(HEAD_END) + 4
    first = messages(data)[0]
    assert b"text/plain" in first.fields[b"content-type"]
    return len(first.framed) if first.whole else 0


def sent_on(play: Play, made: Made) -> None:
    """What may not be repeated was sent once; bodies are what was sent, as far as they came."""
    asks = {one.path: one for one in made.asks}
    posts = []
    for backend in play.backends:
        for message in requests_in(backend.received):
            if not message.fields:
                continue
            one = asks[message.path]
            assert message.line.startswith(one.method + b" ")
            assert one.body.startswith(message.body)
            assert not message.whole or message.body == one.body
            if one.method == b"POST":
                posts.append(one.path)
    assert len(posts) == len(set(posts)), posts


@pytest.mark.parametrize("part", range(4))
def test_any_scene(part: int) -> None:
    with Worker() as worker:
        for seed in range(part, SCENES, 4):
            try:
                Play(worker, make(seed).scene, Choices([], random.Random(seed))).run()
            except BaseException as error:
                error.add_note(f"scene {seed}")
                raise
