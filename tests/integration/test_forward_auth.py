"""Forward auth: who is let in, what the auth server is asked, what the backend gets, what the refused get."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Backends, Open, StartGateway
from tests.support.auth_server import GOOD, AuthServer
from tests.support.backends import Web
from tests.support.deadline import eventually, within
from tests.support.examples import examples
from tests.support.frames import TEXT, frame, from_client
from tests.support.gateway import Config, Gateway, route
from tests.support.raw import Answer, Connection, handshake, request

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def auth() -> AsyncIterator[AuthServer]:
    server = await AuthServer.start()
    yield server
    await server.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(shared_backends: Backends) -> Web:
    return await shared_backends.web()


def asks(auth: AuthServer, **keys: Any) -> Config:
    """The ``auth`` of a route."""
    return {"forward": {"url": auth.url, "copy": ["X-User", "X-Group"], "timeout": "10s", **keys}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(start_shared_gateway: StartGateway, auth: AuthServer, web: Web) -> Gateway:
    return await start_shared_gateway(
        {
            "underscores": "pass",
            "upstreams": {"web": {"backends": [web.address]}},
            "routes": [
                route("asked", "web", auth=asks(auth)),
                route("again", "web", auth=asks(auth, copy=[])),
                route("cached", "web", auth=asks(auth, cache="1h")),
                route("rest", "web", "/"),
            ],
        }
    )


@pytest_asyncio.fixture(loop_scope="module")
async def client(gateway: Gateway, open_connection: Open) -> Connection:
    return await open_connection(gateway)


async def ask(client: Connection, *fields: str, path: str = "/asked/x", method: str = "GET") -> Answer:
    await client.send(request(path, *fields, method=method))
    return await client.answer(head_only=method == "HEAD")


def seen(answer: Answer) -> dict[str, Any]:
    """What the backend saw."""
    assert answer.status == 200, answer
    found: dict[str, Any] = json.loads(answer.text)
    return found


def values(seen: dict[str, Any], name: str) -> list[str]:
    return [value for key, value in seen["headers"] if key.lower() == name.lower()]


# --- who is let in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [request, handshake], ids=["plain", "handshake"])
@pytest.mark.parametrize("kept", [False, True], ids=["first", "kept"])
@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "refused"])
async def test_who_may_come_in(
    gateway: Gateway, web: Web, auth: AuthServer, client: Connection, make: Any, kept: bool, allowed: bool
) -> None:
    if kept:
        assert (await ask(client, path="/rest/x")).status == 200
    requests, asked = len(web.connections), len(auth.asked)
    before = await gateway.scrape()
    path = "/asked/ws" if make is handshake else "/asked/x"
    await client.send(make(path, GOOD if allowed else "Authorization: Bearer bad"))
    if allowed:
        if make is handshake:
            assert (await client.head()).status == 101
            await client.echoes(from_client(TEXT, b"hello"), frame(TEXT, b"hello"))
            assert (await gateway.logged(client=client.name, event="handshake", status=101))["user"] == "ann"
        else:
            assert values(seen(await client.answer()), "x-user") == ["ann"]
            assert (await gateway.logged(client=client.name, event="http", user="ann"))["route"] == "asked"
        await gateway.counts(before, "gateway_auth_total", route="asked", method="forward", result="allowed")
    else:
        answer = await client.answer()
        assert (answer.status, answer.text) == (401, '{"error": "none"}')
        assert answer.head.value("www-authenticate") == "Bearer"
        assert answer.head.values("set-cookie") == ["a=1", "b=2"]
        assert answer.head.value("content-type") == "application/json"
        assert answer.head.values("keep-alive") == []
        assert len(web.connections) == requests
        await gateway.counts(before, "gateway_auth_total", route="asked", method="forward", result="denied")
        if make is handshake:
            await gateway.counts(before, "gateway_handshakes_total", route="asked", result="forbidden")
        else:
            await gateway.counts(before, "gateway_http_requests_total", route="asked", code="401")
            assert (await ask(client, GOOD)).status == 200  # the connection is as good as before
    assert len(auth.asked) - asked == (1 if allowed or make is handshake else 2)


async def test_a_body_is_let_in_intact(client: Connection, auth: AuthServer) -> None:
    """It waits in parts on both sides of the verdict."""
    auth.cases["hang"] = auth.hang
    auth.held.clear()
    auth.came.clear()
    body = bytes(range(256)) * 1000
    head = request("/asked/upload", GOOD, "X-Case: hang", f"Content-Length: {len(body)}", method="POST")
    await client.send(head + body[:100_000])
    await within(auth.came.wait(), "a sub-request")
    auth.held.set()
    await client.send(body[100_000:])
    answer = json.loads((await client.answer()).text)
    assert answer["size"] == len(body)
    assert auth.last.first_line == "GET /check?from=gateway HTTP/1.1"
    assert auth.last.value("x-forwarded-method") == "POST"
    assert not auth.last.values("content-length")


async def test_a_refused_body_is_not_taken_for_a_request(client: Connection, web: Web) -> None:
    requests = len(web.connections)
    inner = request("/rest/x")
    await client.send(request("/asked/upload", f"Content-Length: {len(inner)}", method="POST") + inner)
    assert (await client.answer()).status == 401
    assert await client.rest() == b""
    assert len(web.connections) == requests


async def test_requests_in_a_row(client: Connection, auth: AuthServer) -> None:
    """Some let in and some not, sent at once: each gets its own answer."""
    paths = [("/asked/1", True), ("/asked/2", False), ("/rest/3", False), ("/again/4", True), ("/asked/5", False)]
    await client.send(b"".join(request(path, *([GOOD] if good else [])) for path, good in paths))
    for path, good in paths:
        answer = await client.answer()
        if good or path == "/rest/3":
            assert seen(answer)["target"] == path
        else:
            assert answer.status == 401


async def test_what_a_client_says_ahead_of_the_verdict(client: Connection, auth: AuthServer) -> None:
    """Frames behind a handshake wait for the backend's answer."""
    auth.cases["hang"] = auth.hang
    auth.held.clear()
    auth.came.clear()
    await client.send(handshake("/asked/ws", GOOD, "X-Case: hang") + from_client(TEXT, b"a"))
    await within(auth.came.wait(), "a sub-request")
    await client.send(from_client(TEXT, b"b"))
    auth.held.set()
    assert (await client.head()).status == 101
    assert await client.read(6) == frame(TEXT, b"a") + frame(TEXT, b"b")


