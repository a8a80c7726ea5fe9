"""Heads of answers: status lines, fields, interim answers (RFC 9110 sections 7 and 15, RFC 9112 sections 4 and 5)."""

from __future__ import annotations

from tests.peers.differential.rows import CLOSED, Row, ans, answered, ok, req
from tests.support.plain import OK

OLD = "treats anything but a status line as HTTP/0.9, and forwards it raw"
ANY_VERSION = "accepts any version"
ANY_BYTE = "accepts any byte except line ends"
NAMED = "drops Connection, but not the fields it names"
KEEPS_NAMED = "forwards Connection and the fields it names"
PASSES = "forwards it"
FINAL = "treats an interim answer as final, and the final answer as its body"
SWITCH = "forwards a 101 as a final answer"

STATUS = [
    answered("no reason phrase", b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok"),
    answered(
        "no reason phrase and no space",
        b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok",
    ),
    answered("a reason phrase with bytes above ASCII", ans("200 caf\xe9", "Content-Length: 0")),
    answered("an unknown status", ans("299 Odd", "Content-Length: 0")),
    answered("404", ans("404 Not Found", "Content-Length: 2", body=b"no")),
    answered("500", ans("500 Internal Server Error", "Content-Length: 2", body=b"no")),
    answered("503 of the backend", ans("503 Service Unavailable", "Retry-After: 1", "Content-Length: 0")),
    answered("999", ans("999 Odd", "Content-Length: 0")),
    answered(
        "a status below 100",
        ans("099 Odd", "Content-Length: 0"),
        502,
        nginx="forwards any status",
        haproxy="treats it as an interim answer",
    ),
    answered(
        "a status of four digits",
        ans("2000 OK", "Content-Length: 0"),
        502,
        nginx="forwards any status",
        haproxy="forwards any status",
    ),
    answered("a status of letters", ans("abc OK", "Content-Length: 0"), 502, nginx=OLD),
    answered(
        "HTTP/1.2", b"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok", 502, nginx=ANY_VERSION, haproxy=ANY_VERSION
    ),
    answered(
        "HTTP/2.0", b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 502, nginx=ANY_VERSION, haproxy=ANY_VERSION
    ),
    answered("http in lower case", b"http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 502, nginx=OLD),
    answered(
        "two spaces before the status",
        b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok",
        502,
        nginx="skips spaces",
        haproxy="skips spaces",
    ),
    answered("no HTTP at all", b"220 mail.example ESMTP\r\n\r\n", 502, nginx=OLD),
    answered("an empty line before", b"\r\n" + OK, 502, nginx=OLD, haproxy="skips empty lines"),
    answered("lines that end with LF", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", OK),
    answered(
        "NUL in the reason phrase",
        b"HTTP/1.1 200 O\0K\r\nContent-Length: 2\r\n\r\nok",
        502,
        nginx=ANY_BYTE,
        haproxy=ANY_BYTE,
    ),
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
    answered("Content-Type twice", ok("Content-Type: a/b", "Content-Type: c/d"), nginx="forwards the last one"),
    answered("X-Accel-Redirect", ok("X-Accel-Redirect: /internal"), nginx="obeys it, in a loop here"),
    answered("X-Accel-Buffering", ok("X-Accel-Buffering: no"), nginx="obeys it, and drops it"),
    answered("Alt-Svc", ok('Alt-Svc: h3=":443"')),
    answered("no colon", ok("X"), 502, nginx="drops the line"),
    answered("a space before the colon", ok("X : y"), 502),
    answered("a space in a name", ok("X Y: z"), 502),
    answered("a folded field", ok("X: a", " b"), 502, haproxy="joins the lines"),
    answered("NUL in a value", ok("X: a\0b"), 502, haproxy=ANY_BYTE),
    answered("a control character in a value", ok("X: a\x01b"), 502, nginx=ANY_BYTE, haproxy=ANY_BYTE),
    answered("a bare CR in a value", ok("X: a\rb"), 502),
    answered(
        "Connection that names a field",
        ok("Connection: X-A", "X-A: 1", "X-B: 2"),
        ok("X-B: 2"),
        nginx=NAMED,
        haproxy=KEEPS_NAMED,
    ),
    answered(
        "Connection that names Set-Cookie",
        ok("Connection: Set-Cookie", "Set-Cookie: a=b"),
        ok(),
        nginx=NAMED,
        haproxy=KEEPS_NAMED,
    ),
    answered(
        "Connection: keep-alive",
        ok("Connection: keep-alive", "Keep-Alive: timeout=60"),
        OK,
        haproxy="forwards Keep-Alive",
    ),
    answered("Connection: close", ok("Connection: close"), OK),
    answered("Proxy-Connection", ok("Proxy-Connection: keep-alive"), OK, nginx=PASSES, haproxy=PASSES),
    answered("Proxy-Authenticate", ok("Proxy-Authenticate: Basic realm=x"), OK, nginx=PASSES, haproxy=PASSES),
    answered(
        "Upgrade of a 200",
        ok("Upgrade: h2c", "Connection: Upgrade"),
        ans("200 OK", "Upgrade: h2c", "Content-Length: 2", "Connection: Upgrade", body=b"ok"),
        nginx="drops the matching Connection",
    ),
    answered(
        "Upgrade of a 426",
        ans("426 Upgrade Required", "Upgrade: x", "Content-Length: 0", "Connection: Upgrade"),
        nginx="drops the matching Connection",
    ),
    answered("Trailer without trailers", ok("Trailer: X-Sum")),
    answered("WWW-Authenticate", ans("401 Unauthorized", "WWW-Authenticate: Basic realm=x", "Content-Length: 0")),
]

UPGRADE = req("GET /", "Upgrade: h2c", "Connection: Upgrade")
HINTS = ans("103 Early Hints", "Link: </a>; rel=preload")

INTERIM = [
    answered("an unexpected 100", ans("100 Continue") + OK, nginx=FINAL),
    answered("103", HINTS + OK, nginx=FINAL),
    answered("102 and 103", ans("102 Processing") + HINTS + OK, nginx=FINAL),
    answered(
        "103 with a length",
        ans("103 Early Hints", "Content-Length: 5", "Link: </a>") + OK,
        ans("103 Early Hints", "Link: </a>") + OK,
        nginx=FINAL,
    ),
    answered("103 on its own packet", (HINTS, 0.05, OK), HINTS + OK, nginx=FINAL),
    answered("an unknown 1xx", ans("199 Odd") + OK, nginx=FINAL),
    answered(
        "103 for HTTP/1.0",
        HINTS + OK,
        ans("200 OK", "Content-Length: 2", "Connection: close", body=b"ok"),
        sent=req("GET / HTTP/1.0"),
        end=CLOSED,
        seen=(req("GET /"),),
        nginx=FINAL,
        haproxy="forwards the client's version, and interim answers even to HTTP/1.0",
    ),
    answered(
        "an unrequested 101",
        ans("101 Switching Protocols", "Upgrade: h2c", "Connection: Upgrade"),
        502,
        nginx=SWITCH,
    ),
    answered(
        "101 and an answer behind it",
        ans("101 Switching Protocols", "Upgrade: h2c", "Connection: Upgrade") + OK,
        502,
        nginx=SWITCH,
    ),
    answered("101 without Upgrade", ans("101 Switching Protocols"), 502, nginx=SWITCH),
    answered(
        "101 for an upgrade that the route does not list",
        ans("101 Switching Protocols", "Upgrade: h2c", "Connection: Upgrade"),
        502,
        sent=UPGRADE,
        seen=(req("GET /"),),
        nginx=SWITCH,
        haproxy="forwards every upgrade",
    ),
]

ROWS: list[Row] = [*STATUS, *FIELDS, *INTERIM]
