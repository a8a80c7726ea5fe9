"""Every order of events around plain requests whose connections end early, whichever they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.tunnels.relay.poller import Poller

from .choices import cuts
from .exchange_steps import (
    ANSWER_1,
    ANSWER_2,
    BODY,
    GET_1,
    GET_2,
    GET_3,
    End,
    answers,
    asked,
    at_most_once,
    before_next,
    begun,
    got,
    in_order,
)
from .messages import answer, chunked, messages, post, post_chunked, requests_in
from .play import (
    LATER,
    Backend,
    Play,
    Scene,
    Step,
    accept,
    after,
    close,
    connect,
    fin,
    pieces,
    reset,
    send,
    take,
    try_every,
)
from .worker import Worker

pytestmark = pytest.mark.either_build


# --- the end of connections -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [fin, close, reset])
def test_a_used_connection_that_ends(worker: Worker, end: End) -> None:
    """A request that may be repeated is answered, whenever the backend ends a connection that is idle."""
    scene = Scene(
        [connect(GET_1), send(GET_2, after(ANSWER_1))],
        [Backend([*answers(1), end()]), Backend(answers(1))],
        got(ANSWER_1, ANSWER_2, once=False),
        midst=1,
    )
    assert try_every(worker, scene) > 5


@pytest.mark.parametrize("end", [fin, close, reset])
def test_a_used_connection_that_ends_when_it_is_used(worker: Worker, end: End) -> None:
    scene = Scene(
        [connect(GET_1), send(GET_2, after(ANSWER_1))],
        [Backend([*answers(1), Step("end", end().do, begun(2))]), Backend(answers(1))],
        got(ANSWER_1, ANSWER_2, once=False),
    )
    assert try_every(worker, scene) >= 1


@pytest.mark.parametrize("end", [fin, close, reset])
def test_a_used_connection_that_ends_before_it_takes_the_request(worker: Worker, end: End) -> None:
    """What it did not take is not sent behind the request on the next connection."""

    def check(play: Play) -> None:
        got(ANSWER_1, ANSWER_2, once=False)(play)
        for backend in play.backends[1:]:
            assert [message.line for message in requests_in(backend.received)] == [b"GET /2 HTTP/1.1"]

    scene = Scene(
        [connect(GET_1), send(GET_2, after(ANSWER_1))],
        [
            Backend([take(99), take(99), take(99), *answers(1), end()], slow=99),
            Backend(pieces(ANSWER_2, 45, when=asked(1))),
        ],
        check,
    )
    assert try_every(worker, scene) > 10


@pytest.mark.parametrize("end", [fin, close, reset])
def test_a_used_connection_that_ends_under_a_body(worker: Worker, end: End) -> None:
    whole = post(b"/2", BODY)
    scene = Scene(
        [connect(GET_1), *pieces(whole, len(whole) - 30, when=after(ANSWER_1)), send(GET_3)],
        [Backend([*answers(1), end()]), Backend(answers(2)), Backend(answers(1))],
        in_order(b"/1", b"/2", b"/3", cuts=False),
    )
    assert try_every(worker, scene) > 5


@pytest.mark.parametrize("end", [fin, close, reset])
def test_a_backend_that_ends_anywhere(worker: Worker, end: End) -> None:
    for cut in cuts(len(ANSWER_1), 4, start=0):
        steps = [send(ANSWER_1[:cut], asked(1))] if cut else []
        scene = Scene(
            [connect(GET_1), send(GET_2)],
            [Backend([*steps, Step("end", end().do, asked(1))]), Backend(answers(1)), Backend(answers(1))],
            in_order(b"/1", b"/2"),
        )
        try_every(worker, scene)


@pytest.mark.parametrize("end", [fin, close, reset])
def test_a_backend_that_ends_within_chunks(worker: Worker, end: End) -> None:
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"answer to /1")
    for cut in range(40, len(whole), 3):
        scene = Scene(
            [connect(GET_1), send(GET_2)],
            [Backend([send(whole[:cut], asked(1)), end()]), Backend(answers(1))],
            in_order(b"/1", b"/2"),
        )
        try_every(worker, scene)


@pytest.mark.parametrize("http11", [True, False])
@pytest.mark.parametrize("end", [fin, close, reset])
def test_an_answer_that_ends_with_the_connection(worker: Worker, end: End, http11: bool) -> None:
    whole = b"HTTP/1.1 200 OK\r\n\r\nanswer to /1"
    as_sent = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nanswer to /1"

    def check(play: Play) -> None:
        if end is not reset:
            assert play.client.received == as_sent
            assert play.client.ended == "fin"
        elif not play.client.received.startswith(b"HTTP/1.1 502"):
            assert as_sent.startswith(play.client.received)
            assert play.client.ended == "reset"  # it must not look whole
        assert len(play.lines) == 1

    asks = GET_1 if http11 else b"GET /1 HTTP/1.0\r\nHost: a\r\n\r\n"
    for cut in cuts(len(whole), 3):
        scene = Scene(
            [connect(asks), send(GET_2)],
            [Backend([*pieces(whole, cut, when=asked(1)), end()])],
            check,
        )
        try_every(worker, scene)


def test_chunks_for_a_client_that_knows_none(worker: Worker) -> None:
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"answer", b" to /1")
    for cut in cuts(len(whole), 3):
        scene = Scene(
            [connect(b"GET /1 HTTP/1.0\r\nHost: a\r\n\r\n")],
            [Backend(pieces(whole, cut, when=asked(1)))],
            got(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nanswer to /1", ended="fin"),
        )
        try_every(worker, scene)


@pytest.mark.parametrize("end", [fin, close, reset])
def test_a_client_that_leaves(worker: Worker, end: End) -> None:
    """At any time; another one is served all the while."""

    def check(play: Play) -> None:
        assert (ANSWER_1 + ANSWER_2).startswith(play.client.received)
        at_most_once(play)

    scene = Scene(
        [connect(GET_1), send(GET_2), end()],
        [Backend(answers(2)), Backend(answers(2)), Backend(answers(2))],
        check,
    )
    assert try_every(worker, scene) > 10


@pytest.mark.parametrize("end", [fin, close, reset])
def test_a_client_that_leaves_within_its_body(worker: Worker, end: End) -> None:
    def check(play: Play) -> None:
        assert play.client.received == b""
        assert play.line("http")["status"] == 499
        assert play.line("http")["initiator"] == "client"
        for backend in play.backends:
            assert backend.ended
            assert not any(message.whole for message in requests_in(backend.received))

    for make in (post, post_chunked):
        whole = make(b"/1", BODY)
        scene = Scene(
            [connect(), *pieces(whole[:-10], 30, len(whole) - 40), end()],
            [Backend(answers(1)), Backend(answers(1))],
            check,
        )
        assert try_every(worker, scene) > 5


@pytest.mark.parametrize("end", [fin, close, reset])
def test_a_client_that_leaves_while_the_backend_is_dialled(worker: Worker, end: End) -> None:
    def check(play: Play) -> None:
        assert ANSWER_1.startswith(play.client.received)
        assert play.line("http")["status"] in (200, 499)

    scene = Scene([connect(GET_1), end()], [Backend([accept(), *answers(1)], LATER)], check)
    assert try_every(worker, scene) > 5


HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


@pytest.mark.parametrize("end", [fin, close, reset])
def test_nothing_comes_behind_a_part_of_an_interim_answer(worker: Worker, end: End) -> None:
    """The client takes a part of it, and the backend ends: an error there would be read as one of its fields."""

    def check(play: Play) -> None:
        received = play.client.received
        if not HINTS.startswith(received):
            assert received.startswith(HINTS)
            in_order(b"/1")(play)
        (line,) = [line for line in play.lines if line["event"] == "http"]
        assert line["status"] == 502

    scene = Scene([connect(GET_1)], [Backend([send(HINTS, begun()), end()])], check, slow_client=25)
    assert try_every(worker, scene) >= 1


def test_interim_answers_without_end(worker: Worker) -> None:
    def check(play: Play) -> None:
        *interim, last = messages(play.client.received)
        assert {message.line for message in interim} == {b"HTTP/1.1 103 Early Hints"}
        assert len(interim) * len(HINTS) <= 65536
        assert last.status == 502

    scene = Scene([connect(GET_1)], [Backend([send(HINTS * 4000, begun()), *answers(1)])], check)
    assert try_every(worker, scene) >= 1


@pytest.mark.parametrize("end", [fin, close, reset])
def test_a_slow_client_that_leaves(worker: Worker, end: End) -> None:
    def check(play: Play) -> None:
        assert ANSWER_1.startswith(play.client.received)

    scene = Scene(
        [connect(GET_1), take(20), end()],
        [Backend(pieces(ANSWER_1, 45, when=asked(1)))],
        check,
        slow_client=30,
    )
    assert try_every(worker, scene) > 10


# --- answers before the request is whole ------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [None, fin, close, reset])
@pytest.mark.parametrize("make", [post, post_chunked])
def test_an_early_answer(worker: Worker, make: Callable[[bytes, bytes], bytes], end: End | None) -> None:
    """The client gets the answer, whether the backend reads the rest of the body or not."""
    whole = make(b"/1", BODY)
    early = b"HTTP/1.1 413 Too Large\r\nContent-Length: 12\r\n\r\nanswer to /1"

    def check(play: Play) -> None:
        [seen] = messages(play.client.received)
        assert play.line("http")["status"] in (413, 502)
        if end is not reset:  # which may overtake the answer
            assert (seen.status, seen.body, seen.whole) == (413, b"answer to /1", True)

    scene = Scene(
        [connect(), *pieces(whole, len(whole) - 60, len(whole) - 20)],
        [Backend([send(early, begun()), *([end()] if end is not None else [])])],
        check,
    )
    assert try_every(worker, scene) > 5


def test_an_early_answer_that_comes_in_pieces(worker: Worker) -> None:
    whole = post(b"/1", BODY)

    def check(play: Play) -> None:
        [seen] = messages(play.client.received)
        assert (seen.body, seen.whole) == (b"answer to /1", True)
        assert play.line("http")["status"] == 200

    for cut in cuts(len(ANSWER_1), 6):
        scene = Scene(
            [connect(), *pieces(whole, len(whole) - 60, len(whole) - 20)],
            [Backend(pieces(ANSWER_1, cut, when=begun()))],
            check,
        )
        try_every(worker, scene)


@pytest.mark.parametrize("whole", [post(b"/1", BODY * 4), post_chunked(b"/1", BODY * 4)], ids=["length", "chunks"])
def test_an_early_answer_of_a_backend_that_takes_little(worker: Worker, whole: bytes) -> None:
    """It may come in the turn in which the backend's socket is found to be full."""

    def check(play: Play) -> None:
        assert [(one.body, one.whole) for one in messages(play.client.received)] == [(b"answer to /1", True)]
        assert play.line("http")["status"] == 200

    scene = Scene(
        [connect(), *pieces(whole, len(whole) - 300, len(whole) - 200)],
        [Backend([take(300), take(300), send(ANSWER_1, begun()), take(300)], slow=150)],
        check,
    )
    assert try_every(worker, scene) > 5


