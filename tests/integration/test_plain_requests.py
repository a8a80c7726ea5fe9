"""Plain requests: whether they reach the backend, and in which form.

Each case runs on a new connection and on a kept one, in one packet and byte by byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from tests.conftest import StartGateway
from tests.support.gateway import Gateway, route
from tests.support.plain import OK, Message, RawBackend, play
from tests.support.raw import handshake, request, switching

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAYS = pytest.mark.parametrize(
    ("kept", "bytewise"),
    [(False, False), (True, False), (False, True), (True, True)],
    ids=["new", "kept", "new-bytewise", "kept-bytewise"],
)


@dataclass(frozen=True)
class Case:
    """A request, and what the backend gets. If ``line`` is None it gets nothing, and the client gets ``status``."""

    sent: bytes
    line: str | None
    """the request line"""
    fields: Mapping[str, str | None] = field(default_factory=dict)
    """values that the backend gets; None for an absent field"""
    body: bytes = b""
    status: int = 200

    @property
    def method(self) -> str:
        return self.sent.split(b" ", 1)[0].decode()


def get(target: str, host: str = "x", line: str | None = None, method: str = "GET") -> Case:
    """A target that the backend gets as sent, unless ``line`` says otherwise."""
    return Case(request(target, method=method, host=host), line or f"{method} {target} HTTP/1.1", {"Host": host})


def refused(sent: bytes, status: int = 400) -> Case:
    return Case(sent, None, status=status)


def underscored(name: str) -> Case:
    return Case(request("/", f"{name}: 192.0.2.66", "X-Other: y"), "GET / HTTP/1.1", {name: None, "X-Other": "y"})


TARGETS = {
    # route and backend see one target; an origin server is sent the origin form (RFC 9112 section 3.2.1)
    "absolute": get("http://x/p?q", line="GET /p?q HTTP/1.1"),
    "absolute, no path but a query": get("http://x.test?/admin/users", "x.test", "GET /?/admin/users HTTP/1.1"),
    "absolute, nothing behind the authority": get("http://x.test", "x.test", "GET / HTTP/1.1"),
    "absolute, scheme in capitals": get("HTTP://x.test/p", "x.test", "GET /p HTTP/1.1"),
    "absolute, host in capitals": get("http://X.TEST/p", "x.test", "GET /p HTTP/1.1"),
    "absolute, a rejecting route": refused(request("http://x.test/admin/users", host="x.test"), 426),
    "absolute, two slashes before a rejecting route": refused(request("http://x.test//admin", host="x.test"), 426),
    "absolute, OPTIONS of the whole server": get("http://x.test", "x.test", "OPTIONS * HTTP/1.1", "OPTIONS"),
    # the target as the client sent it
    "empty query": get("/x?"),
    "empty query of the root": get("/?"),
    "two question marks": get("/x??a=?&b"),
    "slashes": get("/a//b///c"),
    "dots": get("/a/./b/../c"),
    "escapes in both cases": get("/%7ex/%7Ey/%c3%a9/%C3%A9"),
    "an escaped slash": get("/a%2Fb"),
    "odd characters": get('/a|b\\c^d`{e}"<f>[g]'),
    "asterisk": get("*", method="OPTIONS"),
    # a default port named in the target or in Host is the same authority
    "default port in the target": get("http://x.test:80/p", "x.test", "GET /p HTTP/1.1"),
    "default port in Host": get("http://x.test/p", "x.test:80", "GET /p HTTP/1.1"),
    "default port in both": get("http://x.test:80/p", "x.test:80", "GET /p HTTP/1.1"),
    "empty port in the target": get("http://x.test:/p", "x.test", "GET /p HTTP/1.1"),
    "another port in the target": refused(request("http://x.test:81/p", host="x.test")),
    "another port in Host": refused(request("http://x.test/p", host="x.test:443")),
    "another host in the target": refused(request("http://y.test/p", host="x.test")),
    # what two servers could resolve differently
    "a dot segment behind an escaped slash": refused(request("/a/..%2Fadmin")),
    "a dot segment behind an escaped backslash": refused(request("/a%5C..%5Cadmin")),
    "a malformed escape": refused(request("/a%zz")),
    "a fragment": refused(request("/a#b")),
}

METHODS = {
    f"{method}": get("/", method=method)
    for method in ("FROBNICATE", "PURGE", "get", "M-SEARCH", "A!#$%&'*+-.^_`|~9z", "VERSION-CONTROL", "X")
}

FIELDS = {
    # field names that a CGI or WSGI backend cannot tell from ours
    "X_Forwarded_For": underscored("X_Forwarded_For"),
    "X-Forwarded_For": underscored("X-Forwarded_For"),
    "x_request_id": underscored("x_request_id"),
    "X_Anything": underscored("X_Anything"),
    "Content_Length": underscored("Content_Length"),
    "X-Forwarded-For of a client": Case(
        request("/", "X-Forwarded-For: 192.0.2.66"), "GET / HTTP/1.1", {"X-Forwarded-For": "127.0.0.1"}
    ),
    "named in Connection": Case(
        request("/", "X-One: 1", "Connection: keep-alive, x-one", "X-Two: 2"),
        "GET / HTTP/1.1",
        {"X-One": None, "X-Two": "2", "Connection": None},
    ),
    "X-Forwarded-For named in Connection": Case(
        request("/", "Connection: X-Forwarded-For"), "GET / HTTP/1.1", {"X-Forwarded-For": "127.0.0.1"}
    ),
}

CODINGS = {
    f"{value}": refused(
        request("/", f"Transfer-Encoding: {value}", method="POST") + b"0\r\n\r\n",
        status,
    )
    for value, status in {
        "gzip, chunked": 501,
        "gzip": 501,
        "identity": 501,
        "deflate , chunked": 501,
        "chunked, gzip": 400,
        "chunked, chunked": 400,
        "chunked;q=1": 400,
        "": 400,
        "\x0bchunked": 400,
    }.items()
}

BODIES = {
    "length": Case(request("/", "Content-Length: 5", method="POST") + b"a\r\n\0b", "POST / HTTP/1.1", {}, b"a\r\n\0b"),
    "chunked, with extension and trailer": Case(
        request("/", "Transfer-Encoding: chunked", "Trailer: X-Sum", method="POST")
        + b"5;name=value\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n",
        "POST / HTTP/1.1",
        {"Transfer-Encoding": "chunked", "Content-Length": None, "Trailer": "X-Sum"},
        b"hello world",
    ),
    "chunked in capitals": Case(
        request("/", "Transfer-Encoding: CHUNKED", method="PUT") + b"A\r\n0123456789\r\n0\r\n\r\n",
        "PUT / HTTP/1.1",
        {},
        b"0123456789",
    ),
    "a body of GET": Case(request("/", "Content-Length: 2") + b"ab", "GET / HTTP/1.1", {"Content-Length": "2"}, b"ab"),
    "both": refused(request("/", "Content-Length: 5", "Transfer-Encoding: chunked", method="POST") + b"0\r\n\r\n"),
    "two lengths": refused(request("/", "Content-Length: 1", "Content-Length: 2", method="POST") + b"ab"),
    "a signed length": refused(request("/", "Content-Length: +1", method="POST") + b"a"),
    "an invalid chunk": refused(request("/", "Transfer-Encoding: chunked", method="POST") + b"zz\r\n"),
}

CASES = {
    f"{kind}: {name}": case
    for kind, cases in {
        "target": TARGETS,
        "method": METHODS,
        "field": FIELDS,
        "coding": CODINGS,
        "body": BODIES,
    }.items()
    for name, case in cases.items()
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(start_shared_gateway: StartGateway, raw_backend: RawBackend) -> Gateway:
    return await start_shared_gateway(
        {
            "upstreams": {"one": {"backends": [raw_backend.address]}},
            "routes": [route("admin", "one", http="reject"), route("all", "one", "/")],
        }
    )


def check(seen: Message, case: Case) -> None:
    assert seen.head is not None
    assert seen.head.first_line == case.line
    assert {name: seen.head.value(name) for name in case.fields} == dict(case.fields)
    assert seen.cut is None
    assert seen.body == case.body


FRAMED = ("coding: ", "body: ")
"""Cases that go through compiled code."""


@WAYS
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name.startswith(FRAMED) else pytest.mark.either_build) for name in CASES],
)
async def test_a_request(gateway: Gateway, raw_backend: RawBackend, name: str, kept: bool, bytewise: bool) -> None:
    case = CASES[name]
    raw_backend.plays((OK,), bytewise=bytewise)
    seen = await play(gateway.address, case.sent, (case.method,), kept=kept, bytewise=bytewise)
    (answer,) = seen.answers
    assert answer.status == case.status, answer
    if case.line is None:
        if raw_backend.requests:  # where a body shows only later that it is malformed: it never looks whole
            await raw_backend.closed()
            assert raw_backend.requests[0].cut
        if seen.after is not None:
            assert seen.after.body == b"/after"
        return
    assert answer.body == b"ok"
    (request_,) = raw_backend.requests
    check(request_, case)
    assert seen.after is not None, "the client's connection was closed"
    assert seen.after.body == b"/after"


@WAYS
@pytest.mark.parametrize(
    ("target", "host", "backend_gets"),
    [
        ("http://x.test/chat?a", "x.test", "/chat?a"),
        ("http://x.test?/chat", "x.test", "/?/chat"),
        ("http://x.test:80/chat", "x.test", "/chat"),
        ("/chat?", "x.test", "/chat?"),
        ("/a/../chat", "x.test", "/a/../chat"),
    ],
)
async def test_a_handshake(
    gateway: Gateway, raw_backend: RawBackend, target: str, host: str, backend_gets: str, kept: bool, bytewise: bool
) -> None:
    """Its target is treated like that of any other request."""
    raw_backend.plays((switching(),), bytewise=bytewise)
    sent = handshake(target, "X_Forwarded_For: 192.0.2.66", host=host)
    seen = await play(gateway.address, sent, kept=kept, bytewise=bytewise, behind=0)
    (answer,) = seen.answers
    assert answer.status == 101
    (request_,) = raw_backend.requests
    assert request_.head is not None
    assert request_.head.first_line == f"GET {backend_gets} HTTP/1.1"
    assert request_.value("Host") == host
    assert request_.value("X_Forwarded_For") is None


async def test_one_target_at_a_time_is_remembered(gateway: Gateway, raw_backend: RawBackend) -> None:
    """Requests that differ only in their target or in one byte of their fields are not mixed up."""
    raw_backend.plays((OK,))
    sent = (
        request("/a", host="x")
        + request("/a?", host="x")
        + request("/b", host="x")
        + request("/b", "X-A: 1", host="x")
        + request("/b", "X-A: 2", host="x")
        + request("http://x/b", "X-A: 2", host="x")
        + request("/admin", "X-A: 2", host="x")
    )
    seen = await play(gateway.address, sent, ["GET"] * 7)
    assert [answer.status for answer in seen.answers] == [200] * 6 + [426]
    heads = [message.head for message in raw_backend.requests if message.head is not None]
    assert [(head.target, head.value("X-A")) for head in heads] == [
        ("/a", None),
        ("/a?", None),
        ("/b", None),
        ("/b", "1"),
        ("/b", "2"),
        ("/b", "2"),
    ]
