"""Heads of requests: what is read, what is refused, and that it never depends on how TCP cut the bytes."""

import pytest

from gateway.protocol.heads import MAX_FIELDS, MAX_HEAD_BYTES, BadHead, plain_name
from gateway.protocol.requests import MAX_METHOD, RequestReader

from .heads import HANDSHAKE, head_bytes, outcome, request_head

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
    "authority form with another method": head_bytes(b"GET a:443 HTTP/1.1", b"Host: a"),
    "more than one space": head_bytes(b"GET   /   HTTP/1.1", b"Host: a"),
    "no form of a target": head_bytes(b"GET a HTTP/1.1", b"Host: a"),
    "a method of nobody": head_bytes(b"FROBNICATE / HTTP/1.1", b"Host: a"),
    "method in lower case": head_bytes(b"get / HTTP/1.1", b"Host: a"),
    "a method of every kind of character": head_bytes(b"!#$%&'*+-.^_`|~09AZaz / HTTP/1.1", b"Host: a"),
    "the longest method": head_bytes(b"M" * MAX_METHOD + b" / HTTP/1.1", b"Host: a"),
    "a method of HTTP/2's preface": head_bytes(b"PRI * HTTP/1.1", b"Host: a"),
    "a method of RTSP": head_bytes(b"DESCRIBE / HTTP/1.1", b"Host: a"),
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
    "DEL in a value": head_bytes(*START, b"X: \x7f"),
    "two Content-Lengths that agree": head_bytes(*START, b"Content-Length: 5", b"Content-Length: 5"),
    "Content-Length beyond 63 bits": head_bytes(*START, b"Content-Length: 9223372036854775808"),
    "chunked with a parameter": head_bytes(*START, b"Transfer-Encoding: chunked;a"),
    "method that is no token": head_bytes(b"G(T / HTTP/1.1", b"Host: a"),
    "method above 127": head_bytes(b"G\xe9T / HTTP/1.1", b"Host: a"),
    "too long a method": head_bytes(b"M" * (MAX_METHOD + 1) + b" / HTTP/1.1", b"Host: a"),
    "no method": head_bytes(b" / HTTP/1.1", b"Host: a"),
    "no target": head_bytes(b"GET HTTP/1.1", b"Host: a"),
    "tab before the target": head_bytes(b"GET\t/ HTTP/1.1", b"Host: a"),
    "DEL in the target": head_bytes(b"GET /\x7f HTTP/1.1", b"Host: a"),
    "version in lower case": head_bytes(b"GET / http/1.1", b"Host: a"),
    "version of two digits": head_bytes(b"GET / HTTP/1.10", b"Host: a"),
    "HTTP/0.9": head_bytes(b"GET / HTTP/0.9", b"Host: a"),
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
NOT_IMPLEMENTED = {
    "a transfer coding": head_bytes(*START, b"Transfer-Encoding: gzip"),
    "a transfer coding before chunked": head_bytes(*START, b"Transfer-Encoding: gzip, chunked"),
    "identity": head_bytes(*START, b"Transfer-Encoding: identity"),
}
ALL = GOOD | MALFORMED | NOT_HTTP1 | NOT_IMPLEMENTED


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


@pytest.mark.parametrize("data", NOT_IMPLEMENTED.values(), ids=NOT_IMPLEMENTED)
def test_not_implemented(data):
    assert refusal(data) == 501


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"\x16", 400, "malformed request head: TLS, where plain HTTP is spoken"),
        (b"PRI * HTTP/2.0\r\n", 505, "HTTP/2 without TLS is not spoken here"),
        (b"GET / HTTP/3.0\r\n", 505, "HTTP/3.0 is not spoken here"),
        (b"GET / HTTP/0.9\r\n", 400, "malformed request line: there is no HTTP/0.9"),
        (b"GET / HTTP/1.2\r\n", 400, "malformed request line: there is no HTTP/1.2"),
        (b"GET /\r", 400, "malformed request line: it names no version of HTTP"),
        (b"GET /\n", 400, "malformed request head: a line that does not end with CRLF"),
        (b"GET / HTTP/1.1\n", 400, "malformed request head: a line that does not end with CRLF"),
        (b"GET / HTTP/1.1\rX", 400, "malformed request line"),
        (b"GET / R", 400, "malformed request line"),
        (b"M" * (MAX_METHOD + 1), 400, "malformed request line"),
        (b"\x80", 400, "malformed request line"),
        (b"SSH-2.0-OpenSSH_9.2p1\r", 400, "malformed request line"),
        (b"GET / HTTP/1.1\r\n\0", 400, "malformed request head: a control character"),
        (b"GET / HTTP/1.1\r\nX: \x1b", 400, "malformed request head: a control character"),
        (b"GET / HTTP/1.1\r\nX: a\n", 400, "malformed request head: a line that does not end with CRLF"),
        (b"GET / HTTP/1.1\r\nX: a\rb", 400, "malformed request head: a line that does not end with CRLF"),
    ],
)
def test_what_can_be_no_head_is_refused_at_its_first_wrong_byte(data, status, reason):
    if len(data) > 1:
        for chunks in ([data[:-1]], [data[at : at + 1] for at in range(len(data) - 1)]):
            assert outcome(*chunks) is None
    for behind in (b"", b"\r\n\r\n", b"\0\n", b"M" * 100):
        assert outcome(data + behind) == (status, reason)
        assert outcome(data, behind) == (status, reason)
        assert outcome(*(data[at : at + 1] for at in range(len(data))), behind) == (status, reason)


def test_a_long_target_in_many_pieces():
    target = b"/" + b"a" * 5000
    data = head_bytes(b"GET %b HTTP/1.1" % target, b"Host: a")
    assert outcome(*(data[at : at + 1] for at in range(len(data)))) == outcome(data)
    cut = data.replace(b"a HTTP/1.1", b"\xe9", 1)[:5100]
    assert outcome(*(cut[at : at + 1] for at in range(len(cut)))) == (400, "malformed request line")


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


def test_other_limits():
    data = head_bytes(*START, b"X: 1", b"Y: 2")
    assert RequestReader(max_size=len(data), max_fields=3).feed(data) is not None
    for limits in ({"max_size": len(data) - 1}, {"max_fields": 2}):
        with pytest.raises(BadHead) as caught:
            RequestReader(**limits).feed(data)
        assert caught.value.status == 431


def test_unclear_names():
    for name in (b"X_A", b"X.A", b"x!a"):
        assert request_head(*START, name + b": a").has_unclear_name
        assert plain_name(name) == b"x-a"
    assert not request_head(b"GET /a.b HTTP/1.1", b"Host: a.b", b"X-A1: a.b").has_unclear_name


def test_underscores():
    assert request_head(*START, b"X_Forwarded_For: a").has_underscore
    assert not request_head(b"GET /a_b HTTP/1.1", b"Host: a_b", b"Cookie: a_b=c_d").has_underscore


def test_number_of_fields():
    fields = [b"X: 1"] * (MAX_FIELDS - 1)
    assert len(request_head(*START, *fields).fields) == MAX_FIELDS
    assert refusal(head_bytes(*START, *fields, b"X: 1")) == 431
