"""Answers of backends: what the client gets, and whether its connection is kept.

Each case runs on a new connection and on a kept one, in one packet and byte by byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import StartGateway
from tests.support.gateway import Gateway, to_one
from tests.support.plain import Do, RawBackend, Script, play
from tests.support.raw import ACCEPT, handshake, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = b"s3cret"

WAYS = pytest.mark.parametrize(
    ("kept", "bytewise"),
    [(False, False), (True, False), (False, True), (True, True)],
    ids=["new", "kept", "new-bytewise", "kept-bytewise"],
)


@dataclass(frozen=True)
class Case:
    """What a backend does, and what its client gets."""

    script: Script
    status: int
    fields: Mapping[str, str | None] = field(default_factory=dict)
    """values that the client gets; None for an absent field"""
    body: bytes = b""
    kept: bool = True
    """whether the client's connection is kept"""
    cut: str | None = None
    """how the connection ends within the answer"""
    sent: bytes = request("/")
    closes_backend: bool = False
    """whether the backend's connection is closed afterwards"""

    @property
    def method(self) -> str:
        return self.sent.split(b" ", 1)[0].decode()


def answer(status: str, *fields: str, body: bytes = b"", version: str = "1.1") -> bytes:
    return "\r\n".join((f"HTTP/{version} {status}", *fields, "", "")).encode("latin-1") + body


def behind(script: bytes, status: int, fields: Mapping[str, str | None] | None = None, **more: Any) -> Case:
    """An answer with bytes behind it: they are dropped, and the backend's connection is closed."""
    return Case((script,), status, fields or {}, closes_backend=True, **more)


def bad(*script: bytes | float | Do) -> Case:
    """An invalid answer: the client gets 502, and none of the backend's bytes."""
    return Case(script, 502, closes_backend=True)


OK_2 = answer("200 OK", "Content-Length: 2", body=b"ok")
HEAD = request("/", method="HEAD")
OLD = b"GET / HTTP/1.0\r\n\r\n"
OLD_KEPT = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"

