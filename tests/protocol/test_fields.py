"""Which fields of requests and answers go on, as the lines that came."""

import pytest

from gateway.protocol.fields import answer_lines, head_bytes, hop_by_hop, request_lines

from .heads import handshake, request_head, response_head

pytestmark = pytest.mark.either_build

START = (b"GET / HTTP/1.1", b"Host: a")
LENGTH, CHUNKED = b"Content-Length: 5", b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("connection", "removed"),
    [
        ((b"Connection: Upgrade",), set()),
        ((b"Connection: keep-alive, Upgrade",), set()),
        ((b"Connection: close, X-A", b"connection: x-B"), {b"x-a", b"x-b"}),
        ((b"Connection: Host, Content-Length, Cookie, Authorization, Origin, Expect, Trailer",), set()),
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
        b"transfer-encoding",
        b"upgrade",
    }
    named = hop_by_hop(handshake(without=b"Connection", more=connection))
    assert named - always - {b"close"} == removed
    assert always <= named


def test_a_request_goes_on_as_it_came():
    fields = (b"hOST:a", b"X:  1\t", b"Accept: \xe9", b"X: 1", b"Trailer: Sum", b"Transfer-Encoding: chunked", b"E:")
    head = request_head(b"POST /a HTTP/1.1", *fields, b"Connection: keep-alive", b"Keep-Alive: 5", b"Upgrade: h2c")
    assert request_lines(head) == list(fields)
    assert request_lines(head, frozenset((b"x",))) == [line for line in fields if not line.startswith(b"X:")]
    assert head_bytes(b"POST /a HTTP/1.1", request_lines(head)).splitlines() == [b"POST /a HTTP/1.1", *fields, b""]


@pytest.mark.parametrize("te", [b"TE: trailers", b"TE: gzip, Trailers;q=1"])
def test_te_is_of_one_connection(te):
    assert request_lines(request_head(*START, te, b"Connection: TE")) == [b"Host: a"]


@pytest.mark.parametrize(
    ("status", "method", "http11", "fields", "kept"),
    [
        (200, b"GET", True, [LENGTH], [LENGTH]),
        (200, b"GET", False, [LENGTH], [LENGTH]),
        (200, b"GET", True, [CHUNKED, b"Trailer: Sum"], [CHUNKED, b"Trailer: Sum"]),
        (200, b"GET", False, [CHUNKED], []),
        (200, b"HEAD", True, [LENGTH], [LENGTH]),
        (200, b"HEAD", True, [CHUNKED], []),
        (304, b"GET", True, [LENGTH], [LENGTH]),
        (304, b"GET", True, [CHUNKED], []),
        (204, b"GET", True, [LENGTH], []),
        (204, b"GET", True, [CHUNKED], []),
        (204, b"HEAD", True, [LENGTH], []),
        (101, b"GET", True, [LENGTH], []),
        (101, b"GET", True, [CHUNKED], []),
        (100, b"POST", True, [LENGTH], []),
        (103, b"GET", True, [b"Link: </a>", LENGTH], [b"Link: </a>"]),
    ],
)
def test_what_answers_say_of_their_length(status, method, http11, fields, kept):
    head = response_head(b"HTTP/1.1 %d x" % status, b"Server: y", *fields)
    assert answer_lines(head, method, http11) == [b"Server: y", *kept]


@pytest.mark.parametrize("status", [200, 101, 426])
@pytest.mark.parametrize("connection", [b"", b"close"])
def test_upgrade_in_an_answer(status, connection):
    named = b"Connection: upgrade, Keep-Alive, X"
    head = response_head(b"HTTP/1.1 %d x" % status, named, b"X: 1", b"Upgrade: websocket")
    option = connection + b", Upgrade" if connection else b"Upgrade"
    assert answer_lines(head, b"GET", True, connection) == [b"Upgrade: websocket", b"Connection: " + option]
    assert answer_lines(head, b"GET", False, connection) == ([b"Connection: close"] if connection else [])


def test_fields_of_the_backends_connection_stay_there():
    kept = [b"SET-cookie: a", b"Set-Cookie: b"]
    head = response_head(b"HTTP/1.1 200 OK", b"Connection: close, X-A", b"Keep-Alive: timeout=5", b"X-A: 1", *kept)
    assert answer_lines(head, b"GET", True) == kept
    assert answer_lines(head, b"GET", True, b"keep-alive")[-1] == b"Connection: keep-alive"
