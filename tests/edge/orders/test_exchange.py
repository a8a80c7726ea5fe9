"""Every order of events around plain requests: each is answered once, in order, with the bytes of its own answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from .messages import answer, chunked, messages, post, post_chunked, request, requests_in
from .play import (
    LATER,
    Actor,
    Backend,
    Play,
    Scene,
    Step,
    accept,
    after,
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
from .worker import Worker

pytestmark = pytest.mark.either_build

GET_1, GET_2, GET_3 = (request(b"/%d" % number) for number in (1, 2, 3))
ANSWER_1, ANSWER_2, ANSWER_3 = (answer(b"/%d" % number) for number in (1, 2, 3))
BODY = bytes(range(97, 123)) * 3
Check = Callable[[Play], None]
End = Callable[[], Step]


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker() as worker:
        yield worker


# --- backends ---------------------------------------------------------------------------------------------------------


def asked(count: int) -> Callable[[Play, Actor], bool]:
    """Once the backend has got so many whole requests."""
    return lambda play, actor: sum(message.whole for message in requests_in(actor.received)) >= count


def begun(count: int = 1) -> Callable[[Play, Actor], bool]:
    """Once the backend has got so many heads."""
    return lambda play, actor: sum(bool(message.fields) for message in requests_in(actor.received)) >= count


def answers(count: int, make: Callable[[bytes], bytes] = answer, first: int = 0) -> list[Step]:
    """Steps of a backend that answers so many requests, each once it is whole. :param first: those before this were"""

    def step(number: int) -> Step:
        def do(play: Play, actor: Actor) -> None:
            assert actor.peer is not None
            if not actor.peer.said_all:
                actor.peer.send(make(requests_in(actor.received)[number].path))

        return Step(f"answers request {number}", do, asked(number + 1))

    return [step(number) for number in range(first, first + count)]


# --- what must hold ---------------------------------------------------------------------------------------------------


def got(*expected: bytes, once: bool = True, ended: str | None = None) -> Check:
    """The client got exactly this, and the backends got each request once, in order.

    :param once: whether no request went to a second connection
    """

    def check(play: Play) -> None:
        assert play.client.received == b"".join(expected)
        http = [line for line in play.lines if line["event"] == "http"]
        assert len(http) == len([text for text in expected if not text.startswith(b"HTTP/1.1 1")])
        assert all(line["cause"] is None for line in http), http
        if once:
            heads = [message.line for backend in play.backends for message in requests_in(backend.received)]
            assert len(heads) == len(set(heads)) == len(http)
        if ended is not None:
            assert play.client.ended == ended

    return check


def bodies_are(*bodies: bytes) -> Check:
    """Backends got these bodies, one a request."""

    def check(play: Play) -> None:
        seen = [message for backend in play.backends for message in requests_in(backend.received)]
        assert all(message.whole for message in seen)
        assert [message.body for message in seen] == list(bodies)

    return check


def all_of(*checks: Check) -> Check:
    def check(play: Play) -> None:
        for one in checks:
            one(play)

    return check


def in_order(*paths: bytes, errors: Sequence[int] = (502,), cuts: bool = True, interim: bool = False) -> Check:
    """The n-th answer that the client got is the one to its n-th request, or an error of the gateway's.

    :param errors: those that may be
    :param cuts: whether an answer may break off; the connection has ended behind that
    """

    def check(play: Play) -> None:
        seen = [message for message in messages(play.client.received) if not message.line.startswith(b"HTTP/1.1 1")]
        assert len(seen) <= len(paths)
        for number, (message, path) in enumerate(zip(seen, paths, strict=False)):
            is_error = bool(message.fields) and message.status in errors and b"gateway" not in message.fields
            if is_error:
                assert message.whole
                assert b": " in message.body
            elif message.whole:
                assert message.body == b"answer to " + path
            else:
                assert cuts, message
                assert number == len(seen) - 1
                assert (b"answer to " + path).startswith(message.body)
                assert play.client.ended or play.client.peer.gone
        http = [line for line in play.lines if line["event"] == "http"]
        assert len(http) <= len(paths)
        assert len(http) >= len(seen)
        at_most_once(play)

    return check


def at_most_once(play: Play) -> None:
    """No request that must not be repeated went to backends twice, and no backend got two that were mixed up."""
    seen = [message for backend in play.backends for message in requests_in(backend.received)]
    posts = [message.line for message in seen if message.line.startswith(b"POST")]
    assert len(posts) == len(set(posts))
    for message in seen:
        assert b"POST /x HTTP/1.1".startswith(message.line[:6]) or message.line.startswith(b"GET"), message


def before_next(play: Play, actor: Actor) -> bool:
    """Before the backend has got its second request whole."""
    return not asked(2)(play, actor)


# --- requests one after another ---------------------------------------------------------------------------------------


def test_one_request(worker: Worker) -> None:
    scene = Scene([connect(), *pieces(GET_1, 10)], [Backend(answers(1))], got(ANSWER_1))
    assert try_every(worker, scene) > 1


@pytest.mark.parametrize("midst", [0, 2])
def test_requests_at_any_time(worker: Worker, midst: int) -> None:
    """Pipelined, or not: each may come before or behind the answer to the one before."""
    scene = Scene(
        [connect(GET_1), send(GET_2), send(GET_3)],
        [Backend(answers(3))],
        got(ANSWER_1, ANSWER_2, ANSWER_3),
        midst=midst,
    )
    assert try_every(worker, scene) > 5


@pytest.mark.parametrize("is_known", [False, True])
def test_an_answer_cut_anywhere(worker: Worker, is_known: bool) -> None:
    for cut in range(1, len(ANSWER_1), 2):
        scene = Scene(
            [connect(GET_1), send(GET_2)],
            [Backend([*pieces(ANSWER_1, cut, when=asked(1)), send(ANSWER_2, asked(2))])],
            got(ANSWER_1, ANSWER_2),
            forget=not is_known,
        )
        try_every(worker, scene)


def test_pipelined_requests_cut_anywhere(worker: Worker) -> None:
    for cut in range(1, len(GET_1 + GET_2), 2):
        first, second = pieces(GET_1 + GET_2, cut)
        scene = Scene([connect(), first, second], [Backend(answers(2))], got(ANSWER_1, ANSWER_2))
        try_every(worker, scene)


@pytest.mark.parametrize("body", [(BODY,), (BODY[:20], BODY[20:])], ids=["one chunk", "two chunks"])
def test_a_chunked_answer_cut_anywhere(worker: Worker, body: tuple[bytes, ...]) -> None:
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(*body)
    for cut in range(1, len(whole), 3):
        scene = Scene(
            [connect(GET_1), send(GET_2)],
            [Backend([*pieces(whole, cut, when=asked(1)), send(ANSWER_2, asked(2))])],
            got(whole, ANSWER_2),
        )
        try_every(worker, scene)


def test_interim_answers_cut_anywhere(worker: Worker) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    for cut in range(1, len(interim + ANSWER_1), 3):
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
    for cut in range(0, len(ANSWER_1), 4):
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
    for cut in range(1, len(whole), 3):
        scene = Scene(
            [connect(asks), send(GET_2)],
            [Backend([*pieces(whole, cut, when=asked(1)), end()])],
            check,
        )
        try_every(worker, scene)


def test_chunks_for_a_client_that_knows_none(worker: Worker) -> None:
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"answer", b" to /1")
    for cut in range(1, len(whole), 3):
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

    for cut in range(1, len(ANSWER_1), 6):
        scene = Scene(
            [connect(), *pieces(whole, len(whole) - 60, len(whole) - 20)],
            [Backend(pieces(ANSWER_1, cut, when=begun()))],
            check,
        )
        try_every(worker, scene)


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
