"""A worker is killed at every single step of what it does, and no byte goes wrong.

What a process does that outlives it is to write to the shared table and to call the kernel. So a worker that is killed
before the n-th of these, for each n, has been killed anywhere. This runs the pure sources, whatever the build: their
steps are those of the compiled ones, and here they can be counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import pytest
from websockets.frames import apply_mask

from gateway.tunnels.relay.owner import Nobody, Owner
from gateway.tunnels.relay.poller import RECEIVE_BUFFER_BYTES, Poller
from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    CLIENT,
    DIRTY,
    DRAIN,
    FRAME_LIMIT,
    GATE,
    ID,
    LIMITED,
    LIVE,
    MESSAGE_BURST_NS,
    MESSAGE_NS,
    NEVER,
    NEXT_MESSAGE_NS,
    SIDE_0,
    STATE,
)
from gateway.tunnels.table.table import Table
from tests.support.deadline import SOAK
from tests.support.frames import BINARY, CONTINUATION, PING, PONG, TEXT

from .harness import DESCRIPTORS, NS, WRITE_STALL_AFTER, Peer, Rig, Tunnel
from .pure import pure_modules
from .wire import closing as close_frame
from .wire import frame, split

pytestmark = pytest.mark.either_build

BOTH = (CLIENT, BACKEND_SIDE)


class Killed(BaseException):
    """The worker is no more."""


class Life:
    """How many steps a worker has left."""

    def __init__(self) -> None:
        self.left: int | None = None

    def step(self) -> None:
        if self.left == 0:
            raise Killed
        if self.left is not None:
            self.left -= 1


class Cells:
    """The shared table as a mortal sees it."""

    def __init__(self, cells: memoryview, life: Life) -> None:
        self._cells = cells
        self._step = life.step

    def __getitem__(self, key: int) -> int:
        return self._cells[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._step()
        self._cells[key] = value


modules = pure_modules()
kernel, relay, sweep = modules["kernel"], modules["relay"], modules["sweep"]


CALLS = (
    "recv",
    "recv_part",
    "send",
    "recv_wire",
    "send_wire",
    "send_bytes",
    "watch",
    "unwatch",
    "shut",
    "hang_up",
    "close",
)


class Kernel(kernel.Kernel):
    """The system calls of a mortal."""

    def __init__(self, epoll: Any, size: int, life: Life) -> None:
        super().__init__(epoll, size)
        for name in CALLS:
            setattr(self, name, self._mortal(getattr(super(), name), life))

    @staticmethod
    def _mortal(call: Callable[..., Any], life: Life) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            life.step()
            return call(*arguments)

        return step


class MortalPoller(Poller):
    """A poller over the pure relay."""

    def __init__(self, table: Table, cells: Any, life: Life, owner: Owner) -> None:
        super().__init__(table, DESCRIPTORS)
        self.kernel = Kernel(self._selector, RECEIVE_BUFFER_BYTES, life)
        self.relay = relay.Relay(self.kernel, cells, DESCRIPTORS)
        self.relay.owner = owner


class EndsOf(Nobody):
    """Reports ends to a rig, and has clients of lost backends get their Close frame at once."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def tunnel_ended(self, row: int) -> None:
        self._rig._ended(row)


class MortalRig(Rig):
    """A rig whose worker dies after so many steps."""

    def __init__(self) -> None:
        self.life = Life()
        self.deaths = 0
        self.dirty = False
        super().__init__(4)

    def make_worker(self) -> None:
        cells = Cells(self.table.cells, self.life)
        self.slice = modules["slice"].Slice(self.table, 0)
        self.slice.cells = self.slice.own = cells  # type: ignore[assignment]  # as good as
        self.poller = MortalPoller(self.table, cells, self.life, EndsOf(self))
        self.relay = self.poller.relay
        self.sweeper = sweep.Sweep(self.slice, self.relay)

    def sweep(self, now: int) -> None:
        self.mortally(lambda: self.sweeper.walk(now))

    def serve(self, seconds: float = 0) -> None:
        self.mortally(lambda: super(MortalRig, self).serve(seconds))

    def mortally(self, work: Callable[[], None]) -> bool:
        """Do something; if the worker dies of it, have a successor. Whether it was done."""
        try:
            work()
        except Killed:
            self.deaths += 1
            self.life.left = None
            self.dirty = any(self.cells[row + DIRTY] for row in self.table.rows())
            self.succeed()
            return False
        return True


