"""A worker that relays TLS is killed at every single step: no byte goes wrong, and no nonce is used twice.

As ``test_killed.py``, with a record kept of each key and nonce that anything was sealed with, by the worker and by its
successor: AES-GCM and ChaCha20-Poly1305 lose all their security if two records share both (RFC 5116 3.1).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from gateway.protocol.tls.state import CHACHA20_POLY1305, IV, KEY, OUT, SEQ, SUITE, TLS13, VERSION
from gateway.tunnels.table.layout import BACKEND_SIDE, CLIENT
from tests.support.deadline import SOAK
from tests.support.frames import BINARY

from . import test_killed
from .test_killed import (
    BOTH,
    CLOSE,
    SCENARIOS,
    M,
    Outcome,
    Play,
    closed_by_the_gateway,
    gone,
    half_close,
    idle,
    kill_at_every_step,
    modules,
    reader_that_stalls,
)
from .tls_peers import TLS12, TlsPeer, with_own_records
from .tls_peers import TLS13 as TLS13_SUITE
from .wire import frame

pytestmark = pytest.mark.either_build

Protection = modules["protection"].Protection
Kind = tuple[str | None, str | None]
Seal = tuple[bytes, bytes]
"""Key and nonce of a record."""


@pytest.fixture
def sealed(monkeypatch: pytest.MonkeyPatch) -> list[Seal]:
    """All that the worker and its successor have sealed."""
    found: list[Seal] = []
    seal = Protection.seal

    def recorded(
        self: Any, cells: Any, at: int, kind: int, data: Any, start: int, end: int, sink: bytearray, sink_at: int
    ) -> int:
        size: int = seal(self, cells, at, kind, data, start, end, sink, sink_at)
        here = at + OUT
        key = cells[here + KEY : here + KEY + 4].tobytes()
        iv = cells[here + IV : here + IV + 2].tobytes()[:12]
        if cells[at + VERSION] == TLS13 or cells[at + SUITE] == CHACHA20_POLY1305:
            nonce = (int.from_bytes(iv, "big") ^ cells[here + SEQ]).to_bytes(12, "big")
        else:
            nonce = iv[:4] + bytes(sink[sink_at + 5 : sink_at + 13])  # as it is on the wire
        found.append((key, nonce))
        return size

    monkeypatch.setattr(Protection, "seal", recorded)
    return found


def own(play: Play, side: int) -> Any:
    peer = play.peer(side)
    assert isinstance(peer, TlsPeer)
    return peer


def put(play: Play, side: int, *wires: bytes) -> None:
    for wire in wires:
        if side in play.ended or play.peer(side).end:
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            own(play, side).put(wire)
        play.rig.rest()


def new_keys(play: Play) -> None:
    """Both endpoints change keys and ask for new ones, also in the middle of records."""
    for side in BOTH:
        engine = own(play, side).engine
        if engine.end[VERSION] != TLS13:
            play.say(side, M[side][0])
            continue
        for _ in range(2):
            message = M[side][0]
            play.sent[side] += message + M[side][2]
            wire = engine.seal(message) + engine.end.update_keys(1) + engine.seal(M[side][2])
            put(play, side, wire[:9], wire[9:-5], wire[-5:])
            play.say(1 - side, M[1 - side][0])
            play.hear()


def close_notify(play: Play) -> None:
    """Behind a message, and with no FIN; the other side goes on."""
    play.say(CLIENT, M[CLIENT][0])
    put(play, CLIENT, own(play, CLIENT).engine.close())
    play.ended.add(CLIENT)
    play.say(BACKEND_SIDE, M[BACKEND_SIDE][0], M[BACKEND_SIDE][1], CLOSE[BACKEND_SIDE])
    play.end(BACKEND_SIDE, "half_close")


def halves(play: Play) -> None:
    """Records that come in pieces, of both sides in turns."""
    for side in BOTH:
        message = frame(BINARY, bytes(200), masked=side == CLIENT)
        play.sent[side] += message * 2
        wire = own(play, side).engine.seal(message) + own(play, side).engine.seal(message)
        put(play, side, wire[:3], wire[3:100], wire[100:-40])
        play.say(1 - side, M[1 - side][0])
        put(play, side, wire[-40:])


KINDS = [(TLS13_SUITE, TLS12), (TLS12, TLS13_SUITE), (TLS13_SUITE, None), (None, TLS13_SUITE)]
QUICK_SCENARIOS = [reader_that_stalls, half_close, closed_by_the_gateway, idle, gone]
OWN_SCENARIOS = [new_keys, close_notify, halves]


def played_with(kind: Kind, sealed: list[Seal]) -> Callable[..., Outcome]:
    def play(scenario: Callable[[Play], None], steps: int | None) -> Outcome:
        sealed.clear()
        outcome = test_killed.play(scenario, steps, kind, with_own_records)
        twice = [seal for seal, times in Counter(sealed).items() if times > 1]
        assert not twice, f"a nonce was used twice, killed before step {steps}"
        assert sealed or outcome.died
        return outcome

    return play


QUICK = [
    *((scenario, KINDS[n % len(KINDS)]) for n, scenario in enumerate(QUICK_SCENARIOS)),
    *((scenario, KINDS[n % 2]) for n, scenario in enumerate(OWN_SCENARIOS)),
]
ALL = [
    *((scenario, kind) for scenario in SCENARIOS for kind in KINDS),
    *((scenario, kind) for scenario in OWN_SCENARIOS for kind in KINDS[:2]),
]


@pytest.mark.soak
@pytest.mark.parametrize(("scenario", "kind"), ALL if SOAK else QUICK)
def test_killed_at_every_step(scenario: Callable[[Play], None], kind: Kind, sealed: list[Seal]) -> None:
    kill_at_every_step(scenario, played_with(kind, sealed))
