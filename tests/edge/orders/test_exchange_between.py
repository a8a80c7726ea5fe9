"""Every order of events around plain requests and what comes between: deadlines, a drain, other clients, an upgrade."""

from __future__ import annotations

import pytest

from .exchange_steps import (
    ANSWER_1,
    ANSWER_2,
    BODY,
    GET_1,
    GET_2,
    answers,
    asked,
    got,
    in_order,
)
from .messages import answer, post, request
from .play import (
    LATER,
    Actor,
    Backend,
    Play,
    Scene,
    Step,
    accept,
    after,
    connect,
    fin,
    passes,
    pieces,
    refuse,
    send,
    take,
    try_every,
)
from .worker import Worker

pytestmark = pytest.mark.either_build


# --- deadlines --------------------------------------------------------------------------------------------------------


def when_connected(play: Play, actor: Actor) -> bool:
    return bool(play.backends)


def test_no_answer_in_time(worker: Worker) -> None:
    for cut in (0, 10, len(ANSWER_1) - 5):
        scene = Scene(
            [connect(GET_1), send(GET_2)],
            [Backend([*pieces(ANSWER_1, cut, when=asked(1))] if cut else []), Backend(answers(2)), Backend(answers(2))],
            in_order(b"/1", b"/2", errors=(504,)),
            others={"clock": [passes(61, when_connected)]},
        )
        try_every(worker, scene)


def test_no_body_in_time(worker: Worker) -> None:
    whole = post(b"/1", BODY)
    scene = Scene(
        [connect(), *pieces(whole, len(whole) - 40, len(whole) - 20)],
        [Backend(answers(1))],
        in_order(b"/1", errors=(408, 504)),
        others={"clock": [passes(61, when_connected)]},
    )
    assert try_every(worker, scene) > 5


def test_a_client_that_takes_nothing(worker: Worker) -> None:
    scene = Scene(
        [connect(GET_1), take(10), take(20)],
        [Backend(pieces(ANSWER_1, 40, when=asked(1)))],
        in_order(b"/1", errors=(504,)),
        others={"clock": [passes(61, when_connected), passes(61)]},
        slow_client=30,
    )
    assert try_every(worker, scene) > 20


def test_a_backend_that_takes_nothing(worker: Worker) -> None:
    whole = post(b"/1", BODY * 4)
    scene = Scene(
        [connect(), *pieces(whole, 200)],
        [Backend([take(100), take(1000), *answers(1)], slow=100)],
        in_order(b"/1", errors=(504, 408)),
        others={"clock": [passes(61, when_connected)]},
    )
    assert try_every(worker, scene) > 20


def test_an_idle_connection_that_expires(worker: Worker) -> None:
    scene = Scene(
        [connect(GET_1), send(GET_2, after(ANSWER_1))],
        [Backend([*answers(2), fin()]), Backend(answers(1))],
        got(ANSWER_1, ANSWER_2, once=False),
        others={"clock": [passes(16, when_connected)]},
    )
    assert try_every(worker, scene) > 5


def test_connecting(worker: Worker) -> None:
    scene = Scene(
        [connect(GET_1), send(GET_2)],
        [Backend([refuse()], LATER), Backend([accept(), *answers(1)], LATER), Backend(answers(1))],
        in_order(b"/1", b"/2", errors=(502, 504), cuts=False),
        others={"clock": [passes(6, when_connected)]},
    )
    assert try_every(worker, scene) > 10


# --- in between -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of_backend", [False, True])
def test_a_drain(worker: Worker, of_backend: bool) -> None:
    def drain(play: Play, actor: object) -> None:
        if of_backend:
            play.worker.edge.drain_backends(frozenset((play.worker.number_of_backend,)), 60, 1012)
        else:
            play.worker.edge.drain(60, 1012)

    scene = Scene(
        [connect(GET_1), send(GET_2)],
        [Backend([*pieces(ANSWER_1, 10, when=asked(1)), *answers(1, first=1)]), Backend(answers(1))],
        in_order(b"/1", b"/2", errors=(503,), cuts=False),
        others={"operator": [Step("drains", drain)]},
    )
    assert try_every(worker, scene) > 10


def test_two_clients(worker: Worker) -> None:
    def check(play: Play) -> None:
        got(ANSWER_1, ANSWER_2, once=False)
        assert play.client.received == ANSWER_1 + ANSWER_2
        assert play.clients["other"].received == answer(b"/other")
        assert len([line for line in play.lines if line["event"] == "http"]) == 3

    scene = Scene(
        [connect(GET_1), send(GET_2)],
        [Backend(answers(3)), Backend(answers(3)), Backend(answers(3))],
        check,
        clients={"other": [connect(), send(request(b"/other"))]},
    )
    assert try_every(worker, scene) > 100


UPGRADE = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"


def test_an_upgrade_behind_requests(worker: Worker) -> None:
    def check(play: Play) -> None:
        assert play.client.received == ANSWER_1 + SWITCH + b"early"
        assert play.backends[-1].received.endswith(b"\r\n\r\nahead")
        assert play.line("http")["status"] == 200
        assert play.line("handshake")["result"] == "upgraded"

    scene = Scene(
        [connect(GET_1), send(UPGRADE), send(b"ahead")],
        [Backend(answers(1)), Backend([send(SWITCH, after(b"/chat", b"\r\n\r\n")), send(b"early")])],
        check,
    )
    assert try_every(worker, scene) > 20
