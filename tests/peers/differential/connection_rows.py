"""Pipelining, early answers, and clients that do not wait (RFC 9112 section 9)."""

from __future__ import annotations

from tests.peers.differential.rows import CLOSED, CUT, OK_CLOSED, Row, ans, req
from tests.support.plain import OK, Do

GOES_ON = "continues the upload, and keeps the client's connection"
HUNDRED = "answers 100 itself, and drops Expect"

TOO_LARGE = ans("413 Content Too Large", "Content-Length: 2", body=b"no")
TOO_LARGE_CLOSED = ans("413 Content Too Large", "Content-Length: 2", "Connection: close", body=b"no")
UPLOAD = req("POST /", "Content-Length: 10")
CHUNKED_UPLOAD = req("POST /", "Transfer-Encoding: chunked")


def answer(number: int) -> bytes:
    return ans("200 OK", "Content-Length: 1", body=b"%d" % number)


THREE = ((answer(1),), (answer(2),), (answer(3),))

PIPELINED = [
    Row(
        "two requests in one packet",
        req("GET /1") + req("GET /2"),
        (req("GET /1"), req("GET /2")),
        (answer(1), answer(2)),
        scripts=THREE,
        methods=("GET", "GET"),
    ),
    Row(
        "a body between two requests",
        req("GET /1") + req("POST /2", "Content-Length: 2", body=b"ab") + req("GET /3"),
        (req("GET /1"), req("POST /2", "Content-Length: 2", body=b"ab"), req("GET /3")),
        (answer(1), answer(2), answer(3)),
        scripts=THREE,
        methods=("GET", "POST", "GET"),
    ),
    Row(
        "chunks between two requests",
        req("GET /1") + req("POST /2", "Transfer-Encoding: chunked", body=b"2\r\nab\r\n0\r\n\r\n") + req("GET /3"),
        (req("GET /1"), req("POST /2", "Transfer-Encoding: chunked", body=b"2\r\nab\r\n0\r\n\r\n"), req("GET /3")),
        (answer(1), answer(2), answer(3)),
        scripts=THREE,
        methods=("GET", "POST", "GET"),
        nginx="sends a length once all chunks have arrived",
    ),
    Row(
        "an answer that takes long before a quick one",
        req("GET /1") + req("GET /2"),
        (req("GET /1"), req("GET /2")),
        (answer(1), answer(2)),
        scripts=((0.1, answer(1)), (answer(2),)),
        methods=("GET", "GET"),
    ),
    Row(
        "HEAD before GET",
        req("HEAD /1") + req("GET /2"),
        (req("HEAD /1"), req("GET /2")),
        (answer(1)[:-1], answer(2)),
        scripts=((answer(1)[:-1],), (answer(2),)),
        methods=("HEAD", "GET"),
    ),
    Row(
        "204 and 304 before 200",
        req("GET /1") + req("GET /2") + req("GET /3"),
        (req("GET /1"), req("GET /2"), req("GET /3")),
        (ans("204 No Content"), ans("304 Not Modified"), answer(3)),
        scripts=((ans("204 No Content"),), (ans("304 Not Modified"),), (answer(3),)),
        methods=("GET", "GET", "GET"),
    ),
    Row(
        "empty lines between requests",
        req("GET /1") + b"\r\n\r\n" + req("GET /2"),
        (req("GET /1"), req("GET /2")),
        (answer(1), answer(2)),
        scripts=THREE,
        methods=("GET", "GET"),
    ),
    Row(
        "a request behind one that closes",
        req("GET /1", "Connection: close") + req("GET /2"),
        (req("GET /1"),),
        (OK_CLOSED,),
        CLOSED,
        methods=("GET", "GET"),
    ),
    Row(
        "a request behind one of HTTP/1.0",
        req("GET /1 HTTP/1.0") + req("GET /2"),
        (req("GET /1"),),
        (OK_CLOSED,),
        CLOSED,
        methods=("GET", "GET"),
        haproxy="forwards the client's version",
    ),
    Row(
        "nonsense behind a request",
        req("GET /1") + b"NONSENSE\r\n\r\n",
        (req("GET /1"),),
        (OK, 400),
        CLOSED,
        methods=("GET", "GET"),
    ),
    Row(
        "a request behind a bad one",
        req("GET /1", "X : y") + req("GET /2"),
        (),
        (400,),
        CLOSED,
        methods=("GET", "GET"),
    ),
    Row(
        "a request behind an upgrade that the route does not list",
        req("GET /1", "Upgrade: h2c", "Connection: Upgrade") + req("GET /2"),
        (req("GET /1"), req("GET /2")),
        (answer(1), answer(2)),
        scripts=THREE,
        methods=("GET", "GET"),
        haproxy="forwards every upgrade",
    ),
    Row(
        "a request behind an answer that ends by close",
        req("GET /1") + req("GET /2"),
        (req("GET /1"),),
        (ans("200 OK", "Connection: close", body=b"ok"),),
        CLOSED,
        scripts=((ans("200 OK", body=b"ok"), Do.CLOSE), (answer(2),)),
        methods=("GET", "GET"),
        nginx="sends clients of HTTP/1.1 chunks, and keeps the connection",
    ),
    Row(
        "a head in three pieces",
        (b"GET / HT", 0.02, b"TP/1.1\r\nHost: x\r", 0.02, b"\n\r\n"),
        (req("GET /"),),
    ),
]

