"""Request lines: methods, targets, versions (RFC 9112 section 3, RFC 9110 section 9)."""

from __future__ import annotations

from tests.peers.differential.rows import CLOSED, OK_CLOSED, OK_STAYS, Row, passes, refused, req
from tests.support.plain import OK

LF = "accepts LF as a line end (RFC 9112 section 2.2); a parser that looks for CRLF would read on"
ABSOLUTE = "forwards the absolute form; origin servers expect the origin form (RFC 9112 section 3.2.1)"
VERSION = "forwards the client's version; each sender should state its own (RFC 9112 section 2.3)"
CAPITALS = "accepts only capital letters, _ and - in a method"
LATER = "treats it as HTTP/1.1 (RFC 9110 section 2.5); ours refuses versions that do not exist"

METHODS = [
    *(passes(f"method {name}", req(f"{name} /")) for name in ("GET", "DELETE", "OPTIONS", "PATCH", "REPORT", "MKCOL")),
    Row("method HEAD", req("HEAD /"), got=(OK[:-2],)),
    passes("an unknown method", req("FROBNICATE /")),
    passes("a method of one letter", req("X /")),
    passes("a method in lower case", req("get /"), nginx=CAPITALS),
    passes("a method of all characters of a token", req("A!#$%&'*+-.^_`|~9z /"), nginx=CAPITALS),
    passes("a method with a dash", req("M-SEARCH /")),
    passes("TRACE", req("TRACE /"), nginx="refuses TRACE"),
    refused(
        "CONNECT to a host", req("CONNECT x:443", host="x:443"), haproxy="forwards CONNECT, as a forward proxy does"
    ),
    refused("CONNECT with a path", req("CONNECT /"), nginx="answers 405"),
    refused("a method with an invalid character", req("GE(T /")),
    refused("a method with a colon", req("GET: /")),
    refused(
        "a method of 65 bytes",
        req("A" * 65 + " /"),
        nginx="limits the size of heads, not of methods",
        haproxy="limits the size of heads, not of methods",
    ),
    refused("no method", b" / HTTP/1.1\r\nHost: x\r\n\r\n"),
    refused(
        "PRI of HTTP/2",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        505,
        nginx="answers 400 to a preface of HTTP/2",
        haproxy="speaks HTTP/2 without TLS",
    ),
]

