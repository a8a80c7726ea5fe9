"""Every order of events around requests and upgrades of clients with TLS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .exchange_steps import ANSWER_1, ANSWER_2, ANSWER_3, BODY, GET_1, GET_2, GET_3, all_of, answers, bodies_are, got
from .messages import answer, post, request
from .play import Backend, Scene, Step, after, close, connect, fin, pieces, reset, send, take, try_every
from .tls import SUITES, TlsPeer, TlsWorker, said_goodbye, wire_pieces
from .upgrade_steps import AHEAD, ASKED, EARLY, WEBSOCKET, WEBSOCKET_ANSWER, opened

pytestmark = pytest.mark.either_build


@pytest.fixture(params=SUITES)
def worker(request: pytest.FixtureRequest) -> Iterator[TlsWorker]:
    with TlsWorker(request.param) as worker:
        yield worker


@pytest.mark.parametrize("cut", [1, 4, 5, 6, 20, -1])
def test_a_request_in_two_pieces_of_a_record(worker: TlsWorker, cut: int) -> None:
    scene = Scene([connect(), *wire_pieces(GET_1, cut), send(GET_2)], [Backend(answers(2))], got(ANSWER_1, ANSWER_2))
    assert try_every(worker, scene) > 5


@pytest.mark.parametrize("midst", [0, 2])
def test_requests_at_any_time(worker: TlsWorker, midst: int) -> None:
    scene = Scene(
        [connect(GET_1), send(GET_2), send(GET_3)],
        [Backend(answers(3))],
        got(ANSWER_1, ANSWER_2, ANSWER_3),
        midst=midst,
    )
    assert try_every(worker, scene) > 5


def test_a_body_in_records(worker: TlsWorker) -> None:
    whole = post(b"/x", BODY)
    scene = Scene(
        [connect(), *pieces(whole, len(whole) - 40, len(whole) - 10), send(GET_2)],
        [Backend(answers(2))],
        all_of(got(answer(b"/x"), ANSWER_2), bodies_are(BODY, b"")),
    )
    try_every(worker, scene)


def test_a_body_for_a_slow_backend(worker: TlsWorker) -> None:
    whole = post(b"/x", BODY)
    scene = Scene(
        [connect(whole[:-40]), send(whole[-40:])],
        [Backend([take(30), *answers(1)], slow=60)],
        all_of(got(answer(b"/x")), bodies_are(BODY)),
    )
    try_every(worker, scene)


@pytest.mark.parametrize("room", [1, 40])
def test_a_slow_client(worker: TlsWorker, room: int) -> None:
    """Records are cut by its socket, and none is sealed twice."""
    scene = Scene(
        [connect(GET_1), take(20), send(GET_2)],
        [Backend([*pieces(ANSWER_1, 30, len(ANSWER_1) - 5, when=after(GET_1[:5])), *answers(1, first=1)])],
        got(ANSWER_1, ANSWER_2),
        slow_client=room,
    )
    try_every(worker, scene)


def test_close_notify_behind_a_request_is_the_end_of_it(worker: TlsWorker) -> None:
    """As FIN is: a client that closes wants no answer."""

    def check(play) -> None:
        assert play.client.received in (b"", ANSWER_1)
        http = [line for line in play.lines if line["event"] == "http"]
        assert len(http) <= 1

    scene = Scene([connect(), send(GET_1), fin()], [Backend(answers(1))], check)
    try_every(worker, scene)


def _close_notify_alone() -> Step:
    def do(play, actor) -> None:
        peer = actor.peer
        assert isinstance(peer, TlsPeer)
        if not peer.said_all:
            peer.send_wire(peer.end.close())

    return Step("sends close_notify without FIN", do)


@pytest.mark.parametrize("at_once", [False, True])
def test_close_notify_without_fin_ends_the_connection(worker: TlsWorker, at_once: bool) -> None:
    """Also where it comes in one piece with a request: epoll has nothing more to report then."""
    steps = [connect(GET_1), _close_notify_alone()] if at_once else [connect(), send(GET_1), _close_notify_alone()]

    def check(play) -> None:
        assert play.client.received in (b"", ANSWER_1)
        peer = play.client.peer
        assert peer.ended
        if peer.ended == "fin":
            assert peer.heard_close

    try_every(worker, Scene(steps, [Backend(answers(1))], check))


def test_the_client_ends_between_requests(worker: TlsWorker) -> None:
    def check(play) -> None:
        assert play.client.received == ANSWER_1
        said_goodbye(play)

    scene = Scene([connect(GET_1), fin(after(ANSWER_1))], [Backend(answers(1))], check)
    try_every(worker, scene)


@pytest.mark.parametrize("end", [fin, close, reset])
def test_a_client_that_leaves_at_any_time(worker: TlsWorker, end) -> None:
    scene = Scene(
        [connect(), *wire_pieces(GET_1, 9), end()],
        [Backend(answers(1))],
        lambda play: None,  # nothing is left behind: that is looked at in the end of each run
    )
    try_every(worker, scene)


def test_a_refused_request(worker: TlsWorker) -> None:
    def check(play) -> None:
        assert play.client.received.startswith(b"HTTP/1.1 400 ")
        said_goodbye(play)

    scene = Scene([connect(), *pieces(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 20)], [], check)
    try_every(worker, scene)


# --- upgrades ---------------------------------------------------------------------------------------------------------


def test_an_upgrade(worker: TlsWorker) -> None:
    scene = Scene(
        [connect(), *pieces(WEBSOCKET, 40), send(AHEAD, after(WEBSOCKET_ANSWER))],
        [Backend([send(WEBSOCKET_ANSWER, ASKED), send(EARLY)])],
        opened(WEBSOCKET_ANSWER, AHEAD, EARLY),
    )
    try_every(worker, scene)


@pytest.mark.parametrize("cut", [3, 20, -1])
def test_messages_ahead_of_the_answer_cut_anywhere(worker: TlsWorker, cut: int) -> None:
    """Half a record waits with the connection, and goes to the relay with it."""
    scene = Scene(
        [connect(WEBSOCKET), *wire_pieces(AHEAD, cut)],
        [Backend([send(WEBSOCKET_ANSWER + EARLY, ASKED)])],
        opened(WEBSOCKET_ANSWER, AHEAD, EARLY),
    )
    try_every(worker, scene)


def test_an_upgrade_after_requests(worker: TlsWorker) -> None:
    scene = Scene(
        [connect(request(b"/1")), send(WEBSOCKET, after(ANSWER_1)), send(AHEAD)],
        [Backend(answers(1)), Backend([send(WEBSOCKET_ANSWER, ASKED), send(EARLY)])],
    )
    try_every(worker, scene)
