"""Heads of answers: status lines, fields, interim answers (RFC 9110 sections 7 and 15, RFC 9112 sections 4 and 5)."""

from __future__ import annotations

from tests.peers.differential.rows import CLOSED, Row, ans, answered, ok, req
from tests.support.plain import OK

STATUS = [
    answered("no reason phrase", b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok"),
    answered(
        "no reason phrase and no space",
        b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok",
    ),
    answered("a reason phrase with bytes above ASCII", ans("200 caf\xe9", "Content-Length: 0")),
    answered("a status that nobody knows", ans("299 Odd", "Content-Length: 0")),
    answered("404", ans("404 Not Found", "Content-Length: 2", body=b"no")),
    answered("500", ans("500 Internal Server Error", "Content-Length: 2", body=b"no")),
    answered("503 of the backend", ans("503 Service Unavailable", "Retry-After: 1", "Content-Length: 0")),
    answered("999", ans("999 Odd", "Content-Length: 0")),
    answered("a status below 100", ans("099 Odd", "Content-Length: 0"), 502),
    answered("a status of four digits", ans("2000 OK", "Content-Length: 0"), 502),
    answered("a status of letters", ans("abc OK", "Content-Length: 0"), 502),
    answered("HTTP/1.2", b"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok", 502),
    answered("HTTP/2.0", b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 502),
    answered("http in lower case", b"http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 502),
    answered("two spaces before the status", b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok", 502),
    answered("no HTTP at all", b"220 mail.example ESMTP\r\n\r\n", 502),
    answered("an empty line before", b"\r\n" + OK, 502),
    answered("lines that end with LF", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", OK),
    answered("NUL in the reason phrase", b"HTTP/1.1 200 O\0K\r\nContent-Length: 2\r\n\r\nok", 502),
    answered("the redirect of a login", ans("302 Found", "Location: http://x/login?a=%2F", "Content-Length: 0")),
]

FIELDS = [
    answered("order and case", ok("B-b: 2", "a-A: 1", "C: 3")),
    answered("cookies", ok("Set-Cookie: a=b; Path=/", "X: y", "Set-Cookie: c=d, e")),
    answered("an empty value", ok("X:")),
    answered("white space around a value", ok("X: \t y \t ")),
    answered("bytes above ASCII in a value", ok("X: caf\xe9")),
    answered("an underscore in a name", ok("X_Y: z")),
    answered("a long value", ok("X: " + "y" * 3000)),
    answered("a hundred fields", ok(*(f"X-{number}: y" for number in range(90)))),
    answered("a head over the limit", ok(*(f"X-{number}: {'y' * 1000}" for number in range(80))), 502),
    answered("Server and Date", ok("Server: me", "Date: Thu, 01 Jan 1970 00:00:00 GMT")),
    answered("Via", ok("Via: 1.1 another")),
    answered("Content-Encoding", ok("Content-Encoding: gzip", 'ETag: W/"a"', "Vary: Accept-Encoding")),
    answered("Content-Type twice", ok("Content-Type: a/b", "Content-Type: c/d")),
    answered("X-Accel-Redirect", ok("X-Accel-Redirect: /internal")),
    answered("X-Accel-Buffering", ok("X-Accel-Buffering: no")),
    answered("Alt-Svc", ok('Alt-Svc: h3=":443"')),
    answered("no colon", ok("X"), 502),
    answered("a space before the colon", ok("X : y"), 502),
    answered("a space in a name", ok("X Y: z"), 502),
    answered("a folded field", ok("X: a", " b"), 502),
    answered("NUL in a value", ok("X: a\0b"), 502),
    answered("a control character in a value", ok("X: a\x01b"), 502),
    answered("a bare CR in a value", ok("X: a\rb"), 502),
    answered("Connection that names a field", ok("Connection: X-A", "X-A: 1", "X-B: 2"), ok("X-B: 2")),
    answered("Connection that names Set-Cookie", ok("Connection: Set-Cookie", "Set-Cookie: a=b"), ok()),
    answered("Connection: keep-alive", ok("Connection: keep-alive", "Keep-Alive: timeout=60"), OK),
    answered("Connection: close", ok("Connection: close"), OK),
    answered("Proxy-Connection", ok("Proxy-Connection: keep-alive"), OK),
    answered("Proxy-Authenticate", ok("Proxy-Authenticate: Basic realm=x"), OK),
    answered("Upgrade of a 200", ok("Upgrade: h2c", "Connection: Upgrade")),
    answered("Upgrade of a 426", ans("426 Upgrade Required", "Upgrade: x", "Content-Length: 0", "Connection: Upgrade")),
    answered("Trailer without trailers", ok("Trailer: X-Sum")),
    answered("WWW-Authenticate", ans("401 Unauthorized", "WWW-Authenticate: Basic realm=x", "Content-Length: 0")),
]

UPGRADE = req("GET /", "Upgrade: h2c", "Connection: Upgrade")
HINTS = ans("103 Early Hints", "Link: </a>; rel=preload")

INTERIM = [
    answered("100 that nobody expects", ans("100 Continue") + OK),
    answered("103", HINTS + OK),
    answered("102 and 103", ans("102 Processing") + HINTS + OK),
    answered(
        "103 with a length",
        ans("103 Early Hints", "Content-Length: 5", "Link: </a>") + OK,
        ans("103 Early Hints", "Link: </a>") + OK,
    ),
    answered("103 on its own packet", (HINTS, 0.05, OK), HINTS + OK),
    answered("a 1xx that nobody knows", ans("199 Odd") + OK),
    answered(
        "103 for HTTP/1.0",
        HINTS + OK,
        ans("200 OK", "Content-Length: 2", "Connection: close", body=b"ok"),
        sent=req("GET / HTTP/1.0"),
        end=CLOSED,
        seen=(req("GET /"),),
    ),
    answered("101 that nobody asked for", ans("101 Switching Protocols", "Upgrade: h2c", "Connection: Upgrade"), 502),
    answered(
        "101 and an answer behind it", ans("101 Switching Protocols", "Upgrade: h2c", "Connection: Upgrade") + OK, 502
    ),
    answered("101 without Upgrade", ans("101 Switching Protocols"), 502),
    answered(
        "101 for an upgrade that is not listed",
        ans("101 Switching Protocols", "Upgrade: h2c", "Connection: Upgrade"),
        502,
        sent=UPGRADE,
        seen=(req("GET /"),),
    ),
]

ROWS: list[Row] = [*STATUS, *FIELDS, *INTERIM]
