"""Every order of events around plain requests: each is answered once, in order, with the bytes of its own answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .choices import cuts
from .exchange_steps import (
    ANSWER_1,
    ANSWER_2,
    ANSWER_3,
    BODY,
    GET_1,
    GET_2,
    GET_3,
    End,
    all_of,
    answers,
    asked,
    begun,
    bodies_are,
    got,
)
from .messages import answer, chunked, messages, post, post_chunked, request
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
    refuse,
    reset,
    send,
    take,
    try_every,
)
from .worker import Worker

pytestmark = pytest.mark.either_build


# --- requests one after another ---------------------------------------------------------------------------------------


def test_one_request(worker: Worker) -> None:
    scene = Scene([connect(), *pieces(GET_1, 10)], [Backend(answers(1))], got(ANSWER_1))
    assert try_every(worker, scene) > 1


@pytest.mark.parametrize("midst", [0, 2])
def test_requests_at_any_time(worker: Worker, midst: int) -> None:
    """Pipelined or not: each request may come before or after the answer to the previous one."""
    scene = Scene(
        [connect(GET_1), send(GET_2), send(GET_3)],
        [Backend(answers(3))],
        got(ANSWER_1, ANSWER_2, ANSWER_3),
        midst=midst,
    )
    assert try_every(worker, scene) > 5


@pytest.mark.parametrize("is_known", [False, True])
def test_an_answer_cut_anywhere(worker: Worker, is_known: bool) -> None:
    for cut in cuts(len(ANSWER_1), 2):
        scene = Scene(
            [connect(GET_1), send(GET_2)],
            [Backend([*pieces(ANSWER_1, cut, when=asked(1)), send(ANSWER_2, asked(2))])],
            got(ANSWER_1, ANSWER_2),
            forget=not is_known,
        )
        try_every(worker, scene)


def test_pipelined_requests_cut_anywhere(worker: Worker) -> None:
    for cut in cuts(len(GET_1 + GET_2), 2):
        first, second = pieces(GET_1 + GET_2, cut)
        scene = Scene([connect(), first, second], [Backend(answers(2))], got(ANSWER_1, ANSWER_2))
        try_every(worker, scene)


@pytest.mark.parametrize("body", [(BODY,), (BODY[:20], BODY[20:])], ids=["one chunk", "two chunks"])
def test_a_chunked_answer_cut_anywhere(worker: Worker, body: tuple[bytes, ...]) -> None:
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(*body)
    for cut in cuts(len(whole), 3):
        scene = Scene(
            [connect(GET_1), send(GET_2)],
            [Backend([*pieces(whole, cut, when=asked(1)), send(ANSWER_2, asked(2))])],
            got(whole, ANSWER_2),
        )
        try_every(worker, scene)


def test_interim_answers_cut_anywhere(worker: Worker) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    for cut in cuts(len(interim + ANSWER_1), 3):
        scene = Scene(
            [connect(GET_1), send(GET_2)],
            [Backend([*pieces(interim + ANSWER_1, cut, when=asked(1)), send(ANSWER_2, asked(2))])],
            got(interim, ANSWER_1, ANSWER_2),
        )
        try_every(worker, scene)


# --- bodies of requests -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [post, post_chunked])
def test_a_body_cut_anywhere(worker: Worker, make: Callable[[bytes, bytes], bytes]) -> None:
    whole = make(b"/1", BODY)
    head = whole.index(b"\r\n\r\n")
    for cut in range(head, len(whole + GET_2), 5):
        scene = Scene(
            [connect(), *pieces(whole + GET_2, cut)],
            [Backend(answers(2))],
            all_of(got(ANSWER_1, ANSWER_2), bodies_are(BODY, b"")),
        )
        try_every(worker, scene)


@pytest.mark.parametrize("make", [post, post_chunked])
@pytest.mark.parametrize("cut", [30, 60, 90, 120])
def test_a_body_that_goes_on_as_the_answer_before_it_ends(
    worker: Worker, make: Callable[[bytes, bytes], bytes], cut: int
) -> None:
    """What comes of a body in the turn in which its request's turn has come belongs to it as well."""
    whole = make(b"/2", BODY)
    first, second = ANSWER_1[: len(ANSWER_1) - 3], ANSWER_1[-3:]
    scene = Scene(
        [connect(GET_1 + whole[:cut]), send(whole[cut:-5]), send(whole[-5:])],
        [Backend([send(first, asked(1)), send(second), *answers(1, first=1)])],
        all_of(got(ANSWER_1, ANSWER_2), bodies_are(b"", BODY)),
    )
    try_every(worker, scene)


