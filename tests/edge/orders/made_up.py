"""Scenes that are made up at random: what two clients ask, what backends answer, and what comes between."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from .messages import HEAD_END, chunked, request, requests_in
from .play import (
    LATER,
    Actor,
    Backend,
    Play,
    Scene,
    Step,
    accept,
    close,
    connect,
    fin,
    passes,
    refuse,
    reset,
    send,
    take,
)
from .sockets import EVERYTHING

ENDS = (fin, close, reset)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
EARLY, AHEAD = b"said early by the backend", b"said ahead by the client"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
CLIENTS = ("client", "other")


class Ask(NamedTuple):
    """A request of a client's."""

    path: bytes
    method: bytes
    data: bytes
    body: bytes
    upgrades: bool = False


class Reply(NamedTuple):
    """What a backend answers to a path."""

    data: bytes
    """as it sends it"""
    seen: bytes
    """the final answer as a client that stays sees it"""
    interim: bytes
    closes: bool
    """whether the backend closes behind it"""
    ends_client: bool
    """whether only the end of the client's connection can show where it ends"""
    early: bool
    """whether it comes when the request's head is there"""


@dataclass
class Made:
    """A scene that was made up."""

    scene: Scene
    asks: dict[str, list[Ask]]
    """by client"""
    replies: dict[bytes, Reply]
    calm: bool
    """whether nothing breaks off: each request gets its answer"""


def make(seed: int) -> Made:
    """Make up a scene."""
    rng = random.Random(seed)
    asks = {name: _asks(10 * place, rng) for place, name in enumerate(CLIENTS[: rng.choice((1, 1, 2))])}
    all_asks = [one for asked in asks.values() for one in asked]
    replies = {one.path: _reply(one, rng) for one in all_asks}
    makes = _Makes(rng, replies)
    slow = rng.choice((0, 0, 0, 250, 400))
    clients = {name: makes.client(asked, slow if name == "client" else 0) for name, asked in asks.items()}
    backends = [makes.backend(len(all_asks)) for _ in range(2 * len(all_asks) + 2)]
    scene = Scene(
        clients.pop("client"),
        backends,
        others=makes.others(),
        clients=clients,
        slow_client=slow,
        in_bytes=rng.choice((EVERYTHING, EVERYTHING, 3000, 65_536)),
        midst=rng.choice((0, 0, 1, 3)),
        forget=rng.random() < 0.5,
    )
    return Made(scene, asks, replies, makes.calm and not any(one.early for one in replies.values()))


def _asks(first: int, rng: random.Random) -> list[Ask]:
    found = [_ask(b"/%d" % (first + number), rng) for number in range(rng.randrange(1, 4))]
    if rng.random() < 0.2:
        path = b"/%d" % (first + 9)
        data = request(path, fields=b"Connection: Upgrade\r\nUpgrade: raw\r\n") + AHEAD
        found.append(Ask(path, b"GET", data, b"", True))
    return found


def _ask(path: bytes, rng: random.Random) -> Ask:
    kind = rng.choice(("get", "get", "head", "post", "chunks", "expect"))
    body = bytes(rng.choices(b"abcdefgh", k=rng.choice((1, 30, 300, 300, 200_000 if rng.random() < 0.1 else 3000))))
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


def _reply(one: Ask, rng: random.Random) -> Reply:
    if one.upgrades:
        return Reply(SWITCH + EARLY, SWITCH + EARLY, b"", False, True, False)
    kind = rng.choice(("length", "length", "chunks", "none", "until close", "close"))
    body = b"answer to " + one.path + b"." * rng.choice((0, 0, 100, 1000, 200_000 if rng.random() < 0.1 else 0))
    line = b"HTTP/1.1 200 OK\r\n"
    if kind == "chunks":
        data = seen = line + b"Transfer-Encoding: chunked\r\n\r\n"
        body = chunked(body[:5], body[5:])
    elif kind == "none":
        data = seen = b"HTTP/1.1 204 No Content\r\nX: %b\r\n\r\n" % one.path
        body = b""
    elif kind == "until close":
        data = seen = line + b"\r\n"
    else:
        data = seen = line + b"Content-Length: %d\r\n\r\n" % len(body)
        if kind == "close":
            data = line + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    if one.method == b"HEAD":
        body = b""
        seen = line + b"\r\n" if kind == "chunks" else seen
    interim = rng.choice((b"", b"", INTERIM))
    closes = kind in ("close", "until close")
    ends_client = kind == "until close" and one.method != b"HEAD"
    return Reply(interim + data + body, seen + body, interim, closes, ends_client, rng.random() < 0.1)


