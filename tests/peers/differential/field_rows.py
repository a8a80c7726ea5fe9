"""Fields of requests (RFC 9110 sections 5 and 7, RFC 9112 section 5)."""

from __future__ import annotations

from tests.peers.differential.rows import CLOSED, OK_CLOSED, Row, ans, passes, refused, req
from tests.support.plain import OK, Do

LF = "accepts LF as a line end (RFC 9112 section 2.2); a parser that looks for CRLF would read on"
ANY_HOST = "does not validate Host"
INVALID = "drops fields whose names have characters other than letters, digits and - (ignore_invalid_headers)"
ANY_BYTE = "accepts any byte except line ends in a value"
NAMED = "drops Connection, but not the fields it names"
KEEPS_NAMED = "forwards Connection and the fields it names"
PASSES = "forwards it"
BELIEVES = "forwards what any client claims about itself"

HOSTS = [
    refused("no Host", req("GET /", host=None), haproxy="does not require Host"),
    passes(
        "an empty Host",
        req("GET /", host=""),
        nginx="refuses it, though clients send it where a target has no authority (RFC 9112 section 3.2)",
    ),
    refused("two Hosts", req("GET /", "Host: x"), haproxy="accepts equal repetitions"),
    refused("two different Hosts", req("GET /", "Host: y")),
    passes("Host with a port", req("GET /", host="x:8080")),
    passes("Host with an empty port", req("GET /", host="x:")),
    passes("Host in capitals", req("GET /", host="X.Test")),
    passes("an IPv6 Host", req("GET /", host="[::1]:80")),
    passes("Host with a dot behind it", req("GET /", host="x.test.")),
    refused("Host with a space", req("GET /", host="x y"), haproxy=ANY_HOST),
    refused("Host with a slash", req("GET /", host="x/y"), haproxy=ANY_HOST),
    refused("Host with a comma and another", req("GET /", host="x, y z"), haproxy=ANY_HOST),
    refused("Host with user information", req("GET /", host="u@x"), nginx=ANY_HOST, haproxy=ANY_HOST),
    refused("Host with an invalid port", req("GET /", host="x:8a"), nginx=ANY_HOST, haproxy=ANY_HOST),
    refused("Host with an open bracket", req("GET /", host="[::1"), nginx=ANY_HOST, haproxy=ANY_HOST),
    refused("Host with bytes above ASCII", b"GET / HTTP/1.1\r\nHost: \xe9\r\n\r\n", nginx=ANY_HOST, haproxy=ANY_HOST),
    passes("Host last", b"GET / HTTP/1.1\r\nA: b\r\nHost: x\r\n\r\n"),
    passes("host in lower case", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"),
]

FIELDS = [
    passes("order and case", req("GET /", "B-b: 2", "a-A: 1", "C: 3")),
    passes("a field twice", req("GET /", "X: 1", "Y: 2", "X: 3")),
    passes("a field twice in two cases", req("GET /", "X: 1", "x: 2")),
    passes("an empty value", req("GET /", "X:")),
    passes("no space before the value", req("GET /", "X:y")),
    passes("white space around the value", req("GET /", "X: \t y \t ")),
    passes("a tab in a value", req("GET /", "X: a\tb")),
    passes("bytes above ASCII in a value", req("GET /", "X: caf\xe9 \xff")),
    passes("UTF-8 in a value", b"GET / HTTP/1.1\r\nHost: x\r\nX: \xe2\x82\xac\r\n\r\n"),
    passes("a name of all characters of a token", req("GET /", "A!#$%&'*+-.^`|~9z: y"), nginx=INVALID),
    passes("a value with colons and quotes", req("GET /", 'X: a:b "c, d" ;e=f')),
    passes("a long value", req("GET /", "X: " + "y" * 7000)),
    passes("a hundred fields", req("GET /", *(f"X-{number}: y" for number in range(90)))),
    refused(
        "a head over the limit",
        req("GET /", *(f"X-{number}: {'y' * 1000}" for number in range(40))),
        431,
        nginx="answers 400",
        haproxy="answers 400",
    ),
    refused(
        "too many fields",
        req("GET /", *(f"X-{number}: y" for number in range(210))),
        431,
        nginx="limits the size of heads, not the number of fields",
        haproxy="answers 400",
    ),
    passes("Cookie twice", req("GET /", "Cookie: a=b", "Cookie: c=d")),
    passes("User-Agent, Accept and their like", req("GET /", "User-Agent: x", "Accept: */*", "Accept-Encoding: gzip")),
    passes("Range", req("GET /", "Range: bytes=0-1", "If-Range: x")),
    passes("conditions", req("GET /", 'If-None-Match: "a", W/"b"', "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT")),
    passes("Via of another", req("GET /", "Via: 1.1 another")),
    passes("Forwarded", req("GET /", "Forwarded: for=192.0.2.66")),
    passes("Authorization", req("GET /", "Authorization: Basic eDp5")),
    passes("Max-Forwards", req("OPTIONS /", "Max-Forwards: 0")),
    refused("a space before the colon", req("GET /", "X : y")),
    refused("a tab before the colon", req("GET /", "X\t: y")),
    refused("a space before the name", b"GET / HTTP/1.1\r\n X: y\r\nHost: x\r\n\r\n"),
    refused("a space in the name", req("GET /", "X Y: z")),
    refused("no name", req("GET /", ": y")),
    refused("no colon", req("GET /", "X"), nginx="drops the line"),
    refused("a name with a bracket", req("GET /", "X(: y"), nginx=INVALID),
    refused("a name with bytes above ASCII", req("GET /", "X\xe9: y"), nginx=INVALID),
    refused("a folded field", req("GET /", "X: a", " b"), haproxy="joins the lines"),
    refused("a field folded with a tab", req("GET /", "X: a", "\tb"), haproxy="joins the lines"),
    refused("NUL in a value", req("GET /", "X: a\0b"), haproxy=ANY_BYTE),
    refused("a control character in a value", req("GET /", "X: a\x01b"), nginx=ANY_BYTE, haproxy=ANY_BYTE),
    refused("DEL in a value", req("GET /", "X: a\x7fb"), nginx=ANY_BYTE, haproxy=ANY_BYTE),
    refused("a bare CR in a value", req("GET /", "X: a\rb")),
    refused("a bare CR that hides a field", req("GET /", "X: a\rTransfer-Encoding: chunked")),
    refused("a bare LF between fields", b"GET / HTTP/1.1\r\nHost: x\nX: y\r\n\r\n", nginx=LF, haproxy=LF),
    refused("an empty line that ends with LF", b"GET / HTTP/1.1\r\nHost: x\r\n\n", nginx=LF, haproxy=LF),
    passes("an underscore in a name", req("GET /", "X_Y: z"), req("GET /"), haproxy=PASSES),
    passes(
        "a mixture of - and _", req("GET /", "X-Forwarded_For: z", "A-b: c"), req("GET /", "A-b: c"), haproxy=PASSES
    ),
    passes("Content_Length", req("GET /", "Content_Length: 5"), req("GET /"), haproxy=PASSES),
]

HOPS = [
    passes("Connection: keep-alive", req("GET /", "Connection: keep-alive"), req("GET /")),
    Row("Connection: close", req("GET /", "Connection: close"), (req("GET /"),), (OK_CLOSED,), CLOSED),
    Row("Connection: Close", req("GET /", "Connection: Close"), (req("GET /"),), (OK_CLOSED,), CLOSED),
    Row(
        "close in a list",
        req("GET /", "Connection: x-y, close"),
        (req("GET /"),),
        (OK_CLOSED,),
        CLOSED,
        haproxy="keeps the other options of Connection",
    ),
    passes(
        "a field that Connection names",
        req("GET /", "Connection: X-One", "X-One: 1", "X-Two: 2"),
        req("GET /", "X-Two: 2"),
        nginx=NAMED,
        haproxy=KEEPS_NAMED,
    ),
    passes("Connection names Host", req("GET /", "Connection: Host"), req("GET /"), haproxy=KEEPS_NAMED),
    passes(
        "Connection names Cookie",
        req("GET /", "Connection: cookie", "Cookie: a=b"),
        req("GET /", "Cookie: a=b"),
        haproxy=KEEPS_NAMED,
    ),
    passes(
        "Connection twice",
        req("GET /", "Connection: X-One", "Connection: X-Two", "X-One: 1", "X-Two: 2"),
        req("GET /"),
        nginx=NAMED,
        haproxy=KEEPS_NAMED,
    ),
    passes("an empty Connection", req("GET /", "Connection:"), req("GET /")),
    passes("Keep-Alive", req("GET /", "Keep-Alive: timeout=5"), req("GET /"), haproxy=PASSES),
    passes(
        "Proxy-Connection", req("GET /", "Proxy-Connection: keep-alive"), req("GET /"), nginx=PASSES, haproxy=PASSES
    ),
    passes(
        "Proxy-Authorization",
        req("GET /", "Proxy-Authorization: Basic eDp5"),
        req("GET /"),
        nginx=PASSES,
        haproxy=PASSES,
    ),
    passes(
        "TE: trailers",
        req("GET /", "TE: trailers", "Connection: TE"),
        req("GET /"),
        haproxy="forwards it, with Connection",
    ),
    passes(
        "TE of another coding",
        req("GET /", "TE: gzip", "Connection: TE"),
        req("GET /"),
        haproxy="drops TE, but keeps Connection",
    ),
    passes(
        "an upgrade that the route does not list",
        req("GET /", "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: x"),
        req("GET /"),
        nginx=NAMED,
        haproxy="forwards every upgrade",
    ),
    passes("Upgrade that Connection does not name", req("GET /", "Upgrade: h2c"), req("GET /"), haproxy=PASSES),
    refused(
        "a WebSocket key without Upgrade",
        req("GET /", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
        426,
        nginx="does not detect handshakes that lost their Upgrade on the way",
        haproxy="does not detect handshakes that lost their Upgrade on the way",
    ),
    passes(
        "X-Forwarded-For of a client",
        req("GET /", "X-Forwarded-For: 192.0.2.66"),
        req("GET /"),
        nginx=BELIEVES,
        haproxy=BELIEVES,
    ),
    passes(
        "X-Forwarded-Proto of a client",
        req("GET /", "X-Forwarded-Proto: https"),
        req("GET /"),
        nginx=BELIEVES,
        haproxy=BELIEVES,
    ),
    passes("X-Request-Id of a client", req("GET /", "X-Request-Id: 1"), req("GET /"), nginx=BELIEVES, haproxy=BELIEVES),
]

EXPECT = [
    Row(
        "Expect: 100-continue",
        (req("POST /", "Expect: 100-continue", "Content-Length: 2"), 0.05, b"ab"),
        (req("POST /", "Expect: 100-continue", "Content-Length: 2") + b"ab",),
        (ans("100 Continue") + OK,),
        scripts=((ans("100 Continue"), Do.BODY, OK),),
        nginx="answers 100 itself, drops Expect, and treats the backend's 100 as the final answer",
    ),
    Row(
        "Expect: 100-continue, and no 100",
        (req("POST /", "Expect: 100-continue", "Content-Length: 2"), 0.05, b"ab"),
        (req("POST /", "Expect: 100-continue", "Content-Length: 2") + b"ab",),
        scripts=((Do.BODY, OK),),
        nginx="answers 100 itself, and drops Expect",
    ),
    Row(
        "Expect: 100-continue of HTTP/1.0",
        req("POST / HTTP/1.0", "Expect: 100-continue", "Content-Length: 2", body=b"ab"),
        (req("POST /", "Content-Length: 2") + b"ab",),
        (OK_CLOSED,),
        CLOSED,
        haproxy="forwards the client's version and Expect",
    ),
    passes("another expectation", req("GET /", "Expect: wonders"), nginx="drops Expect"),
]

ROWS = [*HOSTS, *FIELDS, *HOPS, *EXPECT]