BEHIND = {
    "204 with chunks": behind(
        answer("204 No Content", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        204,
        {"Transfer-Encoding": None, "Content-Length": None},
    ),
    "204 with a length and a body": behind(
        answer("204 No Content", "Content-Length: 2", body=b"no"), 204, {"Content-Length": None}
    ),
    "more than the length": behind(OK_2 + b"EXTRA", 200, body=b"ok"),
    "a whole answer more": behind(OK_2 + OK_2.replace(b"ok", b"NO"), 200, body=b"ok"),
    "more than the last chunk": behind(
        answer("200 OK", "Transfer-Encoding: chunked", body=b"2\r\nok\r\n0\r\n\r\n\r\n"), 200, body=b"ok"
    ),
    "an empty body, and more": behind(answer("200 OK", "Content-Length: 0", body=b"EXTRA"), 200),
    "304 with a body": behind(answer("304 Not Modified", "Content-Length: 2", body=b"no"), 304),
    "HEAD with a body": behind(OK_2, 200, {"Content-Length": "2"}, sent=HEAD),
}

LENGTHS = {
    # what a field says of a body that is not there is kept (RFC 9110 section 8.6)
    "304": Case(
        (answer("304 Not Modified", "Content-Length: 100", 'ETag: "a"'),),
        304,
        {"Content-Length": "100", "ETag": '"a"'},
    ),
    "HEAD": Case((answer("200 OK", "Content-Length: 100"),), 200, {"Content-Length": "100"}, sent=HEAD),
    "HEAD of what is there no more": Case(
        (answer("404 Not Found", "Content-Length: 9"),), 404, {"Content-Length": "9"}, sent=HEAD
    ),
    "HEAD of what has no length": Case((answer("200 OK", "X: y"),), 200, {"Content-Length": None}, sent=HEAD),
    "HEAD of what has no body": Case((answer("204 No Content"),), 204, sent=HEAD),
    "304 without": Case((answer("304 Not Modified"),), 304, {"Content-Length": None}),
    "205 without a body": Case((answer("205 Reset Content", "Content-Length: 0"),), 205, {"Content-Length": "0"}),
}

UNASKED = {
    # an unrequested 101 is not an answer (RFC 9110 section 7.8)
    "h2c": bad(answer("101 Switching Protocols", "Upgrade: h2c", "Connection: Upgrade")),
    "websocket": bad(
        answer(
            "101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {ACCEPT}"
        )
    ),
    "an answer behind it": bad(answer("101 Switching Protocols", "Upgrade: x", "Connection: Upgrade", body=OK_2)),
    "without fields": bad(answer("101 Switching Protocols")),
    "an upgrade that the route does not list": Case(
        (answer("101 Switching Protocols", "Upgrade: h2c", "Connection: Upgrade"),),
        502,
        sent=request("/", "Upgrade: h2c", "Connection: Upgrade"),
    ),
    "behind a 100": bad(answer("100 Continue") + answer("101 Switch", "Upgrade: x", "Connection: upgrade")),
}

HOPS = {
    # fields of hop-by-hop look that an answer needs (RFC 9110 sections 7.8 and 15.5.22)
    "426": Case(
        (answer("426 Upgrade Required", "Upgrade: websocket", "Connection: Upgrade", "Content-Length: 0"),),
        426,
        {"Upgrade": "websocket", "Connection": "Upgrade"},
    ),
    "200": Case(
        (answer("200 OK", "Upgrade: h2c, TLS/1.2", "Connection: Upgrade", "Content-Length: 2", body=b"ok"),),
        200,
        {"Upgrade": "h2c, TLS/1.2", "Connection": "Upgrade"},
        b"ok",
    ),
    "426, closed": Case(
        (answer("426 Upgrade Required", "Upgrade: websocket", "Connection: close, Upgrade", "Content-Length: 0"),),
        426,
        {"Upgrade": "websocket", "Connection": "Upgrade"},
    ),
    "200 for HTTP/1.0": Case(
        (answer("200 OK", "Upgrade: h2c", "Connection: Upgrade", "Content-Length: 2", body=b"ok"),),
        200,
        {"Upgrade": None},
        b"ok",
        kept=False,
        sent=OLD,
    ),
    "those of one connection": Case(
        (answer("200 OK", "Connection: X-One", "X-One: 1", "Keep-Alive: timeout=9", "X-Two: 2", "Content-Length: 0"),),
        200,
        {"X-One": None, "Keep-Alive": None, "X-Two": "2", "Connection": None},
    ),
}

FRAMES = {
    "chunked, with extension and trailer": Case(
        (answer("200 OK", "Transfer-Encoding: chunked", body=b"2;a=b\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"),), 200, body=b"ok"
    ),
    "until close": Case((answer("200 OK", body=b"ok"), Do.CLOSE), 200, {"Connection": "close"}, b"ok", kept=False),
    "until close, nothing": Case((answer("200 OK"), Do.CLOSE), 200, kept=False),
    "reset before close": Case((answer("200 OK", body=b"ok"), 0.1, Do.RESET), 200, body=b"ok", kept=False, cut="reset"),
    "HTTP/1.0 until close": Case((answer("200 OK", body=b"ok", version="1.0"), Do.CLOSE), 200, body=b"ok", kept=False),
    "HTTP/1.0 with a length": Case(
        (answer("200 OK", "Content-Length: 2", body=b"ok", version="1.0"),), 200, body=b"ok"
    ),
    "chunked for HTTP/1.0": Case(
        (answer("200 OK", "Transfer-Encoding: chunked", body=b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n"),),
        200,
        {"Transfer-Encoding": None},
        b"ok",
        kept=False,
        sent=OLD_KEPT,
    ),
    "a length for HTTP/1.0 with keep-alive": Case((OK_2,), 200, {"Connection": "keep-alive"}, b"ok", sent=OLD_KEPT),
    "a length for HTTP/1.0": Case((OK_2,), 200, {}, b"ok", kept=False, sent=OLD),
    "a client that closes": Case(
        (OK_2,), 200, {"Connection": "close"}, b"ok", kept=False, sent=request("/", "Connection: close")
    ),
    "a backend that closes": Case(
        (answer("200 OK", "Connection: close", "Content-Length: 2", body=b"ok"), Do.CLOSE),
        200,
        {"Connection": None},
        b"ok",
    ),
    "lines that end with LF": Case((b"HTTP/1.1 200 OK\nX: y\nContent-Length: 2\n\nok",), 200, {"X": "y"}, b"ok"),
    "interim answers": Case(
        (answer("103 Early Hints", "Link: </a>") + answer("102 Processing") + OK_2,), 200, body=b"ok"
    ),
    "no reason": Case((b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok",), 200, body=b"ok"),
    "an unknown status": Case((answer("299 Odd", "Content-Length: 2", body=b"ok"),), 299, body=b"ok"),
    # a coding that is not understood
    "gzip, chunked": bad(answer("200 OK", "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n")),
    "gzip": bad(answer("200 OK", "Transfer-Encoding: gzip", body=b"?"), Do.CLOSE),
    "chunked, gzip": bad(answer("200 OK", "Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n")),
    "length and chunked": bad(answer("200 OK", "Content-Length: 2", "Transfer-Encoding: chunked", body=b"0\r\n\r\n")),
    "two lengths": bad(answer("200 OK", "Content-Length: 2", "Content-Length: 3", body=b"ok")),
}

SECRETS = {
    # a client is told nothing of the backend's bytes in an error
    "cut in a name": bad(b"HTTP/1.1 200 OK\r\nX-Internal-Token: s3cret\r\nContent-Le", Do.CLOSE),
    "cut in a value": bad(b"HTTP/1.1 200 OK\r\nX-Internal-Token: s3cr", Do.CLOSE),
    "cut by a reset": bad(b"HTTP/1.1 200 OK\r\nX-Internal-Token: s3cret\r\n", 0.05, Do.RESET),
    "no status line": bad(b"s3cret\r\n\r\n"),
    "a reason with control characters": bad(b"HTTP/1.1 200 s3cret\x01\r\n\r\n"),
    "a name with a space": bad(b"HTTP/1.1 200 OK\r\ns3cret s3cret: 1\r\n\r\n"),
    "a value with NUL": bad(b"HTTP/1.1 200 OK\r\nX-Token: s3cret\0\r\nContent-Length: 0\r\n\r\n"),
    "a folded field": bad(b"HTTP/1.1 200 OK\r\nX-Token: a\r\n s3cret\r\nContent-Length: 0\r\n\r\n"),
    "a length that is not a number": bad(b"HTTP/1.1 200 OK\r\nContent-Length: s3cret\r\n\r\n"),
    "an invalid first chunk": bad(answer("200 OK", "Transfer-Encoding: chunked", body=b"s3cret\r\n")),
    "another version": bad(b"HTTP/3.7 200 s3cret\r\nContent-Length: 0\r\n\r\n"),
    "a status of four digits": bad(b"HTTP/1.1 2000 s3cret\r\nContent-Length: 0\r\n\r\n"),
    "nothing at all": bad(Do.CLOSE),
}

CASES = {
    f"{kind}: {name}": case
    for kind, cases in {
        "behind": BEHIND,
        "length": LENGTHS,
        "101": UNASKED,
        "hop-by-hop": HOPS,
        "framing": FRAMES,
        "error": SECRETS,
    }.items()
    for name, case in cases.items()
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(start_shared_gateway: StartGateway, raw_backend: RawBackend) -> Gateway:
    return await start_shared_gateway(to_one(raw_backend.address))


FRAMED = ("behind: ", "framing: ", "length: ")
"""Cases that go through compiled code."""


@WAYS
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name.startswith(FRAMED) else pytest.mark.either_build) for name in CASES],
)
async def test_an_answer(gateway: Gateway, raw_backend: RawBackend, name: str, kept: bool, bytewise: bool) -> None:
    case = CASES[name]
    raw_backend.plays(case.script, bytewise=bytewise)
    then = raw_backend.closed if case.closes_backend else None
    seen = await play(gateway.address, case.sent, (case.method,), kept=kept, bytewise=bytewise, then=then)
    (got,) = seen.answers
    if name == "error: an invalid first chunk" and got.status == 200:
        # The head went on before the body was there: all that is left is to break the answer off.
        assert bytewise
        assert got.body == b""
        assert got.cut
        return
    assert got.status == case.status, got
    assert {field: got.value(field) for field in case.fields} == dict(case.fields)
    assert got.cut == case.cut
    assert SECRET not in got.framed
    if case.status == 502:
        assert got.head is not None
        assert SECRET not in got.head.raw
        assert got.body.startswith(b"502 Bad Gateway: the backend")
    else:
        assert got.body == case.body
    if case.kept:
        assert seen.after is not None, "the client's connection was closed"
        assert seen.after.body == b"/after"
    else:
        assert seen.after is None


@WAYS
@pytest.mark.parametrize("field", ["Content-Length: 0", "Content-Length: 5", "Transfer-Encoding: chunked"])
async def test_a_switch_has_no_length(
    gateway: Gateway, raw_backend: RawBackend, field: str, kept: bool, bytewise: bool
) -> None:
    """Length fields do not belong in a 101 (RFC 9110 section 8.6): they are removed, and the tunnel opens."""
    accepting = answer(
        "101 Switching Protocols",
        "Upgrade: websocket",
        field,
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {ACCEPT}",
        "X: y",
    )
    raw_backend.plays((accepting + b"\x81\x02hi",), bytewise=bytewise)
    seen = await play(gateway.address, handshake("/"), kept=kept, bytewise=bytewise, behind=4)
    (got,) = seen.answers
    assert got.status == 101
    assert got.value("Content-Length") is None
    assert got.value("Transfer-Encoding") is None
    assert got.value("X") == "y"
    assert seen.behind == b"\x81\x02hi"