EARLY = [
    Row(
        "an answer before the body, which comes",
        (UPLOAD, 0.1, b"0123456789"),
        (UPLOAD + CUT,),
        (TOO_LARGE_CLOSED,),
        CLOSED,
        scripts=((TOO_LARGE, Do.BODY),),
        haproxy=GOES_ON,
    ),
    Row(
        "an answer before the body, and a close",
        (UPLOAD + b"01", 0.1, b"23456789"),
        (UPLOAD,),
        (TOO_LARGE_CLOSED,),
        CLOSED,
        scripts=(
            (Do.EARLY, ans("413 Content Too Large", "Content-Length: 2", "Connection: close", body=b"no"), Do.CLOSE),
        ),
        haproxy=GOES_ON,
    ),
    Row(
        "an answer before the body, and a reset",
        (UPLOAD + b"01", 0.1, b"23456789"),
        (UPLOAD,),
        (TOO_LARGE_CLOSED,),
        CLOSED,
        scripts=((Do.EARLY, TOO_LARGE, 0.05, Do.RESET),),
        haproxy=GOES_ON,
    ),
    Row(
        "an answer before the rest of the chunks",
        (CHUNKED_UPLOAD + b"2\r\nab\r\n", 0.1, b"0\r\n\r\n"),
        (CHUNKED_UPLOAD + b"2\r\nab\r\n" + CUT,),
        (TOO_LARGE_CLOSED,),
        CLOSED,
        scripts=((TOO_LARGE, Do.BODY),),
        haproxy=GOES_ON,
    ),
    Row(
        "an answer in place of 100 Continue",
        (req("POST /", "Content-Length: 10", "Expect: 100-continue"), 0.1),
        (req("POST /", "Content-Length: 10", "Expect: 100-continue"),),
        (ans("401 Unauthorized", "Content-Length: 2", "Connection: close", body=b"no"),),
        CLOSED,
        scripts=((Do.EARLY, ans("401 Unauthorized", "Content-Length: 2", body=b"no"), Do.CLOSE),),
        nginx=HUNDRED,
        haproxy="keeps the connection, and reads what comes next as the body",
    ),
    Row(
        "a backend that resets in an upload",
        (UPLOAD + b"01", 0.1, b"23456789"),
        (UPLOAD,),
        (502,),
        CLOSED,
        scripts=((Do.EARLY, Do.RESET),),
        haproxy="closes without an answer",
    ),
    Row(
        "a backend that closes in an upload",
        (UPLOAD + b"01", 0.1, b"23456789"),
        (UPLOAD,),
        (502,),
        CLOSED,
        scripts=((Do.EARLY, Do.CLOSE),),
    ),
]

GONE = [
    Row(
        "a client that closes before the answer",
        (req("GET /"), 0.1, Do.CLOSE),
        (req("GET /"),),
        (),
        CLOSED,
        scripts=((0.3, OK),),
        haproxy="waits for the answer (abortonclose is off)",
    ),
    Row(
        "a client that resets before the answer",
        (req("GET /"), 0.1, Do.RESET),
        (req("GET /"),),
        (),
        CLOSED,
        scripts=((0.3, OK),),
    ),
    Row(
        "a backend that closes without an answer",
        req("GET /"),
        None,
        (502,),
        scripts=((Do.CLOSE,),),
    ),
    Row(
        "a backend that resets without an answer",
        req("GET /"),
        None,
        (502,),
        scripts=((Do.RESET,),),
    ),
    Row(
        "a backend that closes without an answer to POST",
        req("POST /", "Content-Length: 2", body=b"ab"),
        None,
        (502,),
        scripts=((Do.CLOSE,),),
    ),
]

ROWS = [*PIPELINED, *EARLY, *GONE]
