"""Heads of requests: what is read, what is refused, and that it never depends on how TCP cut the bytes."""

import pytest

from gateway.protocol.http import MAX_FIELDS, MAX_HEAD_BYTES, BadHead, RequestReader, hop_by_hop

from .heads import HANDSHAKE, handshake, head_bytes, outcome, request_head

pytestmark = pytest.mark.either_build

START = (b"GET /ws HTTP/1.1", b"Host: a")
GOOD = {
    "handshake": head_bytes(*HANDSHAKE),
    "no value": head_bytes(*START, b"X:", b"Y: "),
    "white space around a value": head_bytes(*START, b"X:\t a b \t "),
    "bytes above 127 in a value": head_bytes(*START, b"X: caf\xe9"),
    "repeated fields": head_bytes(*START, b"X: 1", b"x: 2", b"X: 1"),
    "empty lines before": b"\r\n\r\n" + head_bytes(*START),
    "bare line ends before": b"\n\r\r\n" + head_bytes(*START),
    "HTTP/1.0 without Host": head_bytes(b"GET / HTTP/1.0"),
    "empty Host": head_bytes(b"GET / HTTP/1.1", b"Host:"),
    "Host with a port": head_bytes(b"GET / HTTP/1.1", b"Host: [::1]:8080"),
    "a body behind": head_bytes(b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 5") + b"hello",
    "a chunked body behind": head_bytes(b"POST / HTTP/1.1", b"Host: a", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "frames behind a handshake": head_bytes(*HANDSHAKE) + b"\x81\x85\0\0\0\0hello",
    "another request behind": head_bytes(*START) + head_bytes(*START),
    "CONNECT": head_bytes(b"CONNECT a:443 HTTP/1.1", b"Host: a:443"),
    "absolute form": head_bytes(b"GET http://a/ws HTTP/1.1", b"Host: a"),
    "asterisk form": head_bytes(b"OPTIONS * HTTP/1.1", b"Host: a"),
    "malformed escape": head_bytes(b"GET /%zz HTTP/1.1", b"Host: a"),
}
MALFORMED = {
    "no version, as in HTTP/0.9": b"GET /\r\n\r\n",
    "Content-Length and Transfer-Encoding": head_bytes(*START, b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "Transfer-Encoding and Content-Length": head_bytes(*START, b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    "Transfer-Encoding in HTTP/1.0": head_bytes(b"POST / HTTP/1.0", b"Transfer-Encoding: chunked"),
    "Transfer-Encoding that does not end in chunked": head_bytes(*START, b"Transfer-Encoding: chunked, gzip"),
    "chunked twice": head_bytes(*START, b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "hidden Transfer-Encoding": head_bytes(*START, b"Transfer-Encoding: \x0bchunked"),
    "two Content-Lengths": head_bytes(*START, b"Content-Length: 5", b"Content-Length: 6"),
    "a list as Content-Length": head_bytes(*START, b"Content-Length: 5, 5"),
    "signed Content-Length": head_bytes(*START, b"Content-Length: +5"),
    "empty Content-Length": head_bytes(*START, b"Content-Length:"),
    "Content-Length beyond 64 bits": head_bytes(*START, b"Content-Length: 99999999999999999999"),
    "repeated Host": head_bytes(*START, b"Host: a"),
    "repeated Host in another case": head_bytes(*START, b"hOST: b"),
    "no Host": head_bytes(b"GET / HTTP/1.1", b"X: 1"),
    "Host with a path": head_bytes(b"GET / HTTP/1.1", b"Host: a/b"),
    "Host with a user": head_bytes(b"GET / HTTP/1.1", b"Host: a@b"),
    "Host with a space": head_bytes(b"GET / HTTP/1.1", b"Host: a b"),
    "Host with a list": head_bytes(b"GET / HTTP/1.1", b"Host: a, b"),
    "Host with a port that is none": head_bytes(b"GET / HTTP/1.1", b"Host: a:http"),
    "bare CR in a value": head_bytes(*START, b"X: a\rY: b"),
    "bare LF in a value": head_bytes(*START, b"X: a\nY: b"),
    "bare LF behind the request line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "bare LF before the end": head_bytes(*START, b"X: a\n"),
    "NUL in a value": head_bytes(*START, b"X: a\0b"),
    "NUL in a name": head_bytes(*START, b"X\0: a"),
    "NUL in the target": head_bytes(b"GET /\0 HTTP/1.1", b"Host: a"),
    "escape character in a value": head_bytes(*START, b"X: \x1b[2J"),
    "obs-fold": head_bytes(*START, b"X: a", b" b"),
    "obs-fold with a tab": head_bytes(*START, b"X: a", b"\tb"),
    "space before the first field": head_bytes(b"GET / HTTP/1.1", b" Host: a"),
    "space before a colon": head_bytes(*START, b"X : a"),
    "tab before a colon": head_bytes(*START, b"X\t: a"),
    "no name": head_bytes(*START, b": a"),
    "no colon": head_bytes(*START, b"X"),
    "name that is no token": head_bytes(*START, b"X(: a"),
    "name above 127": head_bytes(*START, b"X\xe9: a"),
    "unknown method": head_bytes(b"FETCH / HTTP/1.1", b"Host: a"),
    "method in lower case": head_bytes(b"get / HTTP/1.1", b"Host: a"),
    "space in the target": head_bytes(b"GET /a b HTTP/1.1", b"Host: a"),
    "bytes above 127 in the target": head_bytes("GET /é HTTP/1.1".encode(), b"Host: a"),
    "space behind the version": head_bytes(b"GET / HTTP/1.1 ", b"Host: a"),
    "HTTP/1.2": head_bytes(b"GET / HTTP/1.2", b"Host: a"),
    "RTSP": head_bytes(b"GET / RTSP/1.1", b"Host: a"),
    "RTSP/1.0": head_bytes(b"GET / RTSP/1.0", b"Host: a"),
    "ICE": head_bytes(b"SOURCE / ICE/1.0", b"Host: a"),
    "TLS": bytes.fromhex("16030102000100 01fc0303"),
    "NULs": bytes(20),
}
NOT_HTTP1 = {
    "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2.0": head_bytes(b"GET / HTTP/2.0", b"Host: a"),
}
ALL = GOOD | MALFORMED | NOT_HTTP1


def refusal(data):
    with pytest.raises(BadHead) as caught:
        RequestReader().feed(data)
    assert str(caught.value).isprintable()
    return caught.value.status


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed(data):
    assert refusal(data) == 400


@pytest.mark.parametrize("data", NOT_HTTP1.values(), ids=NOT_HTTP1)
def test_not_http1(data):
    assert refusal(data) == 505


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD)
def test_good(data):
    assert RequestReader().feed(data) is not None


@pytest.mark.parametrize("data", ALL.values(), ids=ALL)
def test_cut_anywhere(data):
    whole = outcome(data)
    for at in range(1, len(data)):
        assert outcome(data[:at], data[at:]) == whole
    assert outcome(*(data[at : at + 1] for at in range(len(data)))) == whole


@pytest.mark.parametrize("data", [data for name, data in GOOD.items() if "behind" not in name])
def test_not_whole_before_its_last_byte(data):
    assert RequestReader().feed(data[:-1]) is None


def test_method_target_and_fields_as_they_came():
    head = request_head(
        b"POST /a/../%62?q=%zz HTTP/1.1", b"hOsT: A:80", b"Cookie: a=1", b"X-Two: 1", b"cookie: b=2", b"X-None:"
    )
    assert (head.method, head.target, head.http11) == (b"POST", b"/a/../%62?q=%zz", True)
    assert head.fields == [
        (b"hOsT", b"A:80"),
        (b"Cookie", b"a=1"),
        (b"X-Two", b"1"),
        (b"cookie", b"b=2"),
        (b"X-None", b""),
    ]
    assert head.values(b"cookie") == [b"a=1", b"b=2"]
    assert head.values(b"x-missing") == []


def test_white_space_around_a_value_is_no_part_of_it():
    head = request_head(b"GET / HTTP/1.1", b"Host: a ", b"X:\t b c\t ", b"Upgrade: websocket \t")
    assert head.fields == [(b"Host", b"a"), (b"X", b"b c"), (b"Upgrade", b"websocket")]
    assert head.tokens(b"upgrade") == [b"websocket"]


def test_lists_over_several_lines():
    head = request_head(*START, b"Connection: keep-alive,", b"CONNECTION: ,UpGrade ,\tX-a", b"X: ")
    assert head.tokens(b"connection") == [b"keep-alive", b"upgrade", b"x-a"]
    assert head.items(b"connection") == [b"keep-alive", b"UpGrade", b"X-a"]
    assert head.tokens(b"x") == head.tokens(b"missing") == []


def test_bytes_behind_the_head_stay():
    reader = RequestReader()
    head = reader.feed(head_bytes(*HANDSHAKE) + b"\x81\x80")
    assert head is not None
    assert reader.received[head.size :] == b"\x81\x80"


def sized(size):
    """A head of ``size`` bytes."""
    empty = head_bytes(*START, b"X: ")
    return empty[:-4] + b"a" * (size - len(empty)) + b"\r\n\r\n"


def test_size():
    assert RequestReader().feed(sized(MAX_HEAD_BYTES)) is not None
    assert RequestReader().feed(sized(MAX_HEAD_BYTES) + b"more" * 10_000) is not None
    assert refusal(sized(MAX_HEAD_BYTES + 1)) == 431
    assert refusal(sized(MAX_HEAD_BYTES * 3)[:-4]) == 431


def test_size_in_pieces():
    data = sized(MAX_HEAD_BYTES + 1)
    reader = RequestReader()
    for at in range(0, MAX_HEAD_BYTES, 1024):
        assert reader.feed(data[at : at + 1024]) is None
    with pytest.raises(BadHead) as caught:
        reader.feed(data[MAX_HEAD_BYTES:])
    assert caught.value.status == 431


def test_number_of_fields():
    fields = [b"X: 1"] * (MAX_FIELDS - 1)
    assert len(request_head(*START, *fields).fields) == MAX_FIELDS
    assert refusal(head_bytes(*START, *fields, b"X: 1")) == 431


@pytest.mark.parametrize(
    ("connection", "removed"),
    [
        ((b"Connection: Upgrade",), set()),
        ((b"Connection: keep-alive, Upgrade",), set()),
        ((b"Connection: close, X-A", b"connection: x-B"), {b"x-a", b"x-b"}),
        ((b"Connection: Host, Content-Length, Cookie, Authorization, Origin",), set()),
        ((b"Connection: Sec-WebSocket-Key, Sec-Fetch-Mode, X-A",), {b"x-a"}),
    ],
)
def test_fields_of_one_connection(connection, removed):
    always = {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
    named = hop_by_hop(handshake(without=b"Connection", more=connection))
    assert named - always - {b"close"} == removed
    assert always <= named