# --- what a worker does -----------------------------------------------------------------------------------------------

KINDS = [(TEXT, 10, True), (BINARY, 200, False), (PING, 3, True), (CONTINUATION, 5, True), (PONG, 0, True)]
M = {side: [frame(kind, bytes(size), masked=side == CLIENT, fin=fin) for kind, size, fin in KINDS] for side in BOTH}
"""Messages of each side."""

CLOSE = {CLIENT: close_frame(1000, masked=True), BACKEND_SIDE: close_frame(1000, masked=False)}
NOT_FOR_US = {side: frame(PONG, b"8 bytes.", masked=side == CLIENT) for side in BOTH}
LARGE = {side: [frame(BINARY, bytes([n]) * 30_000, masked=side == CLIENT) for n in range(12)] for side in BOTH}


class Play:
    """One tunnel and its endpoints. Whatever an endpoint sends is noted, and it reads on to the end."""

    def __init__(self, rig: MortalRig, tunnel: Tunnel) -> None:
        self.rig = rig
        self.tunnel = tunnel
        self.sent = {side: b"" for side in BOTH}
        self.ended: set[int] = set()
        self.told: tuple[int, ...] = ()
        """sides to which the gateway writes a Close frame"""

    def peer(self, side: int) -> Peer:
        return self.tunnel.peer(side)

    def say(self, side: int, *pieces: bytes) -> None:
        """Send and be relayed, piece by piece."""
        for piece in pieces:
            if side in self.ended or self.peer(side).end:
                return
            while piece:
                took = self.put(side, piece)
                piece = piece[took:]
                if not took and not self.hear():
                    return

    def put(self, side: int, data: bytes) -> int:
        """Send what the socket takes, and have that relayed; how much it was."""
        took = 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            took = self.peer(side).send(data)
        self.sent[side] += data[:took]
        self.rig.rest()
        return took

    def hear(self, side: int | None = None, limit: int = 1 << 30) -> int:
        """Have a side read, or both; how much that was, and how much of what they had left to send they sent."""
        unsent = self.unsent()
        found = sum(self.peer(one).read(limit) for one in (BOTH if side is None else (side,)))
        self.rig.rest()
        return found + abs(unsent - self.unsent())

    def unsent(self) -> int:
        return sum(self.peer(side).unsent for side in BOTH)

    def end(self, side: int, how: str) -> None:
        self.ended.add(side)
        getattr(self.peer(side), how)()
        if how == "close":
            self.peer(side).end = "closed"
        self.rig.rest()

    def be_asked(self, side: int) -> list[bytes]:
        """Have the gateway send a side a Ping; the Pong to answer it with, if it did. Nobody else hears of these."""
        self.hear()
        received = self.peer(side).received
        before = len(received)
        self.act(lambda: self.rig.relay.ping(self.tunnel.row, side))
        self.hear(side)
        ping = bytes(received[before:])
        del received[before:]
        if not ping:
            return []
        assert ping[0] == 0x80 | PING
        payload = ping[2:] if side == CLIENT else apply_mask(ping[6:], ping[2:6])
        return [frame(PONG, payload, masked=side == CLIENT)]

    def answer(self, side: int, *pieces: bytes) -> None:
        """Send what is for the gateway alone, piece by piece."""
        noted = self.sent[side]
        self.say(side, *pieces)
        self.sent[side] = noted

    def act(self, work: Callable[[], None]) -> None:
        """Have the worker do something, once more if it died of it."""
        if self.tunnel_lives():
            self.rig.mortally(work) or (self.tunnel_lives() and self.rig.mortally(work))
            self.rig.rest()

    def tunnel_lives(self) -> bool:
        return self.rig.cells[self.tunnel.row + STATE] == LIVE and self.tunnel.cell(ID) == self.tunnel.id


def messages(play: Play) -> None:
    for side in BOTH:
        play.say(side, *M[side])
    for side in BOTH:
        whole = b"".join(M[side])
        play.say(side, whole[:1], whole[1:13], whole[13:14], whole[14:40], whole[40:])


def close_handshake(play: Play) -> None:
    play.say(CLIENT, M[CLIENT][0], CLOSE[CLIENT][:3], CLOSE[CLIENT][3:])
    play.say(BACKEND_SIDE, M[BACKEND_SIDE][0], CLOSE[BACKEND_SIDE])
    play.end(BACKEND_SIDE, "half_close")
    play.end(CLIENT, "half_close")


