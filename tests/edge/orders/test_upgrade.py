"""Every order of events around an upgrade: no byte is lost, doubled or out of place, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.edge.client import MAX_AHEAD_BYTES
from gateway.tunnels.quotas.rows import CountedRows
from gateway.tunnels.relay.poller import Poller

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
    refuse,
    reset,
    send,
    take,
    try_every,
)
from .upgrade_steps import (
    AHEAD,
    ASKED,
    BOTH,
    EARLY,
    RAW,
    RAW_ANSWER,
    nothing_wrong,
    opened,
    refused,
)
from .worker import Worker

pytestmark = pytest.mark.either_build


# --- bytes that come early --------------------------------------------------------------------------------------------


@BOTH
def test_bytes_that_both_send_ahead(worker: Worker, request_: bytes, answer: bytes) -> None:
    scene = Scene(
        [connect(request_), send(AHEAD), send(AHEAD)],
        [Backend([send(answer, ASKED), send(EARLY)])],
        opened(answer, 2 * AHEAD, EARLY),
    )
    assert try_every(worker, scene) > 20


def test_this_sees_what_a_poller_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was received in a turn, for a reader that is let go before it gets that."""
    let_go = Poller.let_go

    def forgetful(poller: Poller, fd: int) -> None:
        let_go(poller, fd)

    monkeypatch.setattr(Poller, "let_go", forgetful)
    with Worker() as worker, pytest.raises(AssertionError):
        test_bytes_that_both_send_ahead(worker, RAW, RAW_ANSWER)


def test_this_sees_a_tunnel_that_stays_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The route limits the tunnels of each client, and leaves no count behind in any order of events."""
    monkeypatch.setattr(CountedRows, "released", lambda self, row: None)
    with Worker() as worker, pytest.raises(AssertionError, match="counted"):
        test_bytes_that_both_send_ahead(worker, RAW, RAW_ANSWER)


@BOTH
def test_in_the_midst_of_turns(worker: Worker, request_: bytes, answer: bytes) -> None:
    """A peer sends between two system calls of the gateway's."""
    scene = Scene(
        [connect(request_), send(AHEAD), send(AHEAD)],
        [Backend([send(answer, ASKED), send(EARLY)])],
        opened(answer, 2 * AHEAD, EARLY),
        midst=2,
    )
    assert try_every(worker, scene) > 200


@BOTH
@pytest.mark.parametrize("is_known", [False, True])
def test_an_answer_cut_anywhere(worker: Worker, request_: bytes, answer: bytes, is_known: bool) -> None:
    for cut in cuts(len(answer) + len(EARLY), 1 if not is_known else 7):
        scene = Scene(
            [connect(request_), send(AHEAD)],
            [Backend(pieces(answer + EARLY, cut, when=ASKED))],
            opened(answer, AHEAD, EARLY),
            forget=not is_known,
        )
        try_every(worker, scene)


@BOTH
def test_a_request_cut_anywhere(worker: Worker, request_: bytes, answer: bytes) -> None:
    for cut in cuts(len(request_) + len(AHEAD), 3):
        first, *rest = pieces(request_ + AHEAD, cut)
        scene = Scene(
            [connect(), first, *rest],
            [Backend([send(answer, ASKED), send(EARLY)])],
            opened(answer, AHEAD, EARLY),
        )
        try_every(worker, scene)


def test_interim_answers(worker: Worker) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    for cut in cuts(len(interim) + len(RAW_ANSWER), 5):
        scene = Scene(
            [connect(RAW), send(AHEAD)],
            [Backend(pieces(interim + RAW_ANSWER + EARLY, cut, when=ASKED))],
            opened(interim + RAW_ANSWER, AHEAD, EARLY),
        )
        try_every(worker, scene)


@pytest.mark.parametrize("extra", [-1, 0, 1, MAX_AHEAD_BYTES])
def test_more_ahead_than_is_kept(worker: Worker, extra: int) -> None:
    ahead = bytes(range(251)) * (MAX_AHEAD_BYTES // 251 + 1)
    ahead = (ahead * 3)[: MAX_AHEAD_BYTES + extra]
    scene = Scene(
        [connect(RAW), *pieces(ahead + AHEAD, 1000, len(ahead))],
        [Backend([send(RAW_ANSWER, ASKED), send(EARLY)])],
        opened(RAW_ANSWER, ahead + AHEAD, EARLY),
    )
    try_every(worker, scene)


# --- sockets that take only some bytes --------------------------------------------------------------------------------


@BOTH
def test_a_backend_that_takes_little(worker: Worker, request_: bytes, answer: bytes) -> None:
    scene = Scene(
        [connect(request_), send(AHEAD)],
        [Backend([take(100), take(150), take(1000), send(answer, ASKED), send(EARLY)], slow=150)],
        opened(answer, AHEAD, EARLY),
    )
    assert try_every(worker, scene) > 20


@BOTH
def test_a_client_that_takes_little(worker: Worker, request_: bytes, answer: bytes) -> None:
    scene = Scene(
        [connect(request_), send(AHEAD), take(30), take(40)],
        [Backend([send(answer, ASKED), send(EARLY)])],
        opened(answer, AHEAD, EARLY),
        slow_client=50,
    )
    assert try_every(worker, scene) > 20


# --- connecting -------------------------------------------------------------------------------------------------------


@BOTH
def test_a_connection_that_stands_later(worker: Worker, request_: bytes, answer: bytes) -> None:
    scene = Scene(
        [connect(request_), send(AHEAD)],
        [Backend([accept(), send(answer, ASKED), send(EARLY)], LATER)],
        opened(answer, AHEAD, EARLY),
    )
    assert try_every(worker, scene) > 5


@pytest.mark.parametrize("end", [fin, close, reset])
def test_a_client_that_leaves_while_the_backend_is_dialled(worker: Worker, end: Callable[[], Step]) -> None:
    scene = Scene(
        [connect(RAW), send(AHEAD), end()],
        [Backend([accept(), send(RAW_ANSWER, ASKED)], LATER)],
        nothing_wrong(RAW_ANSWER, AHEAD, b""),
    )
    assert try_every(worker, scene) > 5


def test_a_backend_that_refuses_later(worker: Worker) -> None:
    scene = Scene([connect(RAW), send(AHEAD)], [Backend([refuse()], LATER)], refused(502, "connect_error"))
    assert try_every(worker, scene) > 2


def test_no_connection_in_time(worker: Worker) -> None:
    scene = Scene(
        [connect(RAW), send(AHEAD)],
        [Backend([], LATER)],
        refused(504, "timeout"),
        others={"clock": [passes(6, lambda play, actor: bool(play.backends))]},
    )
    assert try_every(worker, scene) > 2


def test_a_connection_just_before_its_deadline(worker: Worker) -> None:
    def check(play: Play) -> None:
        if play.line("handshake")["result"] == "upgraded":
            opened(RAW_ANSWER, AHEAD)(play)
        else:
            refused(504, "timeout")(play)

    scene = Scene(
        [connect(RAW), send(AHEAD)],
        [Backend([accept(), send(RAW_ANSWER, ASKED)], LATER)],
        check,
        others={"clock": [passes(6), passes(11)]},
    )
    assert try_every(worker, scene) > 5
