"""What is remembered of heads is what is read of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.facts import Facts, KnownFields
from gateway.edge.known_answers import KnownAnswer, KnownAnswers
from gateway.protocol.answers import ResponseReader
from gateway.protocol.heads import BadHead, BadResponse
from gateway.protocol.requests import RequestReader

LINES = st.sampled_from(
    [
        b"GET / HTTP/1.1",
        b"GET /a?b HTTP/1.1",
        b"POST /a HTTP/1.1",
        b"get / HTTP/1.1",
        b"GET  / HTTP/1.1",
        b"GET / HTTP/1.0",
        b"GET /\x7f HTTP/1.1",
        b"GET http://a/ HTTP/1.1",
        b"GET /#x HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b"FROBNICATE /x HTTP/1.1",
        b"",
    ]
)
FIELDS = st.lists(
    st.sampled_from(
        [
            b"Host: a",
            b"host: b",
            b"Content-Length: 3",
            b"Transfer-Encoding: chunked",
            b"Connection: close",
            b"Connection: keep-alive, X-A",
            b"X-A: 1",
            b"X_A: 1",
            b"Authorization: NTLM x",
            b"X : 1",
            b" folded",
        ]
    ),
    max_size=4,
)


def read(data: bytes) -> object:
    """What is read of a request's head, as far as it is looked at; or why it is refused."""
    try:
        head = RequestReader().feed(data)
    except BadHead as error:
        return error.status, str(error)
    return seen(head)


def seen(head) -> object:
    if head is None:
        return None
    facts = Facts(head, underscores=False)
    return (
        head.method,
        head.target,
        head.http11,
        head.size,
        head.raw,
        head.fields,
        facts.keep_alive,
        facts.lines,
        facts.pins,
    )


@given(st.lists(st.tuples(LINES, FIELDS, st.sampled_from([b"", b"abc"])), min_size=2, max_size=6))
def test_a_request_that_is_found_is_the_one_that_would_be_read(requests) -> None:
    known = KnownFields()
    for line, fields, behind in requests:
        data = b"\r\n".join((line, b"Host: a", *fields, b"", b"")) + behind
        found = known.find(data)
        if found is not None:
            assert seen(found) == read(data)
            assert found.facts is None
            continue
        try:
            head = RequestReader().feed(data)
        except BadHead:
            continue
        if head is not None:
            known.remember(head)


def test_the_second_request_of_a_connection_is_found() -> None:
    known = KnownFields()
    head = RequestReader().feed(b"GET /first HTTP/1.1\r\nHost: a\r\nCookie: x\r\n\r\n")
    assert head is not None
    known.remember(head)
    found = known.find(b"POST /second?x HTTP/1.1\r\nHost: a\r\nCookie: x\r\n\r\nbody")
    assert found is not None
    assert (found.method, found.target) == (b"POST", b"/second?x")
    assert known.find(b"GET /second HTTP/1.1\r\nHost: a\r\nCookie: y\r\n\r\n") is None
    known.clear()
    assert known.find(b"GET /first HTTP/1.1\r\nHost: a\r\nCookie: x\r\n\r\n") is None


ANSWERS = st.tuples(
    st.sampled_from(
        [b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 204 No", b"HTTP/1.1 304 Same", b"HTTP/1.1 426 Up"]
    ),
    st.lists(
        st.sampled_from(
            [
                b"Content-Length: 3",
                b"Transfer-Encoding: chunked",
                b"Connection: close",
                b"Connection: keep-alive",
                b"Keep-Alive: timeout=5, max=3",
                b"Connection: Upgrade",
                b"Upgrade: websocket",
                b"X: 1",
                b"Trailer: X",
                b"WWW-Authenticate: Negotiate",
            ]
        ),
        max_size=4,
        unique_by=lambda field: field if field[:1] != b"C" else field[:11],
    ),
)


@given(ANSWERS, st.booleans(), st.booleans())
def test_an_answer_goes_on_as_it_came_only_if_that_is_what_would_be_written(answer, http11: bool, keeps: bool) -> None:
    line, fields = answer
    try:
        head = ResponseReader().feed(b"\r\n".join((line, *fields, b"", b"")))
        assert head is not None
        known = KnownAnswer.of(head, b"GET")
    except BadResponse:
        return
    written = known.head_for(http11, keeps)
    again = ResponseReader().feed(written)
    assert again is not None
    assert again.status == head.status
    lower = written.lower()
    assert b"keep-alive: " not in lower
    assert (b"connection: close" in lower) == (not keeps)
    if known.is_plain:
        assert known.head_for(True, True) == head.raw
    if http11 and known.is_framed:
        assert type(KnownAnswer.of(again, b"GET").framer()) is type(known.framer())


def test_how_long_a_backend_keeps_a_connection() -> None:
    for field, seconds in (
        (b"timeout=5, max=100", 4),
        (b"max=3, Timeout=1", 0.5),
        (b"timeout=0", 0),
        (b"timeout=x", None),
    ):
        head = ResponseReader().feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nKeep-Alive: %b\r\n\r\n" % field)
        assert head is not None
        known = KnownAnswer.of(head, b"GET")
        assert known.idle_ns == (2**62 if seconds is None else int(seconds * 1_000_000_000))


def test_known_answers_are_bounded() -> None:
    answers = KnownAnswers()
    for number in range(2000):
        head = ResponseReader().feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: %d\r\n\r\n" % number)
        assert head is not None
        answers.remember(head, KnownAnswer.of(head, b"GET"))
        assert answers.find(head.raw) is not None
    assert len(answers._known) <= 512