TARGETS = [
    passes("the simplest", req("GET /")),
    passes("a query", req("GET /a?b=c&d")),
    passes("an empty query", req("GET /a?")),
    passes("a query with question marks and slashes", req("GET /a?b?c//../d")),
    passes("two slashes", req("GET //a")),
    passes("slashes within", req("GET /a//b")),
    passes("a dot segment", req("GET /a/./b")),
    passes("two dots", req("GET /a/../b")),
    passes("an escaped dot segment", req("GET /a/%2e%2e/b")),
    passes(
        "dots above the root",
        req("GET /../a"),
        nginx="refuses paths above the root; RFC 3986 section 5.2.4 stays at the root",
    ),
    passes("escapes in both cases", req("GET /%7e%C3%a9")),
    passes("an escaped slash", req("GET /a%2Fb")),
    passes("an escaped slash and no dots beside it", req("GET /a%2F%2Fb")),
    passes("an escaped NUL", req("GET /a%00b"), nginx="refuses %00, which no file name can contain"),
    passes("escaped line ends", req("GET /a%0d%0aX:%20y")),
    passes("an escaped percent sign", req("GET /a%252e%252e/b")),
    passes("a semicolon", req("GET /a;b=c/d")),
    passes("odd characters", req("GET /a|b^`{}<>\"'[]")),
    passes("a backslash", req("GET /a\\b")),
    passes("a long target", req("GET /" + "a" * 4000)),
    refused(
        "dots behind an escaped slash",
        req("GET /a/..%2fb"),
        nginx="decodes %2f before it resolves dots; not every backend does",
        haproxy="does not look at escapes",
    ),
    refused(
        "dots before an escaped slash",
        req("GET /a%2f../b"),
        nginx="decodes %2f before it resolves dots; not every backend does",
        haproxy="does not look at escapes",
    ),
    refused(
        "dots between backslashes",
        req("GET /a\\..\\b"),
        nginx="treats a backslash like any other character; not every backend does",
        haproxy="treats a backslash like any other character; not every backend does",
    ),
    refused(
        "dots with parameters",
        req("GET /a/..;x/b"),
        nginx="does not strip path parameters, as servlet containers do",
        haproxy="does not strip path parameters, as servlet containers do",
    ),
    refused("a malformed escape", req("GET /a%zzb"), haproxy="does not look at escapes"),
    refused("half an escape", req("GET /a%2"), haproxy="does not look at escapes"),
    refused("a fragment", req("GET /a#b"), nginx="ignores the fragment when matching, and forwards it"),
    refused("bytes above ASCII", b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n", nginx="forwards them, against RFC 3986"),
    refused("a control character", b"GET /a\x01b HTTP/1.1\r\nHost: x\r\n\r\n"),
    refused("NUL", b"GET /a\0b HTTP/1.1\r\nHost: x\r\n\r\n"),
    refused("DEL", b"GET /a\x7fb HTTP/1.1\r\nHost: x\r\n\r\n", haproxy="accepts DEL in a target"),
    refused("a tab", b"GET /a\tb HTTP/1.1\r\nHost: x\r\n\r\n"),
    refused("a space", req("GET /a b")),
    refused("no target", b"GET HTTP/1.1\r\nHost: x\r\n\r\n"),
    refused("a relative path", req("GET a/b")),
    refused("only a query", req("GET ?a")),
    refused("asterisk for GET", req("GET *"), haproxy="accepts the asterisk with any method"),
    passes("asterisk for OPTIONS", req("OPTIONS *"), nginx="has no location that matches the asterisk"),
    refused("asterisk and more", req("OPTIONS *a"), haproxy="accepts anything behind the asterisk"),
    passes("absolute form", req("GET http://x/p?q"), req("GET /p?q"), haproxy=ABSOLUTE),
    passes("absolute form, https", req("GET https://x/p"), req("GET /p"), haproxy=ABSOLUTE),
    passes("absolute form, capitals", req("GET HTTP://X/p"), req("GET /p"), haproxy=ABSOLUTE),
    passes("absolute form, no path", req("GET http://x"), req("GET /"), haproxy=ABSOLUTE),
    passes(
        "absolute form, no path but a query",
        req("GET http://x?/admin"),
        req("GET /?/admin"),
        haproxy="reads the query as part of the host, which then differs from Host",
    ),
    passes("absolute form, default port", req("GET http://x:80/p"), req("GET /p"), haproxy=ABSOLUTE),
    passes(
        "absolute form, default port in Host",
        req("GET http://x/p", host="x:80"),
        req("GET /p", host="x:80"),
        haproxy=ABSOLUTE,
    ),
    passes("absolute form, empty port", req("GET http://x:/p"), req("GET /p"), haproxy=ABSOLUTE),
    passes(
        "absolute form, OPTIONS",
        req("OPTIONS http://x"),
        req("OPTIONS *"),
        nginx="makes it OPTIONS /, where RFC 9112 section 3.2.4 has OPTIONS *",
        haproxy=ABSOLUTE,
    ),
    passes("absolute form, OPTIONS of a path", req("OPTIONS http://x/"), req("OPTIONS /"), haproxy=ABSOLUTE),
    refused(
        "absolute form, another host",
        req("GET http://y/p"),
        nginx="matches by the host of the target, and forwards the Host field",
    ),
    refused(
        "absolute form, another port",
        req("GET http://x:81/p"),
        nginx="matches by the host of the target, and forwards the Host field",
    ),
    refused("absolute form, no host", req("GET http:///p", host=""), haproxy="accepts an empty host"),
    refused("absolute form, user information", req("GET http://u@x/p"), haproxy="forwards user information"),
    refused(
        "absolute form, another scheme", req("GET ftp://x/p"), nginx="accepts any scheme", haproxy="accepts any scheme"
    ),
    refused("authority form", req("GET x:80", host="x:80"), haproxy="accepts the authority form with any method"),
]

VERSIONS = [
    Row("HTTP/1.0", req("GET / HTTP/1.0"), (req("GET /"),), (OK_CLOSED,), CLOSED, haproxy=VERSION),
    Row(
        "HTTP/1.0 with keep-alive",
        req("GET / HTTP/1.0", "Connection: keep-alive"),
        (req("GET /"),),
        (OK_STAYS,),
        haproxy=VERSION,
    ),
    Row(
        "HTTP/1.0 without Host",
        req("GET / HTTP/1.0", host=None),
        (req("GET /", host="one"),),
        (OK_CLOSED,),
        CLOSED,
        nginx="omits Host, as the value of $http_host is empty",
        haproxy="forwards the client's version, and adds no Host",
    ),
    refused("HTTP/1.2", b"GET / HTTP/1.2\r\nHost: x\r\n\r\n", nginx=LATER, haproxy=LATER),
    refused("HTTP/1.10", b"GET / HTTP/1.10\r\nHost: x\r\n\r\n", nginx=LATER),
    refused("HTTP/01.1", b"GET / HTTP/01.1\r\nHost: x\r\n\r\n"),
    refused("HTTP/2.0", b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505, haproxy="accepts any version of two digits"),
    refused("HTTP/0.9", b"GET / HTTP/0.9\r\nHost: x\r\n\r\n", haproxy="accepts any version of two digits"),
    refused("no version", b"GET /\r\n\r\n", nginx="speaks HTTP/0.9"),
    refused("no version, and fields", b"GET /\r\nHost: x\r\n\r\n", nginx="speaks HTTP/0.9"),
    refused("a version in lower case", b"GET / http/1.1\r\nHost: x\r\n\r\n"),
    refused("another protocol", b"GET / RTSP/1.0\r\nHost: x\r\n\r\n"),
    refused("more behind the version", b"GET / HTTP/1.1 x\r\nHost: x\r\n\r\n"),
    refused(
        "a space behind the version",
        b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
        nginx="ignores spaces at the end of the line",
    ),
    passes("two spaces before the target", b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", req("GET /")),
    passes("two spaces before the version", b"GET /  HTTP/1.1\r\nHost: x\r\n\r\n", req("GET /")),
    refused("a tab before the target", b"GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n", haproxy="accepts a tab as a space"),
    passes("an empty line before", b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", req("GET /")),
    passes("two empty lines before", b"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", req("GET /")),
    refused("a line that ends with LF", b"GET / HTTP/1.1\nHost: x\r\n\r\n", nginx=LF, haproxy=LF),
    refused("all lines end with LF", b"GET / HTTP/1.1\nHost: x\n\n", nginx=LF, haproxy=LF),
    refused("a bare CR in the first line", b"GET / HTTP/1.1\rHost: x\r\n\r\n"),
    refused("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
]

ROWS = [*METHODS, *TARGETS, *VERSIONS]