def half_close(play: Play) -> None:
    play.say(CLIENT, M[CLIENT][0])
    play.end(CLIENT, "half_close")
    play.say(BACKEND_SIDE, *M[BACKEND_SIDE])
    play.end(BACKEND_SIDE, "half_close")


def reader_that_stalls(play: Play) -> None:
    play.say(BACKEND_SIDE, *LARGE[BACKEND_SIDE][:2])
    for side in BOTH:
        for piece in LARGE[side]:
            took = play.put(side, piece)
            if took < len(piece):
                play.say(side, piece[took:])
                break
    while play.hear(limit=20_000):
        pass
    play.say(BACKEND_SIDE, b"")
    play.say(CLIENT, b"")


def gone(play: Play) -> None:
    play.say(BACKEND_SIDE, *M[BACKEND_SIDE])
    play.end(BACKEND_SIDE, "close")
    play.say(CLIENT, M[CLIENT][0], M[CLIENT][0])
    play.end(CLIENT, "half_close")


def closed_by_the_gateway(play: Play) -> None:
    play.say(CLIENT, M[CLIENT][0])
    play.told = BOTH
    play.act(lambda: play.rig.relay.close_tunnel(play.tunnel.row, 1012, DRAIN))
    play.say(CLIENT, M[CLIENT][0])
    for side in BOTH:
        play.say(side, CLOSE[side])


def closed_by_the_gateway_within_frames(play: Play) -> None:
    for side in BOTH:
        play.say(side, M[side][1][:50])
    play.told = BOTH
    play.act(lambda: play.rig.relay.close_tunnel(play.tunnel.row, 1012, DRAIN))
    for side in BOTH:
        play.say(side, M[side][1][50:100], M[side][1][100:] + M[side][2])
    for side in BOTH:
        play.say(side, CLOSE[side])


def kept_alive(play: Play) -> None:
    for side in BOTH:
        play.say(side, M[side][0])
        for pong in play.be_asked(side):
            play.answer(side, pong)
        for pong in play.be_asked(side):
            play.answer(side, pong[:1], pong[1:9], pong[9:])
        play.say(side, M[side][1])
        for pong in play.be_asked(side):
            play.say(side, M[side][3][:3], M[side][3][3:])
            play.say(side, NOT_FOR_US[side][:9], NOT_FOR_US[side][9:])
            play.answer(side, pong[:5], pong[5:])
        assert play.rig.deaths or play.rig.totals(side).pongs == 3
    for side in BOTH:
        play.say(side, M[side][2], M[side][4])


def idle(play: Play) -> None:
    play.say(CLIENT, M[CLIENT][0])
    play.told = BOTH
    later = play.rig.relay.now + 100 * NS
    play.act(lambda: play.rig.sweeper.walk(later))
    play.act(lambda: play.rig.sweeper.walk(later + 100 * NS))


def given_up_on(play: Play) -> None:
    for piece in LARGE[BACKEND_SIDE]:
        if play.put(BACKEND_SIDE, piece) < len(piece):
            break
    play.told = (BACKEND_SIDE,)
    later = play.rig.relay.now + 2 * WRITE_STALL_AFTER
    play.act(lambda: play.rig.sweeper.walk(later))
    play.end(BACKEND_SIDE, "half_close")


def too_large(play: Play) -> None:
    """A header comes byte by byte, and is held back until it turns out to be refused."""
    for side in BOTH:
        play.tunnel.write_side(side, FRAME_LIMIT, 1000)
        play.tunnel.write_side(side, GATE, LIMITED)
    for side in BOTH:
        play.say(side, *M[side])
    play.told = BOTH
    refused = frame(BINARY, bytes(2000), masked=True)
    play.say(CLIENT, M[CLIENT][0][:3], M[CLIENT][0][3:] + refused[:1], refused[1:7], refused[7:8], refused[8:])
    for side in BOTH:
        play.say(side, CLOSE[side])