# --- what the auth server is asked ------------------------------------------------------------------------------------


async def test_what_is_asked(gateway: Gateway, auth: AuthServer, client: Connection) -> None:
    fields = [
        *("Cookie: a=1", "cookie: b=2", "Accept-Encoding: br", "User-Agent: me", "Referer: caf\u00c3\u00a9"),
        *("X-Forwarded-For: 1.2.3.4", "X-Forwarded-Method: PUT", "X-Forwarded-Uri: /evil", "X-Forwarded-Host: evil"),
        *("X-Original-URL: http://evil/", "Forwarded: for=1.2.3.4", "X-Real-IP: 1.2.3.4", "X-Request-Id: mine"),
        *("X.Forwarded.Uri: /evil", "X~Original-URI: /evil"),
        *("X_Forwarded_Uri: /evil", "X_User: root", "X-Forwarded-Proto: gopher", "X-Rewrite-Url: /evil"),
        *("Connection: keep-alive, X-Hop", "X-Hop: 1", "TE: trailers", "If-None-Match: *", "Range: bytes=0-1"),
        *("Expect: 100-continue", "Transfer-Encoding: chunked", "Content-Type: text/plain"),
    ]
    await client.send(request("/asked/x?y=%41", GOOD, *fields, method="PATCH") + b"3\r\nabc\r\n0\r\n\r\n")
    head = await client.head()
    if head.status == 100:
        head = await client.head()
    body = await client.read(int(head.value("content-length") or 0))
    backend = seen(Answer(head, body))
    assert backend["body"] == "abc"
    asked = auth.last
    assert asked.first_line == "GET /check?from=gateway HTTP/1.1"
    ip, _, _ = client.name.rpartition(":")
    assert {name.lower(): asked.values(name) for name, _ in asked.fields} == {
        "host": [auth.address],
        "authorization": ["Bearer good"],
        "cookie": ["a=1", "b=2"],
        "accept-encoding": ["br"],
        "user-agent": ["me"],
        "referer": ["caf\u00c3\u00a9"],  # the bytes of the client
        "content-type": ["text/plain"],
        "x-forwarded-method": ["PATCH"],
        "x-forwarded-uri": ["/asked/x?y=%41"],
        "x-forwarded-host": ["gateway.test"],
        "x-forwarded-proto": ["http"],
        "x-forwarded-for": [ip],
        "x-request-id": values(backend, "x-request-id"),
        "cdn-loop": values(backend, "cdn-loop"),
    }


