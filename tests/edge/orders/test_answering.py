"""Every order of events around answers of the gateway's own that a client's socket does not take at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.edge import refusal
from gateway.edge.refusal import refusal_bytes

from .exchange_steps import ANSWER_2, GET_2, End, answers
from .messages import request
from .play import Backend, Play, Scene, Step, close, connect, fin, passes, reset, send, take, try_every
from .tls import SUITES, TlsWorker, said_goodbye
from .worker import Worker

pytestmark = pytest.mark.either_build

BAD = b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"
STALL_SECONDS = 61


@pytest.fixture(params=["plain", *SUITES])
def worker(request: pytest.FixtureRequest) -> Iterator[Worker]:
    with Worker() if request.param == "plain" else TlsWorker(request.param) as worker:
        yield worker


def looping(worker: Worker) -> bytes:
    """A request that is refused, while the connection may stay."""
    return request(b"/1", fields=b"CDN-Loop: %b\r\n" % worker.edge.config.loop_mark)


LOOP = refusal_bytes(508, "this gateway has sent the request to itself", keep=True)


@pytest.fixture(autouse=True)
def date(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is always the same second."""
    date = LOOP.partition(b"Date: ")[2].partition(b"\r\n")[0]
    monkeypatch.setattr(refusal, "_date", lambda: date)


@pytest.mark.parametrize("room", [1, 100])
def test_a_slow_client_gets_all_of_an_answer_and_then_the_next(worker: Worker, room: int) -> None:
    def check(play: Play) -> None:
        assert play.client.received == LOOP + ANSWER_2
        assert [line["status"] for line in play.lines if line["event"] == "http"] == [508, 200]

    scene = Scene(
        [connect(looping(worker)), take(20), send(GET_2), take(50)], [Backend(answers(1))], check, slow_client=room
    )
    assert try_every(worker, scene) > 5


def test_the_last_answer_of_a_connection(worker: Worker) -> None:
    """What the client says meanwhile is not read, and does not turn the end into a reset."""

    def check(play: Play) -> None:
        head, _, body = bytes(play.client.received).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"Content-Length: %d\r\n" % len(body) in head
        assert play.client.ended == "fin"
        if isinstance(worker, TlsWorker):
            said_goodbye(play)

    scene = Scene([connect(BAD), take(20), send(b"more"), take(50)], [], check, slow_client=30)
    assert try_every(worker, scene) > 5


@pytest.mark.parametrize("end", [fin, close, reset])
@pytest.mark.parametrize("keeps", [True, False])
def test_a_client_that_leaves_meanwhile(worker: Worker, end: End, keeps: bool) -> None:
    """One that only has said all still gets all."""

    def check(play: Play) -> None:
        peer = play.client.peer
        assert peer is not None
        received = bytes(play.client.received)
        if keeps:
            assert LOOP.startswith(received)
            assert received == LOOP or end is not fin

    scene = Scene([connect(looping(worker) if keeps else BAD), take(20), end(), take(30)], [], check, slow_client=40)
    assert try_every(worker, scene) > 5


def test_a_client_that_takes_nothing(worker: Worker) -> None:
    """Its connection is reset when it has taken nothing for so long, not before."""
    stalls: list[Step] = [passes(STALL_SECONDS), passes(STALL_SECONDS)]

    def check(play: Play) -> None:
        received = bytes(play.client.received)
        assert LOOP.startswith(received)
        assert received == LOOP or play.client.ended == "reset"

    scene = Scene([connect(looping(worker)), take(20)], [], check, others={"clock": stalls}, slow_client=40)
    assert try_every(worker, scene) > 5


def test_the_deadline_moves_on_with_what_is_taken(worker: Worker) -> None:
    def almost(taken: int) -> Step:
        return passes(STALL_SECONDS - 3, lambda play, actor: len(actor.received) >= taken)

    def check(play: Play) -> None:
        assert play.client.received == LOOP

    scene = Scene(
        [connect(looping(worker)), take(20), almost(20), take(20), almost(40), take(20), almost(60)],
        [],
        check,
        slow_client=20,
    )
    assert try_every(worker, scene) > 5
