"""Every order of events around an upgrade that comes to nothing, or that ends as it begins."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.config.address import parse_backend
from gateway.config.settings import Backend as BackendSettings
from gateway.observe.events import CLIENT_GONE

from .choices import cuts
from .play import (
    LATER,
    Backend,
    Play,
    Scene,
    Step,
    accept,
    close,
    connect,
    fin,
    passes,
    pieces,
    reset,
    send,
    take,
    try_every,
)
from .upgrade_steps import (
    AHEAD,
    ASKED,
    BOTH,
    DECLINED,
    DECLINED_AS_SENT,
    EARLY,
    RAW,
    RAW_ANSWER,
    behind_head,
    nothing_wrong,
    opened,
    refused,
)
from .worker import Worker

pytestmark = pytest.mark.either_build


# --- ends -------------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("end", [fin, close, reset])
def test_a_client_that_leaves(worker: Worker, request_: bytes, answer: bytes, end: Callable[[], Step]) -> None:
    def check(play: Play) -> None:
        nothing_wrong(answer, AHEAD, EARLY)(play)
        if play.line("handshake")["result"] == "upgraded" and end is fin:
            assert behind_head(play.backends[0].received).startswith(AHEAD)
            assert play.client.received.startswith(answer)

    scene = Scene(
        [connect(request_), send(AHEAD), end()],
        [Backend([send(answer, ASKED), send(EARLY)])],
        check,
    )
    assert try_every(worker, scene) > 10


@BOTH
@pytest.mark.parametrize("end", [fin, close, reset])
def test_a_backend_that_leaves(worker: Worker, request_: bytes, answer: bytes, end: Callable[[], Step]) -> None:
    def check(play: Play) -> None:
        if end is reset:
            nothing_wrong(answer, AHEAD, EARLY)(play)
        else:
            assert play.line("handshake")["result"] == "upgraded"
            assert play.client.received.startswith(answer + EARLY)
        if end is fin and answer is RAW_ANSWER:  # in the other protocol the client is told, and what it says dropped
            assert behind_head(play.backends[0].received).startswith(AHEAD)

    scene = Scene(
        [connect(request_), send(AHEAD)],
        [Backend([send(answer, ASKED), send(EARLY), end()])],
        check,
    )
    assert try_every(worker, scene) > 10


@pytest.mark.parametrize("end", [fin, close, reset])
def test_a_backend_that_leaves_within_its_answer(worker: Worker, end: Callable[[], Step]) -> None:
    for cut in (0, 1, 40, len(RAW_ANSWER) - 1):
        steps = [send(RAW_ANSWER[:cut], ASKED)] if cut else []
        scene = Scene(
            [connect(RAW), send(AHEAD)],
            [Backend([*steps, end()])],
            refused(502, "connect_error"),
        )
        try_every(worker, scene)


def test_no_answer_in_time(worker: Worker) -> None:
    def check(play: Play) -> None:
        if play.line("handshake")["result"] == "upgraded":
            opened(RAW_ANSWER, AHEAD, EARLY)(play)
        else:
            refused(504, "timeout")(play)

    scene = Scene(
        [connect(RAW), send(AHEAD)],
        [Backend([*pieces(RAW_ANSWER + EARLY, 20, when=ASKED)])],
        check,
        others={"clock": [passes(11, lambda play, actor: bool(play.backends))]},
    )
    assert try_every(worker, scene) > 5


# --- an answer of another kind ----------------------------------------------------------------------------------------


def declined(play: Play) -> None:
    assert play.line("handshake")["result"] == "refused_by_backend"
    assert play.client.received == DECLINED_AS_SENT
    assert play.client.ended == "fin"
    assert not behind_head(play.backends[0].received)


@BOTH
def test_a_declined_upgrade(worker: Worker, request_: bytes, answer: bytes) -> None:
    for cut in cuts(len(DECLINED), 3):
        scene = Scene(
            [connect(request_), send(AHEAD)],
            [Backend(pieces(DECLINED, cut, when=ASKED))],
            declined,
        )
        try_every(worker, scene)


@pytest.mark.parametrize("end", [fin, close, reset])
def test_a_declined_upgrade_whose_client_leaves(worker: Worker, end: Callable[[], Step]) -> None:
    def check(play: Play) -> None:
        assert DECLINED_AS_SENT.startswith(play.client.received)
        assert not behind_head(play.backends[0].received)
        assert play.line("handshake")["result"] in ("refused_by_backend", CLIENT_GONE)

    for cut in (1, 30, len(DECLINED) - 2):
        scene = Scene(
            [connect(RAW), send(AHEAD), end()],
            [Backend(pieces(DECLINED, cut, when=ASKED))],
            check,
        )
        try_every(worker, scene)


@pytest.mark.parametrize("end", [fin, reset])
def test_a_declined_upgrade_whose_backend_leaves(worker: Worker, end: Callable[[], Step]) -> None:
    until_close = b"HTTP/1.1 403 Forbidden\r\n\r\nsorry"
    as_sent = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\nsorry"

    def check(play: Play) -> None:
        got = play.client.received
        if end is fin:
            assert got == as_sent
            assert play.client.ended == "fin"
        elif not got.startswith(b"HTTP/1.1 502"):
            assert as_sent.startswith(got)
            assert play.client.ended == "reset"  # it must not look whole

    for cut in (1, 30, len(until_close) - 2):
        scene = Scene(
            [connect(RAW), send(AHEAD)],
            [Backend([*pieces(until_close, cut, when=ASKED), end()])],
            check,
        )
        try_every(worker, scene)


def test_a_declined_upgrade_whose_client_takes_little(worker: Worker) -> None:
    scene = Scene(
        [connect(RAW), send(AHEAD), take(30), take(40), take(1000)],
        [Backend(pieces(DECLINED, 50, when=ASKED))],
        declined,
        slow_client=50,
    )
    assert try_every(worker, scene) > 20


# --- draining ---------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("of_backend", [False, True])
def test_a_drain_in_between(worker: Worker, request_: bytes, answer: bytes, of_backend: bool) -> None:
    def drain(play: Play, actor: object) -> None:
        if of_backend:
            play.worker.edge.drain_backends(frozenset((play.worker.number_of_backend,)), 60, 1012)
        else:
            play.worker.edge.drain(60, 1012)

    def check(play: Play) -> None:
        if play.line("handshake")["result"] != "upgraded":
            refused(503, "unavailable")(play)
            assert not play.backends  # what a backend has begun is let finish
            return
        sent, drained = play.trace.index(f"client sends {len(AHEAD)} bytes"), play.trace.index("operator drains")
        if "turn" in play.trace[sent:drained]:
            opened(answer, AHEAD, EARLY)(play)
        else:
            nothing_wrong(answer, AHEAD, EARLY)(play)  # the tunnel was closed before that was read

    scene = Scene(
        [connect(request_), send(AHEAD)],
        [Backend(pieces(answer + EARLY, 20, when=ASKED))],
        check,
        others={"operator": [Step("drains", drain)]},
    )
    assert try_every(worker, scene) > 20


@BOTH
@pytest.mark.parametrize("is_there", [False, True])
def test_a_backend_is_replaced_while_it_is_dialled(
    worker: Worker, request_: bytes, answer: bytes, is_there: bool
) -> None:
    """By a discovery. If the connection does not stand yet, it may never do so: the backend is gone."""
    registry = worker._registry
    registry.admit_backends([("chat", "10.0.0.2:9001")])

    def replace(play: Play, actor: object) -> None:
        gone = frozenset((play.worker.number_of_backend,))
        found = BackendSettings(parse_backend("10.0.0.2:9001"), 1, None, backup=False, drain=False)
        play.worker.edge.use_backends({"chat": (found,)}, registry, gone)
        play.worker.edge.drain_backends(gone, 60, 1012)

    def check(play: Play) -> None:
        play.backends = play.seconds or play.backends
        assert play.client.received.startswith(answer)
        nothing_wrong(answer, AHEAD, EARLY)(play)  # a tunnel of the first one may be closed before all is read
        if not is_there:
            opened(answer, AHEAD, EARLY)(play)

    scene = Scene(
        [connect(request_), send(AHEAD)],
        [Backend([accept(), send(answer, ASKED), send(EARLY)] if is_there else [], LATER)],
        check,
        seconds=[Backend([send(answer, ASKED), send(EARLY)])],
        others={"discovery": [Step("replaces", replace)]},
    )
    assert try_every(worker, scene) > 5
