"""What clients, backends, the operator and the clock do to a worker, in every order and grouped into turns every way.

Each *actor* has a list of steps. Before each turn every actor takes some of its steps, none or more, as far as the
things that they wait for have happened; then the poller has a turn, whose events come in any order. All of that is
chosen (``choices.py``), and so a run per choice tries it all. Steps may also be taken in the midst of a turn, before
any of its system calls: peers do not wait for the gateway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from errno import EINPROGRESS
from itertools import pairwise, product
from typing import Any

from .choices import Choices, every
from .kernel import Event
from .sockets import EVERYTHING, Peer
from .worker import BACKEND, Line, Worker

MOST_ROUNDS = 300
MOST_RUNS = 20_000
STANDS, LATER = 0, EINPROGRESS
"""What becomes of an attempt to connect to a backend; an errno is the third."""


class Actor:
    """Someone who does something."""

    def __init__(self, name: str, steps: Sequence[Step], peer: Peer | None = None) -> None:
        self.name = name
        self.steps = list(steps)
        self.peer = peer
        self.done = 0

    @property
    def received(self) -> bytes:
        """What it has got."""
        return bytes(self.peer.received) if self.peer is not None else b""

    @property
    def ended(self) -> str:
        """How the stream that it gets ended; empty while it has not."""
        return self.peer.ended if self.peer is not None else ""

    def able(self, play: Play) -> int:
        """How many steps it could take now."""
        count = 0
        for step in self.steps[self.done :]:
            if not step.when(play, self):
                break
            count += 1
        return count

    def step(self, play: Play) -> None:
        step = self.steps[self.done]
        self.done += 1
        play.trace.append(f"{self.name} {step.name}")
        step.do(play, self)


@dataclass
class Step:
    """One thing that an actor does."""

    name: str
    do: Callable[[Play, Actor], object]
    when: Callable[[Play, Actor], bool] = lambda play, actor: True


@dataclass
class Backend:
    """One connection of a backend."""

    steps: Sequence[Step] = ()
    connects: int = STANDS
    slow: int = 0
    """bytes that the gateway's send buffer to it holds, if it takes only what it says"""


@dataclass
class Scene:
    """Who does what, and what must hold when all of it is done."""

    client: Sequence[Step]
    backends: Sequence[Backend] = ()
    """in the order in which they are connected to"""
    check: Callable[[Play], None] = lambda play: None
    seconds: Sequence[Backend] = ()
    """connections of the backend of the host ``second``"""
    others: dict[str, Sequence[Step]] = field(default_factory=dict)
    """what the clock, the operator and so on do"""
    clients: dict[str, Sequence[Step]] = field(default_factory=dict)
    """further ones"""
    slow_client: int = 0
    """bytes that the gateway's send buffer to the client holds, if the client takes only what it says"""
    in_bytes: int = EVERYTHING
    """what the gateway's receive buffers hold"""
    midst: int = 0
    """how many steps may be taken in the midst of turns"""
    forget: bool = True
    """whether heads that were read in the run before are forgotten"""


