"""What routes look at beyond hosts and paths, where requests go, and what changes on the way, in a real gateway."""

from __future__ import annotations

from collections import Counter

import pytest
import pytest_asyncio

from tests.conftest import Backends, Open, StartGateway
from tests.support.backends import Scripted
from tests.support.gateway import Gateway
from tests.support.raw import Connection, Head, handshake, request, switching

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]

CHUNKED = b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nSERVER: secret\r\nx-frame.options: ALLOW\r\nX-Last: 2\r\n\r\n"
FIELDS = "Server: secret\r\nX-From: backend\r\n"


async def scripted(backends: Backends, name: str) -> Scripted:
    """A backend that accepts handshakes, and answers all else with its name."""
    backend = await backends.scripted()

    async def script(connection: Connection) -> None:
        head = await backend.request(connection)
        if "/chunked" in head.first_line:
            answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED
            step = 1 if "/chunked/bytes" in head.first_line else len(answer)
            for at in range(0, len(answer), step):
                await connection.send(answer[at : at + step])
        elif head.value("upgrade"):
            await connection.send(switching().replace(b"\r\n\r\n", f"\r\n{FIELDS}X-Name: {name}\r\n\r\n".encode()))
        else:
            length = f"Content-Length: {len(name)}\r\n"
            await connection.send(f"HTTP/1.1 200 OK\r\n{length}{FIELDS}X-Name: {name}\r\n\r\n{name}".encode())
        await connection.rest()

    backend.plays(script)
    return backend


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend(shared_backends: Backends) -> Scripted:
    return await scripted(shared_backends, "old")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def canary(shared_backends: Backends) -> Scripted:
    return await scripted(shared_backends, "new")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(start_shared_gateway: StartGateway, backend: Scripted, canary: Scripted) -> Gateway:
    def on(name: str, path: str, **keys: object) -> dict[str, object]:
        match = {"path": path} | dict(keys.pop("match", {}))  # type: ignore[call-overload]  # a mapping
        return {"name": name, "match": match, **keys}

    old = {"upstream": "old"}
    changed = {
        "headers": {"set": {"X-Env": "prod", "Host": "app.internal"}, "remove": ["Cookie"]},
        "answer_headers": {"set": {"X-Frame-Options": "DENY"}, "remove": ["Server"]},
    }
    return await start_shared_gateway(
        {
            "workers": 2,
            "trusted_proxies": ["127.0.0.1"],
            "upstreams": {
                "old": {"backends": [backend.address], "pool": "off"},
                "new": {"backends": [canary.address], "pool": "off"},
            },
            "routes": [
                on("gold", "/m", match={"headers": {"X-Tier": "gold"}}, **old),
                on("two", "/m", match={"query": {"v": "2"}}, **old),
                on("put", "/m", match={"methods": ["PUT"]}, **old),
                on("any", "/m", **old),
                on("shares", "/s", upstreams=[{"name": "old", "weight": 3}, {"name": "new", "weight": 1}]),
                on("prefix", "/ws", rewrite={"strip_prefix": "/ws", "add_prefix": "/app"}, **old),
                on("regex", "/r", rewrite={"regex": {"match": "^/r/([0-9]+)(.*)$", "to": "/room\\2?id=\\1"}}, **old),
                on("fields", "/f", **old, **changed),
                on("closed", "/c", **old, **changed, deny=["0.0.0.0/0", "::/0"]),
                on("redirect", "/old", redirect={"to": "https://{host}{uri}", "status": 301}),
                on("gone", "/gone", respond={"status": 410, "body": "gone"}, deny=["192.0.2.0/24"]),
                on("empty", "/empty", respond={"status": 204}, answer_headers={"set": {"X-A": "1"}}),
                on(
                    "json",
                    "/json",
                    respond={"body": "{}"},
                    answer_headers={"set": {"Content-Type": "application/json"}},
                ),
            ],
        }
    )


ASKS = pytest.mark.parametrize("ask", [request, handshake], ids=["plain", "handshake"])
KEPT = pytest.mark.parametrize("kept", [False, True], ids=["first", "kept"])


async def opened(gateway: Gateway, open_connection: Open, kept: bool) -> Connection:
    """A connection; a kept one has had an answer already."""
    client = await open_connection(gateway)
    if kept:
        await client.send(request("/json"))
        assert (await client.answer()).status == 200
    return client


async def asked(client: Connection, backend: Scripted, data: bytes) -> tuple[Head, Head]:
    """What the backend is sent of a request that it gets, and what the client is answered."""
    while not backend.heads.empty():
        backend.heads.get_nowait()
    await client.send(data)
    sent = await backend.next_head()
    if sent.value("upgrade"):
        return sent, await client.head()
    return sent, (await client.answer()).head