def metered(play: Play) -> None:
    """The client's messages wait until they are paid for."""
    play.tunnel.write_side(CLIENT, FRAME_LIMIT, NEVER)
    play.tunnel.write_side(BACKEND_SIDE, GATE, LIMITED)
    play.tunnel.write_side(CLIENT, MESSAGE_NS, 3600 * NS)
    play.tunnel.write_side(CLIENT, MESSAGE_BURST_NS, 2 * 3600 * NS)
    play.act(lambda: play.rig.relay._ask_anew(play.tunnel.row + SIDE_0))  # for the events of such a side
    play.say(CLIENT, *M[CLIENT], *M[CLIENT])
    play.say(BACKEND_SIDE, *M[BACKEND_SIDE])
    for _ in range(6):
        if play.tunnel_lives():
            play.tunnel.write_side(CLIENT, NEXT_MESSAGE_NS, 0)
        play.act(lambda: play.rig.relay.wake_at(0, play.tunnel.row))
        play.rig.serve()
        play.hear()
    for side in BOTH:
        play.end(side, "half_close")


SCENARIOS = [
    messages,
    close_handshake,
    half_close,
    reader_that_stalls,
    gone,
    closed_by_the_gateway,
    closed_by_the_gateway_within_frames,
    kept_alive,
    idle,
    given_up_on,
    too_large,
    metered,
]


AT_ANY_PACE = (reader_that_stalls, given_up_on)
"""Scenarios in which it depends on the kernel how much is sent."""


class Outcome(NamedTuple):
    died: bool
    dirty: bool
    """whether the tunnel was, as the worker died"""
    lost: bool
    frames: list[dict[int, int]]
    """from each side, by opcode"""


def play(
    scenario: Callable[[Play], None], steps: int | None, tls: Sequence[str | None] = (), engines: Any = None
) -> Outcome:
    """Play a scenario with a worker that has so many steps to live; check every byte.

    :param tls: as of ``Rig.open``; ``engines`` likewise
    """
    with closing(MortalRig()) as rig:
        tunnel = rig.open("unix", buffers=8192, idle=60 * NS, tls=tls, engines=engines)
        rig.life.left = steps
        stage = Play(rig, tunnel)
        scenario(stage)
        while stage.hear():
            pass
        rig.life.left = None
        lost = any(end.cause == "worker_lost" for end in rig.ends)
        for side in BOTH:
            check(stage, side, bytes(tunnel.peer(side).received), stage.sent[1 - side], lost)
            if not lost and not stage.told:
                assert rig.totals(side).bytes == len(stage.sent[side])
        assert rig.totals(CLIENT).violations == rig.totals(BACKEND_SIDE).violations == 0
        return Outcome(rig.deaths > 0, rig.dirty, lost, [rig.totals(side).frames for side in BOTH])


def check(stage: Play, side: int, received: bytes, sent: bytes, lost: bool) -> None:
    """Whether what a side received is what the other sent: all of it, or up to where it was cut or closed."""
    if side in stage.told and not (lost and sent.startswith(received)):
        # The gateway's own Close frame comes last, behind whole frames.
        *frames, last = split(received)
        assert last[0] == 0x88
        assert frames == split(sent)[: len(frames)]
    else:
        assert sent.startswith(received)
        assert received == sent or lost or stage.told or stage.peer(side).end == "closed"
    if lost:
        assert stage.peer(side).end


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_every_step(scenario: Callable[[Play], None]) -> None:
    kill_at_every_step(scenario, play)


ALL_OF_THE_FIRST, STRIDE = 60, 4
"""Steps before which a worker is killed: all of those, then every fourth, as each message takes the same steps again.
With ``GATEWAY_SOAK=1`` all of them."""


def kill_at_every_step(
    scenario: Callable[[Play], None], play: Callable[[Callable[[Play], None], int | None], Outcome]
) -> None:
    """Play a scenario over and over, with a worker that is killed before another step each time."""
    undisturbed = play(scenario, None)
    assert not undisturbed.died
    assert not undisturbed.lost
    outcomes = []
    steps = 0
    while True:
        outcome = play(scenario, steps)
        if not outcome.died:
            break
        assert outcome.lost == outcome.dirty, f"killed before step {steps}"
        assert outcome.lost or scenario in AT_ANY_PACE or outcome.frames == undisturbed.frames
        outcomes.append(outcome)
        steps += 1 if SOAK or steps < ALL_OF_THE_FIRST else STRIDE
    assert len(outcomes) >= 20
    assert any(outcome.lost for outcome in outcomes)
    assert not all(outcome.lost for outcome in outcomes)
