"""Bodies of answers: where they end, bytes behind them, and truncated answers (RFC 9112 sections 6 to 9)."""

from __future__ import annotations

from tests.peers.differential.rows import CLOSED, CUT, OK_CLOSED, OK_STAYS, Row, ans, answered, ok, req
from tests.support.plain import OK, Do

LF = "accepts LF as a line end (RFC 9112 section 2.2); a parser that looks for CRLF would read on"
ONE = "accepts repetitions of one length, as RFC 9110 section 8.6 allows"
NO_LENGTH = "treats it as no length, and waits for the connection to end"
WINS = "prefers chunked and drops the length, as RFC 9112 section 6.3 allows"
DROPS = "drops extensions, as RFC 9112 section 7.1.1 allows"
TRAILERS = "drops trailers"
SENT = "sends the head before it reads the body"
ANY_CODING = "only looks for the word chunked in the value"
VERSION = "forwards the client's version"
THEIR_VERSION = "forwards the backend's version"
OWN_CHUNKS = "sends clients of HTTP/1.1 chunks, and keeps the connection"
OLD_CHUNKS = "forwards the client's version, and sends it chunks"

HEAD = req("HEAD /")
OLD = req("GET / HTTP/1.0")
OLD_KEPT = req("GET / HTTP/1.0", "Connection: keep-alive")
AS_NEW = (req("GET /"),)


def chunked(body: bytes, *fields: str) -> bytes:
    return ans("200 OK", "Transfer-Encoding: chunked", *fields, body=body)