class Play:
    """One run of a scene."""

    def __init__(self, worker: Worker, scene: Scene, choices: Choices) -> None:
        self.worker = worker
        self.scene = scene
        self.trace: list[str] = []
        self.lines: list[Line] = []
        """of the access log"""
        self.client = Actor("client", scene.client, worker.client(room=scene.slow_client))
        self.clients = {name: Actor(name, steps, worker.client(name)) for name, steps in scene.clients.items()}
        self.backends: list[Actor] = []
        self.seconds: list[Actor] = []
        self._others = [Actor(name, steps) for name, steps in scene.others.items()]
        self._choices = choices
        self._midst = scene.midst

    @property
    def actors(self) -> list[Actor]:
        return [self.client, *self.clients.values(), *self.backends, *self.seconds, *self._others]

    def line(self, event: str) -> Line:
        """The one line of the log for an event."""
        found = [line for line in self.lines if line["event"] == event]
        assert len(found) == 1, found
        return found[0]

    # --- one run ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            self._begin()
            for _ in range(MOST_ROUNDS):
                if not self._round() and not self._let_all_take():
                    break
            else:
                raise AssertionError(f"after {MOST_ROUNDS} turns there is still something to do")
            self._flush()
            self._no_trouble()
            self.scene.check(self)
            self._end()
        except BaseException as error:
            error.add_note("what happened: " + "; ".join(self.trace))
            raise

    def _begin(self) -> None:
        worker, scene = self.worker, self.scene
        kernel = worker.kernel
        if scene.forget:
            worker.forget_heads()
        worker.put_in_force()
        worker.log.lines.clear()
        kernel.in_bytes = scene.in_bytes
        kernel.order = self._order
        kernel.before = self._before
        kernel.on_connect = self._connect

    def _round(self) -> bool:
        """Let actors take steps, and the poller have a turn. False if there is nothing left to do."""
        actors = self.actors
        ways = list(product(*(range(actor.able(self) + 1) for actor in actors)))
        if not self.worker.is_busy:
            ways = [way for way in ways if any(way)]
        if not ways:
            return False
        way = ways[self._choices.one_of(len(ways))]
        for actor, steps in zip(actors, way, strict=True):
            for _ in range(steps):
                actor.step(self)
        self.trace.append("turn")
        self.worker.turn()
        return True

    def _order(self, events: list[Event]) -> list[Event]:
        ordered = self._choices.order(events)
        self.trace.append(f"events: {', '.join(self._name_of(fd) for fd, _ in ordered)}")
        return ordered

    def _name_of(self, fd: int) -> str:
        for actor in self.actors:
            if actor.peer is not None and actor.peer.sock is not None and actor.peer.sock.fd == fd:
                return actor.name
        return "listener" if fd == self.worker.listening else str(fd)

    def _before(self, call: str, fd: int) -> None:
        if self._midst and fd >= 0:
            able = [actor for actor in self.actors if actor.peer is not None and actor.able(self)]
            chosen = self._choices.one_of(len(able) + 1)
            if chosen:
                self._midst -= 1
                self.trace.append(f"before {call} of {self._name_of(fd)}")
                able[chosen - 1].step(self)

    def _connect(self, address: Any, peer: Peer) -> int:
        is_first = address == BACKEND
        actors = self.backends if is_first else self.seconds
        backends = self.scene.backends if is_first else self.scene.seconds
        number = len(actors)
        assert number < len(backends), "one connection too many"
        backend = backends[number]
        actor = Actor(f"{'backend' if is_first else 'second backend'} {number}", backend.steps, peer)
        peer.name = actor.name
        peer.limit(backend.slow)
        actors.append(actor)
        return -1 if backend.connects == LATER else backend.connects

    # --- the end ------------------------------------------------------------------------------------------------------

    def _let_all_take(self) -> bool:
        """Nothing else happens any more: have the slow ones take all that there is. False if none is slow."""
        slow = [actor.peer for actor in self.actors if actor.peer is not None and actor.peer.slow]
        for peer in slow:
            peer.limit(0)
            peer.take()
        return bool(slow)

    def _flush(self) -> None:
        self.worker.edge.batch.flush()
        self.lines += self.worker.log.lines
        self.worker.log.lines.clear()

    def _no_trouble(self) -> None:
        worker = self.worker
        logged = [record.getMessage() for record in worker.failures.records]
        trouble = [*worker.kernel.mistakes, *logged, *worker.loop.errors]
        assert not trouble, trouble
        assert worker.failed_callbacks == 0

    def _end(self) -> None:
        """Everyone leaves, and nothing must be left."""
        self._midst = 0
        self.worker.kernel.order = lambda events: events
        for actor in self.actors:
            peer = actor.peer
            if peer is not None and not peer.gone and peer.sock is not None and not peer.sock.connecting:
                peer.close()
        self.worker.end()
        self._flush()
        self._no_trouble()
        leaks = self.worker.leaks()
        assert not leaks, leaks
        for event in ("http", "handshake"):
            ids = [line["request_id"] for line in self.lines if line["event"] == event and line.get("request_id")]
            assert len(ids) == len(set(ids)), "a request was logged twice"


def try_every(worker: Worker, scene: Scene, most: int = MOST_RUNS) -> int:
    """Run a scene in every way. :returns: how many those were"""
    return every(lambda choices: Play(worker, scene, choices).run(), most)


# --- steps ------------------------------------------------------------------------------------------------------------


def after(*texts: bytes) -> Callable[[Play, Actor], bool]:
    """Once the actor has got all of these texts."""
    return lambda play, actor: all(text in actor.received for text in texts)


def always(play: Play, actor: Actor) -> bool:
    return True


def connect(data: bytes = b"") -> Step:
    """Connect to the gateway. :param data: comes along"""

    def do(play: Play, actor: Actor) -> None:
        assert actor.peer is not None
        play.worker.kernel.connect_to(play.worker.listening, actor.peer)
        if data:
            actor.peer.send(data)

    return Step("connects", do)


def send(data: bytes, when: Callable[[Play, Actor], bool] = always) -> Step:
    """Send. What a connection that is gone would get is not sent."""
    return Step(f"sends {len(data)} bytes", lambda play, actor: _unless_over(actor, lambda peer: peer.send(data)), when)


def pieces(data: bytes, *cuts: int, when: Callable[[Play, Actor], bool] = always) -> list[Step]:
    """Send in pieces. :param cuts: where a piece ends"""
    ends = [0, *cuts, len(data)]
    return [send(data[a:b], when) for a, b in pairwise(ends)]


def fin(when: Callable[[Play, Actor], bool] = always) -> Step:
    """Send FIN."""
    return Step("sends FIN", lambda play, actor: _unless_over(actor, Peer.fin), when)


def close(when: Callable[[Play, Actor], bool] = always) -> Step:
    """Close the connection."""
    return Step("closes", lambda play, actor: _unless_over(actor, Peer.close), when)


def reset(when: Callable[[Play, Actor], bool] = always) -> Step:
    """Send a reset."""
    return Step("resets", lambda play, actor: _unless_over(actor, Peer.reset), when)


def take(count: int, when: Callable[[Play, Actor], bool] = always) -> Step:
    """Take some bytes of what the gateway has sent."""
    return Step(f"takes {count} bytes", lambda play, actor: actor.peer is not None and actor.peer.take(count), when)


def accept() -> Step:
    """Accept the gateway's connection."""
    return Step("accepts", lambda play, actor: actor.peer is not None and actor.peer.accept())


def refuse() -> Step:
    """Refuse it."""
    return Step("refuses", lambda play, actor: actor.peer is not None and actor.peer.refuse())


def passes(seconds: float, when: Callable[[Play, Actor], bool] = always) -> Step:
    """The clock's: time passes."""
    return Step(f"goes on by {seconds:g} s", lambda play, actor: play.worker.pass_time(seconds), when)


def _unless_over(actor: Actor, do: Callable[[Peer], None]) -> None:
    peer = actor.peer
    assert peer is not None
    if not peer.said_all:
        do(peer)
