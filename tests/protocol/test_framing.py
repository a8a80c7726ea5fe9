"""Which body a head announces, in both directions, and what is refused."""

from __future__ import annotations

import pytest

from gateway.protocol.bodies import LARGEST, Chunked, Framer, Length, UntilClose
from gateway.protocol.framing import answer_body, request_body
from gateway.protocol.heads import BadHead, BadResponse, Field, RequestHead, ResponseHead

pytestmark = pytest.mark.either_build

TE, CL = b"Transfer-Encoding", b"Content-Length"


def request(*fields: Field, http11: bool = True) -> RequestHead:
    head = RequestHead(fields)
    head.method = b"POST"
    head.http11 = http11
    return head


def answer(status: int, *fields: Field, http11: bool = True) -> ResponseHead:
    head = ResponseHead(fields)
    head.status = status
    head.http11 = http11
    return head


def kind(framer: Framer | None) -> object:
    """A framer's type, with its length if it has one."""
    return framer.remaining if isinstance(framer, Length) else framer and type(framer)


BOTH: list[tuple[list[Field], object]] = [
    ([(CL, b"5")], 5),
    ([(CL, b"0005")], 5),
    ([(CL, b"0")], None),
    ([(CL, b"%d" % LARGEST)], LARGEST),
    ([(b"content-LENGTH", b"5")], 5),
    ([(TE, b"chunked")], Chunked),
    ([(TE, b"Chunked")], Chunked),
]
BAD_LENGTHS = [
    *(b"+5", b"-5", b"5 5", b"5,5", b"5, 5", b"5;", b"0x5", b"5.0", b"", b"five", b"1_0", b"5e1", b"\xd9\xa5"),
    *(b"%d" % (LARGEST + 1), b"9" * 5000),
]


@pytest.mark.parametrize(("fields", "expected"), [*BOTH, ([], None)])
def test_of_requests(fields: list[Field], expected: object) -> None:
    assert kind(request_body(request(*fields))) == expected


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        *(([(CL, value)], 400) for value in BAD_LENGTHS),
        ([(CL, b"5"), (CL, b"6")], 400),
        ([(CL, b"5"), (CL, b"5")], 400),
        ([(CL, b"5"), (TE, b"chunked")], 400),
        ([(TE, b"chunked"), (CL, b"5")], 400),
        ([(TE, b"gzip"), (CL, b"5")], 400),
        ([(TE, b"")], 400),
        ([(TE, b"chunked,")], 400),
        ([(TE, b",chunked")], 400),
        ([(TE, b"chunked"), (TE, b"")], 400),
        ([(TE, b"chunked, chunked")], 400),
        ([(TE, b"chunked"), (TE, b"chunked")], 400),
        ([(TE, b"chunked, gzip")], 400),
        ([(TE, b"chunked"), (TE, b"identity")], 400),
        ([(TE, b"chunked;a=b")], 400),
        ([(TE, b"\x0bchunked")], 400),
        ([(TE, b'"chunked"')], 400),
        ([(TE, b"gzip chunked")], 400),
        ([(TE, b"gzip")], 501),
        ([(TE, b"identity")], 501),
        ([(TE, b"gzip, chunked")], 501),
        ([(TE, b"gzip;q=1, chunked")], 501),
        ([(TE, b"gzip"), (TE, b"chunked")], 501),
        ([(TE, b"xchunked")], 501),
        ([(TE, b"chunked-2")], 501),
    ],
)
def test_refused_requests(fields: list[Field], status: int) -> None:
    with pytest.raises(BadHead) as caught:
        request_body(request(*fields))
    assert caught.value.status == status
    assert str(caught.value).isprintable()


def test_a_request_of_http10() -> None:
    assert kind(request_body(request((CL, b"5"), http11=False))) == 5
    with pytest.raises(BadHead):
        request_body(request((TE, b"chunked"), http11=False))


@pytest.mark.parametrize(("fields", "expected"), [*BOTH, ([], UntilClose)])
@pytest.mark.parametrize("status", [200, 206, 404, 999])
def test_of_answers(status: int, fields: list[Field], expected: object) -> None:
    assert kind(answer_body(answer(status, *fields), b"GET")) == expected


@pytest.mark.parametrize("fields", [[], [(CL, b"5")], [(TE, b"chunked")], [(CL, b"5"), (TE, b"chunked")], [(TE, b"x")]])
@pytest.mark.parametrize(
    ("status", "method"), [(200, b"HEAD"), (204, b"GET"), (304, b"GET"), (100, b"GET"), (101, b"GET")]
)
def test_answers_that_have_no_body(status: int, method: bytes, fields: list[Field]) -> None:
    assert answer_body(answer(status, *fields), method) is None


@pytest.mark.parametrize(
    "fields",
    [
        *([(CL, value)] for value in BAD_LENGTHS),
        [(CL, b"5"), (CL, b"6")],
        [(CL, b"5"), (CL, b"5")],
        [(CL, b"5"), (TE, b"chunked")],
        [(TE, b"gzip")],
        [(TE, b"gzip, chunked")],
        [(TE, b"chunked, gzip")],
        [(TE, b"chunked"), (TE, b"chunked")],
        [(TE, b"identity")],
        [(TE, b"")],
    ],
)
def test_refused_answers(fields: list[Field]) -> None:
    with pytest.raises(BadResponse) as caught:
        answer_body(answer(200, *fields), b"GET")
    for _, value in fields:
        assert value in (b"chunked", b"") or value not in str(caught.value).encode()


def test_an_answer_of_http10() -> None:
    assert kind(answer_body(answer(200, (CL, b"5"), http11=False), b"GET")) == 5
    assert kind(answer_body(answer(200, http11=False), b"GET")) is UntilClose
    with pytest.raises(BadResponse):
        answer_body(answer(200, (TE, b"chunked"), http11=False), b"GET")


def test_sizes_of_a_fixed_width_are_taken_of_backends_only() -> None:
    data = b"5  \r\nhello\r\n"
    framer = answer_body(answer(200, (TE, b"chunked")), b"GET")
    assert framer is not None
    assert framer.scan(data, 0, len(data)) == len(data)
    framer = request_body(request((TE, b"chunked")))
    assert framer is not None
    with pytest.raises(Exception, match="malformed chunk size"):
        framer.scan(data, 0, len(data))