LENGTHS = [
    answered("a length", OK),
    answered("length 0", ans("200 OK", "Content-Length: 0")),
    answered(
        "a length with zeros before it",
        ans("200 OK", "Content-Length: 0002", body=b"ok"),
        nginx="rewrites the length",
    ),
    answered("a body that comes later", (OK[:-2], 0.05, b"o", 0.05, b"k"), OK),
    answered("a length twice", ok("Content-Length: 2"), 502, nginx=ONE, haproxy=ONE),
    answered("two lengths", ok("Content-Length: 3"), 502, nginx="does not compare lengths; later versions refuse two"),
    answered(
        "a list of one length", ans("200 OK", "Content-Length: 2, 2", body=b"ok"), 502, nginx=NO_LENGTH, haproxy=ONE
    ),
    answered("a signed length", ans("200 OK", "Content-Length: +2", body=b"ok"), 502, nginx=NO_LENGTH),
    answered("a negative length", ans("200 OK", "Content-Length: -2", body=b"ok"), 502, nginx=NO_LENGTH),
    answered("a length that is not a number", ans("200 OK", "Content-Length: two", body=b"ok"), 502, nginx=NO_LENGTH),
    answered("an empty length", ans("200 OK", "Content-Length:", body=b"ok"), 502, nginx=NO_LENGTH),
    answered(
        "a length beyond 63 bits",
        ans("200 OK", "Content-Length: 9223372036854775808", body=b"ok"),
        502,
        nginx=NO_LENGTH,
    ),
    answered("length and chunked", chunked(b"0\r\n\r\n", "Content-Length: 5"), 502, nginx=WINS, haproxy=WINS),
    answered(
        "chunked and length",
        ans("200 OK", "Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        502,
        nginx=WINS,
        haproxy=WINS,
    ),
]

CHUNKS = [
    answered("chunks", chunked(b"2\r\nok\r\n1\r\n!\r\n0\r\n\r\n")),
    answered(
        "chunks in many pieces",
        (chunked(b"2"), 0.02, b"\r\no", 0.02, b"k\r", 0.02, b"\n0\r\n\r\n"),
        chunked(b"2\r\nok\r\n0\r\n\r\n"),
    ),
    answered("no chunk but the last", chunked(b"0\r\n\r\n")),
    answered("CHUNKED", ans("200 OK", "Transfer-Encoding: CHUNKED", body=b"2\r\nok\r\n0\r\n\r\n"), nginx="rewrites it"),
    answered("extensions", chunked(b'2;a=b\r\nok\r\n0;c="d"\r\n\r\n'), nginx=DROPS, haproxy=DROPS),
    answered("a trailer", chunked(b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n", "Trailer: X-Sum"), nginx=TRAILERS),
    answered(
        "Content-Length in a trailer",
        chunked(b"2\r\nok\r\n0\r\nContent-Length: 9\r\n\r\n"),
        502,
        nginx=TRAILERS,
        haproxy="accepts any trailer",
    ),
    answered("sizes of a fixed width", chunked(b"2     \r\nok\r\n0     \r\n\r\n")),
    answered("sizes with zeros before them", chunked(b"000002\r\nok\r\n000000\r\n\r\n")),
    answered("LF behind a size", chunked(b"2\nok\r\n0\r\n\r\n"), 502, nginx=LF, haproxy=LF),
    answered("LF behind a chunk", chunked(b"2\r\nok\n0\r\n\r\n"), 502, nginx=LF, haproxy=LF),
    answered("an invalid first chunk", chunked(b"zz\r\n"), 502, nginx=SENT),
    answered("a chunk that is longer than its size", chunked(b"1\r\nok\r\n0\r\n\r\n"), 502, nginx=SENT),
    answered("a size beyond 64 bits", chunked(b"10000000000000002\r\nok\r\n0\r\n\r\n"), 502, nginx=SENT),
    answered(
        "an invalid later chunk",
        (chunked(b"2\r\nok\r\n"), 0.05, b"zz\r\n"),
        chunked(b"2\r\nok\r\n") + CUT,
        end=CLOSED,
    ),
    answered(
        "gzip and chunked", ans("200 OK", "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 502, nginx=ANY_CODING
    ),
    answered("gzip", (ans("200 OK", "Transfer-Encoding: gzip", body=b"?"), Do.CLOSE), 502, nginx=ANY_CODING),
    answered("identity", (ans("200 OK", "Transfer-Encoding: identity", body=b"ok"), Do.CLOSE), 502, nginx=ANY_CODING),
    answered(
        "chunked twice", ans("200 OK", "Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"), 502, nginx=ANY_CODING
    ),
    answered(
        "chunked in HTTP/1.0",
        ans("200 OK", "Transfer-Encoding: chunked", body=b"0\r\n\r\n", version="1.0"),
        502,
        nginx="accepts chunks in HTTP/1.0",
        haproxy="forwards the backend's version, and accepts chunks in HTTP/1.0",
    ),
]

NO_BODY = [
    answered("HEAD with a length", ans("200 OK", "Content-Length: 100"), sent=HEAD),
    answered(
        "HEAD with chunked",
        ans("200 OK", "Transfer-Encoding: chunked"),
        ans("200 OK"),
        sent=HEAD,
        haproxy="keeps Transfer-Encoding in an answer to HEAD",
    ),
    answered("HEAD without a length", ans("200 OK", "X: y"), sent=HEAD),
    answered("HEAD with a body", OK, OK[:-2], sent=HEAD),
    answered("204", ans("204 No Content", "X: y")),
    answered(
        "204 with length 0",
        ans("204 No Content", "Content-Length: 0"),
        ans("204 No Content"),
        nginx="keeps Content-Length in a 204",
    ),
    answered(
        "204 with a body",
        ans("204 No Content", "Content-Length: 2", body=b"no"),
        ans("204 No Content"),
        nginx="keeps Content-Length in a 204",
    ),
    answered(
        "204 with chunks", ans("204 No Content", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"), ans("204 No Content")
    ),
    answered("304", ans("304 Not Modified", 'ETag: "a"')),
    answered("304 with a length", ans("304 Not Modified", "Content-Length: 100")),
    answered(
        "304 with chunked",
        ans("304 Not Modified", "Transfer-Encoding: chunked"),
        ans("304 Not Modified"),
        haproxy="keeps Transfer-Encoding in a 304",
    ),
    answered(
        "304 with a body",
        ans("304 Not Modified", "Content-Length: 2", body=b"no"),
        ans("304 Not Modified", "Content-Length: 2"),
    ),
    answered("205 with length 0", ans("205 Reset Content", "Content-Length: 0")),
]

UNTIL_CLOSE = [
    answered(
        "ended by close",
        (ans("200 OK", body=b"ok"), Do.CLOSE),
        ans("200 OK", "Connection: close", body=b"ok"),
        end=CLOSED,
        nginx=OWN_CHUNKS,
    ),
    answered(
        "ended by close, nothing",
        (ans("200 OK"), Do.CLOSE),
        ans("200 OK", "Connection: close"),
        end=CLOSED,
        nginx=OWN_CHUNKS,
    ),
    answered(
        "ended by close, in pieces",
        (ans("200 OK", body=b"o"), 0.05, b"k", 0.05, Do.CLOSE),
        ans("200 OK", "Connection: close", body=b"ok"),
        end=CLOSED,
        nginx=OWN_CHUNKS,
    ),
    answered(
        "ended by close, and a reset",
        (ans("200 OK", body=b"ok"), 0.05, Do.RESET),
        ans("200 OK", "Connection: close", body=b"ok") + CUT,
        end=CLOSED,
        nginx="sends clients of HTTP/1.1 chunks, here without the last one",
        haproxy="ends it with FIN, as if it were complete",
    ),
    answered(
        "ended by close of HTTP/1.0",
        (ans("200 OK", body=b"ok", version="1.0"), Do.CLOSE),
        ans("200 OK", "Connection: close", body=b"ok"),
        end=CLOSED,
        nginx=OWN_CHUNKS,
        haproxy=THEIR_VERSION,
    ),
    answered(
        "a length of HTTP/1.0",
        (ans("200 OK", "Content-Length: 2", body=b"ok", version="1.0"), Do.CLOSE),
        OK,
        haproxy=THEIR_VERSION,
    ),
    answered(
        "a length of HTTP/1.0 with keep-alive",
        ans("200 OK", "Connection: keep-alive", "Content-Length: 2", body=b"ok", version="1.0"),
        OK,
        haproxy=THEIR_VERSION,
    ),
    answered(
        "ended by close for HTTP/1.0",
        (ans("200 OK", body=b"ok"), Do.CLOSE),
        ans("200 OK", "Connection: close", body=b"ok"),
        sent=OLD,
        seen=AS_NEW,
        end=CLOSED,
        haproxy=VERSION,
    ),
    answered("a length for HTTP/1.0", OK, OK_CLOSED, sent=OLD, seen=AS_NEW, end=CLOSED, haproxy=VERSION),
    answered("a length for HTTP/1.0 with keep-alive", OK, OK_STAYS, sent=OLD_KEPT, seen=AS_NEW, haproxy=VERSION),
    answered(
        "chunks for HTTP/1.0",
        chunked(b"1\r\no\r\n1\r\nk\r\n0\r\nX: y\r\n\r\n"),
        ans("200 OK", "Connection: close", body=b"ok"),
        sent=OLD,
        seen=AS_NEW,
        end=CLOSED,
        haproxy=OLD_CHUNKS,
    ),
    answered(
        "sizes of a fixed width for HTTP/1.0",
        chunked(b"2   \r\nok\r\n0   \r\n\r\n"),
        ans("200 OK", "Connection: close", body=b"ok"),
        sent=OLD,
        seen=AS_NEW,
        end=CLOSED,
        haproxy=OLD_CHUNKS,
    ),
    answered(
        "chunks for HTTP/1.0 with keep-alive",
        chunked(b"2\r\nok\r\n0\r\n\r\n"),
        ans("200 OK", "Connection: close", body=b"ok"),
        sent=OLD_KEPT,
        seen=AS_NEW,
        end=CLOSED,
        haproxy=OLD_CHUNKS,
    ),
]

BREAKS_OFF = [
    answered("closed within the status line", (b"HTTP/1.1 2", Do.CLOSE), 502),
    answered("closed within a field", (b"HTTP/1.1 200 OK\r\nX: y", Do.CLOSE), 502),
    answered("reset within a field", (b"HTTP/1.1 200 OK\r\nX: y", 0.05, Do.RESET), 502),
    answered(
        "closed within a body",
        (ans("200 OK", "Content-Length: 4", body=b"ok"), Do.CLOSE),
        ans("200 OK", "Content-Length: 4", body=b"ok") + CUT,
        end=CLOSED,
    ),
    answered(
        "reset within a body",
        (ans("200 OK", "Content-Length: 4", body=b"ok"), 0.05, Do.RESET),
        ans("200 OK", "Content-Length: 4", body=b"ok") + CUT,
        end=CLOSED,
    ),
    answered(
        "closed before a body",
        (ans("200 OK", "Content-Length: 4"), Do.CLOSE),
        ans("200 OK", "Content-Length: 4") + CUT,
        end=CLOSED,
    ),
    answered("closed within a chunk", (chunked(b"4\r\nok"), Do.CLOSE), chunked(b"4\r\nok") + CUT, end=CLOSED),
    answered("closed within a size", (chunked(b"2\r\nok\r\n1"), Do.CLOSE), chunked(b"2\r\nok\r\n1") + CUT, end=CLOSED),
    answered(
        "closed before the last chunk", (chunked(b"2\r\nok\r\n"), Do.CLOSE), chunked(b"2\r\nok\r\n") + CUT, end=CLOSED
    ),
    answered(
        "reset before the last chunk",
        (chunked(b"2\r\nok\r\n"), 0.05, Do.RESET),
        chunked(b"2\r\nok\r\n") + CUT,
        end=CLOSED,
    ),
    answered(
        "closed within the trailer",
        (chunked(b"2\r\nok\r\n0\r\nX: y\r\n"), Do.CLOSE),
        chunked(b"2\r\nok\r\n0\r\nX: y\r\n") + CUT,
        end=CLOSED,
    ),
    answered(
        "closed within chunks for HTTP/1.0",
        (chunked(b"4\r\nok"), Do.CLOSE),
        ans("200 OK", "Connection: close", body=b"ok") + CUT,
        sent=OLD,
        seen=AS_NEW,
        end=CLOSED,
        nginx="ends it with FIN, as if it were complete",
        haproxy=OLD_CHUNKS,
    ),
    answered(
        "closed behind an interim answer",
        (ans("103 Early Hints"), Do.CLOSE),
        ans("103 Early Hints"),
        502,
        nginx="treats an interim answer as final, and the final answer as its body",
    ),
]

BEHIND = [
    answered("bytes behind a length", OK + b"EXTRA", OK),
    answered(
        "bytes behind length 0", ans("200 OK", "Content-Length: 0", body=b"EXTRA"), ans("200 OK", "Content-Length: 0")
    ),
    answered("bytes behind the last chunk", chunked(b"2\r\nok\r\n0\r\n\r\nEXTRA"), chunked(b"2\r\nok\r\n0\r\n\r\n")),
    answered("an answer behind an answer", OK + ans("200 OK", "Content-Length: 6", body=b"POISON"), OK),
    answered(
        "an answer behind 304",
        ans("304 Not Modified") + ans("200 OK", "Content-Length: 6", body=b"POISON"),
        ans("304 Not Modified"),
    ),
    answered(
        "an answer behind that to HEAD",
        OK[:-2] + ans("200 OK", "Content-Length: 6", body=b"POISON"),
        OK[:-2],
        sent=HEAD,
    ),
    answered("an empty line behind an answer", OK + b"\r\n", OK),
    answered("an answer a little later", (OK, 0.02, ans("200 OK", "Content-Length: 6", body=b"POISON")), OK, rests=0.1),
]

ROWS: list[Row] = [*LENGTHS, *CHUNKS, *NO_BODY, *UNTIL_CLOSE, *BREAKS_OFF, *BEHIND]