@ASKS
@KEPT
@pytest.mark.parametrize(
    ("target", "fields", "expected"),
    [
        ("/m", ["X-Tier: gold"], "gold"),
        ("/m?v=2", ["X-Tier: silver"], "two"),
        ("/m?x&%76=%32", [], "two"),
        ("/m?v=2&v=3", [], "any"),
        ("/m?v=3", [], "any"),
        ("/m", [], "any"),
    ],
)
async def test_routes_look_at_fields_and_parameters(
    gateway: Gateway, open_connection: Open, ask, kept: bool, target: str, fields: list[str], expected: str
) -> None:
    client = await opened(gateway, open_connection, kept)
    await client.send(ask(target, *fields))
    assert (await client.head()).status == (101 if ask is handshake else 200)
    event = "handshake" if ask is handshake else "http"
    assert (await gateway.logged(event=event, client=client.name, path="/m"))["route"] == expected


async def test_routes_look_at_methods(gateway: Gateway, open_connection: Open) -> None:
    client = await open_connection(gateway)
    for method, route in (("GET", "any"), ("PUT", "put"), ("GET", "any")):
        await client.send(request("/m", method=method))
        assert (await client.answer()).status == 200
        await gateway.logged(event="http", client=client.name, method=method, route=route)


@ASKS
async def test_a_client_gets_the_same_upstream_each_time(gateway: Gateway, open_connection: Open, ask) -> None:
    seen: Counter[str] = Counter()
    for number in range(40):
        names = set()
        for _ in range(2):  # on another connection, which another worker may have
            client = await open_connection(gateway)
            await client.send(ask("/s", f"X-Forwarded-For: 198.51.100.{number}"))
            names.add((await client.head()).value("x-name"))
            await client.close()
        (name,) = names
        assert name is not None
        seen[name] += 1
    assert set(seen) == {"old", "new"}
    assert seen["old"] > seen["new"]


@ASKS
@KEPT
@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/ws", "/app"),
        ("/ws/", "/app/"),
        ("/ws/x?a=b", "/app/x?a=b"),
        ("/%77s/x%2fy", "/app/x%2Fy"),
        ("//ws//x", "/app/x"),
        ("/a/../ws/x", "/app/x"),
        ("/ws//evil.example", "/app/evil.example"),
        ("http://gateway.test/ws/x", "/app/x"),
        ("/r/42/x", "/room/x?id=42"),
        ("/r/42/x?a=b", "/room/x?id=42&a=b"),
        ("/r/x//y", "/r/x//y"),
    ],
)
async def test_paths_are_rewritten(
    gateway: Gateway, open_connection: Open, backend: Scripted, ask, kept: bool, target: str, expected: str
) -> None:
    client = await opened(gateway, open_connection, kept)
    sent, _ = await asked(client, backend, ask(target))
    assert sent.first_line == f"GET {expected} HTTP/1.1"


@ASKS
async def test_a_path_that_is_too_long_to_be_rewritten(gateway: Gateway, open_connection: Open, ask) -> None:
    """Log and metrics have the route that would have rewritten it."""
    before = await gateway.scrape()
    client = await open_connection(gateway)
    await client.send(ask("/r/" + "1" * 2000))
    answer = await client.answer()
    assert answer.status == 414
    assert "longer than 1024" in answer.text
    line = await gateway.logged(client=client.name, status=414)
    assert line["route"] == "regex"
    name, labels = {
        "handshake": ("gateway_handshakes_total", {"result": "bad_request"}),
        "http": ("gateway_http_requests_total", {"code": "414"}),
    }[line["event"]]
    await gateway.counts(before, name, route="regex", **labels)


@ASKS
@KEPT
async def test_fields_are_set_and_removed(
    gateway: Gateway, open_connection: Open, backend: Scripted, ask, kept: bool
) -> None:
    client = await opened(gateway, open_connection, kept)
    sent, answer = await asked(client, backend, ask("/f", "Cookie: a", "X-Env: mine", "X-Kept: 1"))
    assert (sent.value("host"), sent.value("x-forwarded-host")) == ("app.internal", "gateway.test")
    assert (sent.value("cookie"), sent.value("x-env"), sent.value("x-kept")) == (None, "prod", "1")
    assert (answer.value("x-frame-options"), answer.value("server"), answer.value("x-from")) == (
        "DENY",
        None,
        "backend",
    )
    _, other = await asked(await open_connection(gateway), backend, ask("/m", "Cookie: a"))
    assert (other.value("x-frame-options"), other.value("server")) == (None, "secret")


@ASKS
async def test_refusals_of_the_route_get_what_is_set(gateway: Gateway, open_connection: Open, ask) -> None:
    client = await open_connection(gateway)
    await client.send(ask("/c"))
    answer = await client.answer()
    assert (answer.status, answer.head.value("x-frame-options")) == (403, "DENY")