class _Makes:
    """Makes up what everyone does."""

    def __init__(self, rng: random.Random, replies: dict[bytes, Reply]) -> None:
        self.calm = True
        self._rng = rng
        self._replies = replies

    def client(self, asks: list[Ask], slow: int) -> list[Step]:
        rng = self._rng
        steps = [connect()]
        waits = rng.random() < 0.5
        for number, one in enumerate(asks):
            when = _after_answers(number if waits else 0)
            steps += [send(piece, when) for piece in _cut(one.data, rng)]
        if slow:
            for _ in range(rng.randrange(4)):
                steps.insert(rng.randrange(1, len(steps) + 1), take(rng.randrange(1, 600)))
        self._may_end(steps, 1)
        return steps

    def backend(self, requests: int) -> Backend:
        rng = self._rng
        connects = rng.choice((0, 0, 0, LATER))
        steps: list[Step] = []
        if connects:
            steps.append(rng.choice((accept, accept, accept, refuse))())
            self.calm = self.calm and steps[0].name != "refuses"
        for number in range(requests):
            steps += self._answer(number)
        self._may_end(steps, 0)
        room = rng.choice((0, 0, 0, 50, 500))
        if room:
            for _ in range(rng.randrange(4)):
                steps.insert(rng.randrange(len(steps)) + 1, take(rng.randrange(1, 200)))
        return Backend(steps, connects, room)

    def others(self) -> dict[str, list[Step]]:
        found = {}
        if self._rng.random() < 0.2:
            found["clock"] = [passes(self._rng.choice((1, 6, 16, 61, 80)))]
            self.calm = False
        if self._rng.random() < 0.1:
            found["operator"] = [Step("drains", lambda play, actor: play.worker.edge.drain(60, 1012))]
            self.calm = False
        return found

    def _may_end(self, steps: list[Step], first: int) -> None:
        if self._rng.random() < 0.15:
            steps.insert(self._rng.randrange(first, len(steps) + 1), self._rng.choice(ENDS)())
            self.calm = False

    def _answer(self, number: int) -> list[Step]:
        """Steps of a backend that answers its n-th request, in pieces."""
        shares = sorted(self._rng.random() for _ in range(self._rng.randrange(3)))

        def mine(actor: Actor) -> Reply | None:
            seen = requests_in(actor.received)
            if len(seen) <= number or not seen[number].fields:
                return None
            found = self._replies[seen[number].path]
            return found if found.early or seen[number].whole else None

        def piece(a: float, b: float) -> Step:
            def do(play: Play, actor: Actor) -> None:
                assert actor.peer is not None
                found = mine(actor)
                assert found is not None
                data = found.data
                if not actor.peer.said_all:
                    actor.peer.send(data[int(a * len(data)) : int(b * len(data))])
                    if b == 1 and found.closes:
                        actor.peer.fin()

            return Step(f"answers request {number} up to {b:.2f}", do, lambda play, actor: mine(actor) is not None)

        return [piece(a, b) for a, b in itertools.pairwise([0.0, *shares, 1.0])]


def _cut(data: bytes, rng: random.Random) -> list[bytes]:
    """Cut at random places, the head more than the body."""
    end = min(len(data), data.index(HEAD_END) + rng.choice((10, 1000)))
    places = sorted(rng.randrange(1, end) for _ in range(rng.randrange(4)))
    return [piece for piece in (data[a:b] for a, b in itertools.pairwise([0, *places, len(data)])) if piece]


def _after_answers(count: int) -> Callable[[Play, Actor], bool]:
    """Once so many final answers to the client have begun, or the end has come."""

    def when(play: Play, actor: Actor) -> bool:
        begun = actor.received.count(b"HTTP/1.1 ") - actor.received.count(b"HTTP/1.1 10")
        return begun >= count or actor.ended != ""

    return when