async def test_what_is_asked_about_a_handshake(auth: AuthServer, client: Connection) -> None:
    """No field that a server would take for an upgrade; the subprotocols may have a token in them."""
    await client.send(handshake("/asked/ws", GOOD, "Origin: http://a.test", "Sec-WebSocket-Protocol: token, abc"))
    assert (await client.head()).status == 101
    names = {name.lower() for name, _ in auth.last.fields}
    assert not names & {"connection", "upgrade", "sec-websocket-key", "sec-websocket-version"}
    assert auth.last.value("origin") == "http://a.test"
    assert auth.last.value("sec-websocket-protocol") == "token, abc"
    assert auth.last.value("x-forwarded-method") == "GET"


PIECES = st.sampled_from(
    [
        *("asked", "rest", "ASKED", "/", "//", "/./", "/../", "%2e", "%2E%2e/", "%2F", "%5c", "..", ".", "%00", "%"),
        *(
            ";a=b",
            "?",
            "&",
            "=",
            "+",
            "%20",
            "%C3%A9",
            "\u00c3\u00a9",
            "\u00e9",
            "*",
            "'",
            '"',
            "{",
            "|",
            "[",
            "^",
            "`",
        ),
    ]
)


@settings(max_examples=examples(150), suppress_health_check=list(HealthCheck))
@given(pieces=st.lists(PIECES, max_size=6), absolute=st.booleans(), upper=st.booleans())
async def test_what_is_checked_is_what_is_sent(
    gateway: Gateway, auth: AuthServer, web: Web, pieces: list[str], absolute: bool, upper: bool
) -> None:
    """However a target is spelled: the backend sees the one that was asked about, or no request."""
    target = "/asked/" + "".join(pieces)
    host = "GATEWAY.test" if upper else "gateway.test"
    asked, requests = len(auth.asked), len(web.connections)
    connection = await gateway.connect()
    try:
        await connection.send(request(f"http://gateway.test{target}" if absolute else target, GOOD, host=host))
        answer = await connection.answer()
    finally:
        await connection.close()
    if answer.status != 200:
        assert len(web.connections) == requests
        return
    backend = seen(answer)
    if len(auth.asked) == asked:
        assert (await gateway.logged(request_id=values(backend, "x-request-id")[0]))["route"] == "rest"
        return
    assert auth.last.values("x-forwarded-uri") == [backend["target"]]
    assert auth.last.values("x-forwarded-host") == values(backend, "host")


@pytest.mark.parametrize("field", ["Cookie: a=\u00e9", "X-Token: \u00ff"])
async def test_fields_that_cannot_be_asked_about(web: Web, auth: AuthServer, client: Connection, field: str) -> None:
    """What would not reach the auth server as it reaches the backend is refused."""
    requests, asked = len(web.connections), len(auth.asked)
    answer = await ask(client, GOOD, field)
    assert answer.status == 400
    assert "UTF-8" in answer.text
    assert (len(web.connections), len(auth.asked)) == (requests, asked)


# --- what the backend gets --------------------------------------------------------------------------------------------


SPOOFED = ("X-User: root", "x-user: root", "X_User: root", "X.User: root", "x!user: root")
SPOOFED += ("X-Group: wheel", "x_group: wheel")


async def test_copied_fields(client: Connection) -> None:
    backend = seen(await ask(client, GOOD, *SPOOFED))
    assert values(backend, "x-user") == ["ann"]
    assert values(backend, "x-group") == ["a", "b"]
    assert not [name for name, _ in backend["headers"] if {*"_.!"}.intersection(name)]
    assert values(backend, "x-other") == []


async def test_copied_fields_that_the_answer_lacks(auth: AuthServer, client: Connection) -> None:
    auth.cases["bare"] = b"HTTP/1.1 204 No Content\r\n\r\n"
    backend = seen(await ask(client, GOOD, "X-Case: bare", *SPOOFED))
    assert values(backend, "x-user") == values(backend, "x-group") == values(backend, "x_user") == []
    await client.send(handshake("/asked/ws", GOOD, "X-Case: bare", *SPOOFED))
    assert (await client.head()).status == 101


async def test_fields_that_are_not_copied_stay(client: Connection) -> None:
    assert values(seen(await ask(client, GOOD, "X-User: me", path="/again/x")), "x-user") == ["me"]


# --- what the refused get ---------------------------------------------------------------------------------------------