def test_this_sees_what_a_poller_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was received in a turn, for a reader whose place a callback takes before it gets that."""
    rewatch = Poller.rewatch

    def forgetful(poller: Poller, *arguments: Any) -> None:
        rewatch(poller, *arguments)

    monkeypatch.setattr(Poller, "rewatch", forgetful)
    with Worker() as worker, pytest.raises(AssertionError):
        test_an_early_answer_of_a_backend_that_takes_little(worker, post(b"/1", BODY * 4))


@pytest.mark.parametrize("make", [post, post_chunked])
def test_an_early_answer_that_is_reset(worker: Worker, make: Callable[[bytes, bytes], bytes]) -> None:
    """It ends with the connection, and must not look whole, whether the reset shows in sending or in receiving."""
    whole = make(b"/1", BODY)

    def check(play: Play) -> None:
        if not play.client.received.startswith(b"HTTP/1.1 502"):
            assert b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nanswer".startswith(play.client.received)
            assert play.client.ended == "reset"
            assert play.line("http")["cause"] == "reset"

    scene = Scene(
        [connect(), *pieces(whole, len(whole) - 60, len(whole) - 20)],
        [Backend([send(b"HTTP/1.1 200 OK\r\n\r\nanswer", begun()), reset()])],
        check,
    )
    assert try_every(worker, scene) > 5


# --- what comes unasked -----------------------------------------------------------------------------------------------


def test_bytes_behind_an_answer(worker: Worker) -> None:
    """They are nobody's: not the next client's, on whichever connection."""
    scene = Scene(
        [connect(GET_1), send(GET_2)],
        [
            Backend([send(ANSWER_1, asked(1)), send(answer(b"/poison"), before_next)]),
            Backend(answers(2)),
            Backend(answers(2)),
        ],
        in_order(b"/1", b"/2", cuts=False),
    )
    assert try_every(worker, scene) > 5