@pytest.mark.parametrize("make", [post, post_chunked])
def test_a_backend_that_takes_little_of_a_body(worker: Worker, make: Callable[[bytes, bytes], bytes]) -> None:
    whole = make(b"/1", BODY * 4)
    cut = whole.index(b"\r\n\r\n") + 60
    scene = Scene(
        [connect(), *pieces(whole + GET_2, cut, cut + 100)],
        [Backend([take(90), take(150), take(1000), *answers(2)], slow=140)],
        all_of(got(ANSWER_1, ANSWER_2), bodies_are(BODY * 4, b"")),
    )
    assert try_every(worker, scene) > 50


def test_a_body_while_the_backend_is_dialled(worker: Worker) -> None:
    whole = post(b"/1", BODY)
    scene = Scene(
        [connect(), *pieces(whole + GET_2, 20, len(whole) - 30, len(whole) - 10)],
        [Backend([accept(), *answers(2)], LATER)],
        all_of(got(ANSWER_1, ANSWER_2), bodies_are(BODY, b"")),
    )
    assert try_every(worker, scene) > 20


@pytest.mark.parametrize("make", [post, post_chunked])
def test_a_body_that_comes_when_the_request_before_it_is_refused(
    worker: Worker, make: Callable[[bytes, bytes], bytes]
) -> None:
    """In the same turn: it is of the request that begins then."""
    whole = make(b"/2", BODY)

    def check(play: Play) -> None:
        first, second, third = messages(play.client.received)
        assert (first.status, second.framed, third.framed) == (502, ANSWER_2, ANSWER_3)
        bodies_are(BODY, b"")(play)

    scene = Scene(
        [connect(GET_1), *pieces(whole + GET_3, len(whole) - 30, len(whole) - 10)],
        [Backend([refuse()], LATER), Backend(answers(2))],
        check,
    )
    assert try_every(worker, scene) > 20


@pytest.mark.parametrize("end", [fin, close, reset])
def test_a_client_that_leaves_when_the_request_before_is_refused(worker: Worker, end: End) -> None:
    """The next one has begun, and ends at once: nothing else would report the end of the connection again."""
    whole = post(b"/2", BODY)

    def check(play: Play) -> None:
        lines = [line for line in play.lines if line["event"] == "http"]
        assert [line["status"] for line in lines] in ([502, 499], [499], [502] if end is reset else [])
        assert lines[-1]["status"] == 502 or lines[-1]["initiator"] == "client"

    scene = Scene(
        [connect(GET_1), send(whole[:-10]), end()],
        [Backend([refuse()], LATER), Backend()],
        check,
    )
    assert try_every(worker, scene) > 5


def test_a_body_over_a_used_connection(worker: Worker) -> None:
    whole = post(b"/2", BODY)
    scene = Scene(
        [connect(GET_1), *pieces(whole + GET_3, len(whole) - 30, len(whole) - 10)],
        [Backend(answers(3))],
        all_of(got(ANSWER_1, ANSWER_2, ANSWER_3), bodies_are(b"", BODY, b"")),
    )
    assert try_every(worker, scene) > 20


def test_a_client_that_waits_for_100(worker: Worker) -> None:
    go_on = b"HTTP/1.1 100 Continue\r\n\r\n"
    head = request(b"/1", b"POST", b"Expect: 100-continue\r\nContent-Length: %d\r\n" % len(BODY))
    scene = Scene(
        [connect(head), *pieces(BODY, 30, when=after(b"100 Continue")), send(GET_2)],
        [Backend([send(go_on, begun()), *answers(2)])],
        all_of(got(go_on, ANSWER_1, ANSWER_2), bodies_are(BODY, b"")),
    )
    assert try_every(worker, scene) > 5


# --- sockets that take only some bytes --------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "chunks", "until close"])
def test_a_client_that_takes_little(worker: Worker, framing: str) -> None:
    ends: list[Step] = []
    if framing == "length":
        whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
    elif framing == "chunks":
        whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(BODY[:9], BODY[9:])
    else:
        whole = b"HTTP/1.1 200 OK\r\n\r\n" + BODY
        ends = [fin()]
    expected = [whole, ANSWER_2]
    if ends:
        expected = [whole.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")]

    scene = Scene(
        [connect(GET_1), send(GET_2), take(40), take(60)],
        [Backend([*pieces(whole, len(whole) - 70, when=asked(1)), *(ends or [send(ANSWER_2, asked(2))])])],
        got(*expected, ended="fin" if ends else None),
        slow_client=150,
    )
    assert try_every(worker, scene) > 50


def test_a_client_that_takes_little_and_sends_much(worker: Worker) -> None:
    """More comes ahead than is kept, while the answer waits for the client."""
    many = [request(b"/%d" % number, fields=b"X: %b\r\n" % (b"x" * 30_000)) for number in range(2, 5)]
    scene = Scene(
        [connect(GET_1), take(50), *pieces(b"".join(many), 10_000, 80_000)],
        [Backend(answers(4))],
        got(*(answer(b"/%d" % number) for number in range(1, 5))),
        slow_client=60,
    )
    assert try_every(worker, scene) > 20