BIG = b"x" * (64 * 1024)
ANSWERS = {
    "redirect": (
        b"HTTP/1.1 302 Found\r\nLocation: /login?to=/asked\r\nSet-Cookie: a=1\r\nContent-Length: 3\r\n\r\nnow",
        b"now",
    ),
    "chunked": (b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n", b"abcdefg"),
    "until close": (b"HTTP/1.0 403 No\r\nContent-Type: text/html\r\n\r\n<p>no", b"<p>no"),
    "coded": (b"HTTP/1.1 403 No\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nbytes", b"bytes"),
    "early hints": (b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 403 No\r\nContent-Length: 1\r\n\r\nx", b"x"),
    "hops": (b"HTTP/1.1 403 No\r\nConnection: X-Hop\r\nX-Hop: 1\r\nUpgrade: h2c\r\nContent-Length: 1\r\n\r\nx", b"x"),
    "big": (b"HTTP/1.1 403 No\r\nContent-Length: %d\r\n\r\n%b" % (len(BIG), BIG), BIG),
    "overloaded": (b"HTTP/1.1 503 Busy\r\nRetry-After: 77\r\nContent-Length: 4\r\n\r\nbusy", b"busy"),
    "limited": (b"HTTP/1.1 429 Slow\r\nRetry-After: 9\r\nContent-Length: 4\r\n\r\nslow", b"slow"),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", b""),
}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_answers_that_are_relayed(auth: AuthServer, client: Connection, name: str, method: str) -> None:
    data, body = ANSWERS[name]

    async def close_behind(connection: Connection, head: object) -> bool:
        await connection.send(data)
        return False

    auth.cases[name] = close_behind if name == "until close" else data
    answer = await ask(client, f"X-Case: {name}", method=method)
    lines = [line.split(b": ", 1) for line in data.split(b"\r\n\r\n")[name == "early hints"].split(b"\r\n")]
    assert answer.status == int(lines[0][0].split()[1])
    assert answer.body == (b"" if method == "HEAD" else body)
    names = {"Transfer-Encoding", "Connection", "X-Hop", "Upgrade", "Content-Length"}
    kept = [(key.decode(), value.decode()) for key, value in lines[1:] if key.decode() not in names]
    rest = [] if answer.status == 304 else [("Content-Length", str(len(body)))]
    date, *fields = answer.head.fields  # an answer that has none gets one (RFC 9110 section 6.6.1)
    assert (date[0], fields) == ("Date", kept + rest)
    assert (await ask(client, path="/rest/x")).status == 200


async def test_an_answer_that_is_too_long(gateway: Gateway, auth: AuthServer, client: Connection) -> None:
    data = b"HTTP/1.1 403 No\r\nX-A: b\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%b"
    auth.cases["long"] = data % (len(BIG) + 1, BIG + b"x")
    answer = await ask(client, "X-Case: long")
    assert answer.status == 403
    assert answer.head.value("x-a") == "b"
    assert (answer.head.value("content-type") or "").startswith("text/plain")
    assert answer.text == "403 Forbidden: the auth server has answered with 403\n"
    await gateway.stderr.containing("its answer with status 403 is too long to relay")


async def test_a_client_that_reads_slowly_gets_all_of_an_answer(
    gateway: Gateway, auth: AuthServer, open_connection: Open
) -> None:
    """More than the sockets hold: many answers in a row, of which nothing is read until all is asked."""
    auth.cases["big"], body = ANSWERS["big"]
    client = await open_connection(gateway)
    many, before = 300, len(auth.asked)
    await client.send(b"".join(request(f"/asked/{n}", "X-Case: big") for n in range(many)))
    await eventually(lambda: len(auth.asked) - before > 50, "50 sub-requests")
    for _ in range(many):
        answer = await client.answer()
        assert (answer.status, answer.body) == (403, body)
    assert (await ask(client, path="/rest/x")).status == 200


# --- the cache --------------------------------------------------------------------------------------------------------


async def test_what_is_cached(gateway: Gateway, auth: AuthServer, client: Connection, open_connection: Open) -> None:
    async def was_asked(*fields: str, path: str = "/cached/x", method: str = "GET", by: Connection = client) -> bool:
        before = len(auth.asked)
        await ask(by, *fields, path=path, method=method)
        return len(auth.asked) > before

    assert await was_asked(GOOD)
    assert not await was_asked(GOOD)
    assert not await was_asked(GOOD, by=await open_connection(gateway))
    assert values(seen(await ask(client, GOOD, *SPOOFED, path="/asked/x")), "x-user") == ["ann"]
    assert await was_asked(GOOD, "Cookie: a=1")
    assert await was_asked(GOOD, path="/cached/y")
    assert await was_asked(GOOD, method="PUT")
    assert await was_asked(GOOD, path="/asked/x")
    assert await was_asked("Authorization: Bearer bad")
    assert await was_asked("Authorization: Bearer bad")  # only what is let in is cached
    for asked in (True, False):
        before = len(auth.asked)
        other = await open_connection(gateway)
        await other.send(handshake("/cached/ws", GOOD))
        assert (await other.head()).status == 101
        assert (len(auth.asked) > before) is asked