@ASKS
@KEPT
@pytest.mark.parametrize(
    ("path", "status", "field", "body"),
    [
        ("/old/x?a=b", 301, ("location", "https://gateway.test/old/x?a=b"), "see https://gateway.test/old/x?a=b\n"),
        ("/old//evil", 301, ("location", "https://gateway.test/old//evil"), "see https://gateway.test/old//evil\n"),
        ("/gone/x", 410, ("content-type", "text/plain; charset=utf-8"), "gone"),
        ("/empty", 204, ("x-a", "1"), ""),
        ("/json", 200, ("content-type", "application/json"), "{}"),
    ],
)
async def test_a_route_answers_itself(
    gateway: Gateway, open_connection: Open, ask, kept: bool, path: str, status: int, field: tuple[str, str], body: str
) -> None:
    client = await opened(gateway, open_connection, kept)
    before = await gateway.scrape()
    await client.send(ask(path))
    answer = await client.answer()
    assert (answer.status, answer.head.value(field[0]), answer.text) == (status, field[1], body)
    record = await gateway.logged(event="http", client=client.name, status=status, path=path.partition("?")[0])
    assert (record["backend"], record["bytes"], record["reason"]) == (None, len(body), None)
    route = record["route"]
    counter = {"route": route, "code": str(status)}
    counted = before.value("gateway_http_requests_total", **counter)
    await gateway.until(
        lambda now: now.value("gateway_http_requests_total", **counter) > counted, "the answer to be counted"
    )
    if ask is handshake:
        assert answer.head.value("connection") == "close"
        assert await client.rest() == b""
        return
    for _ in range(2):
        await client.send(request(path))
        assert (await client.answer()).status == status


async def test_answers_to_head_and_with_a_body(gateway: Gateway, open_connection: Open) -> None:
    client = await open_connection(gateway)
    await client.send(request("/gone", method="HEAD") + request("/gone"))
    answer = await client.answer(head_only=True)
    assert (answer.status, answer.head.value("content-length")) == (410, "4")
    assert (await client.answer()).text == "gone"
    await client.send(request("/gone", "Content-Length: 3", method="POST") + b"abc")
    answer = await client.answer()
    assert (answer.status, answer.head.value("connection")) == (410, "close")
    assert await client.rest() == b""


async def test_a_body_that_ends_in_two_places_is_refused(gateway: Gateway, open_connection: Open) -> None:
    client = await open_connection(gateway)
    await client.send(request("/gone", "Content-Length: 3", "Transfer-Encoding: chunked", method="POST"))
    assert (await client.answer()).status == 400


async def test_rules_come_before_the_answer(gateway: Gateway, open_connection: Open) -> None:
    client = await open_connection(gateway)
    await client.send(request("/gone", "X-Forwarded-For: 192.0.2.7"))
    assert (await client.answer()).status == 403


async def test_nothing_of_a_request_gets_into_the_head_of_a_redirect(gateway: Gateway, open_connection: Open) -> None:
    client = await open_connection(gateway)
    await client.send(request("/old/%0d%0aSet-Cookie:%20a=b"))
    answer = await client.answer()
    assert answer.head.value("location") == "https://gateway.test/old/%0d%0aSet-Cookie:%20a=b"
    assert answer.head.value("set-cookie") is None
    client = await open_connection(gateway)
    await client.send(request("/old", host="user@evil"))
    assert (await client.answer()).status == 400


@pytest.mark.parametrize("path", ["/chunked", "/chunked/bytes"])
async def test_what_a_route_sets_or_removes_comes_in_no_trailer_of_an_answer(
    gateway: Gateway, open_connection: Open, path: str
) -> None:
    client = await open_connection(gateway)
    for route, sent in (("/f", b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Last: 2\r\n\r\n"), ("/m", CHUNKED)):
        for _ in range(2):
            await client.send(request(route + path))
            head = await client.head()
            assert (head.status, head.value("transfer-encoding")) == (200, "chunked")
            assert await client.read(len(sent)) == sent


async def test_status_says_where_requests_go(gateway: Gateway) -> None:
    routes = {route["name"]: route for route in (await gateway.api("status"))["routes"]}
    assert routes["any"]["upstream"] == "old"
    assert routes["shares"]["upstreams"] == [{"name": "old", "weight": 3}, {"name": "new", "weight": 1}]
    assert (routes["shares"]["upstream"], routes["gone"]["upstream"], routes["gone"]["answer"]) == (None, None, 410)


@pytest.mark.parametrize("trailer", ["X-Env: test", "x_env: test", "x.env: test", "Cookie: a=1"])
async def test_what_a_route_sets_or_removes_comes_in_no_trailer(
    gateway: Gateway, open_connection: Open, trailer: str
) -> None:
    client = await open_connection(gateway)
    head = "POST /f HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    await client.send(f"{head}1\r\na\r\n0\r\n{trailer}\r\n\r\n".encode())
    assert (await client.answer()).status == 400
