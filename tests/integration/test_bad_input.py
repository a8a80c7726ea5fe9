"""What bad input gets: an answer, an access-log line and a counter, as the contract lists them."""

from __future__ import annotations

import asyncio
import json

import pytest
import pytest_asyncio

from tests.conftest import Backends, Open, StartGateway
from tests.support.backends import Scripted, Web
from tests.support.deadline import within
from tests.support.frames import TEXT, frame, from_client
from tests.support.gateway import Gateway, route
from tests.support.ports import free_port
from tests.support.raw import KEY, Answer, Connection, handshake, request, switching

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEAD = b"GET /web/x HTTP/1.1\r\nHost: a\r\n"
OK_KEY = (f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(shared_backends: Backends) -> Web:
    return await shared_backends.web()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scripted(shared_backends: Backends) -> Scripted:
    return await shared_backends.scripted()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(start_shared_gateway: StartGateway, web: Web, scripted: Scripted) -> Gateway:
    nobody = f"127.0.0.1:{free_port()}"
    return await start_shared_gateway(
        {
            "timeouts": {"request_head": "2s"},
            "upstreams": {
                "web": {"backends": [web.address]},
                "scripted": {"backends": [scripted.address]},
                "nobody": {"backends": [nobody]},
            },
            "routes": [
                route("web", "web"),
                route("scripted", "scripted", timeouts={"handshake": "500ms"}),
                route("nobody", "nobody"),
                route("only-websocket", "web", http="reject"),
                route("only-tcp", "web", upgrades=["tcp"]),
            ],
        }
    )


async def refused(
    gateway: Gateway, client: Connection, data: bytes, status: int, result: str, route: str = "-"
) -> Answer:
    """Send ``data``; it is refused with a reason, a line and a count, and the connection is closed."""
    before = await gateway.scrape()
    await client.send(data)
    answer = await client.answer()
    assert answer.status == status, answer
    assert answer.head.value("Content-Type") == "text/plain; charset=utf-8"
    assert answer.text.startswith(f"{status} ")
    assert len(answer.text) > 12
    assert "close" in (answer.head.value("Connection") or "")
    client.half_close()
    assert await client.rest() == b""
    record = await gateway.logged(client=client.name, status=status)
    assert record["result"] == result
    assert record["reason"] in answer.text
    assert (record.get("route") or "-") == route
    await gateway.counts(before, "gateway_handshakes_total", result=result, route=route)
    return answer


MALFORMED = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no method": b" / HTTP/1.1\r\nHost: a\r\n\r\n",
    "no host": b"GET /web HTTP/1.1\r\n\r\n",
    "two hosts": HEAD + b"Host: b\r\n\r\n",
    "bad host": b"GET /web HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "space before colon": HEAD + b"X-A : 1\r\n\r\n",
    "obs-fold": HEAD + b"X-A: 1\r\n 2\r\n\r\n",
    "bare CR": HEAD + b"X-A: 1\r2\r\n\r\n",
    "NUL": HEAD + b"X-A: 1\x002\r\n\r\n",
    "bare LF": b"GET /web HTTP/1.1\nHost: a\n\r\n\r\n",
    "both framings": HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    "negative length": HEAD + b"Content-Length: -1\r\n\r\n",
    "chunked twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked in 1.0": b"GET /web HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "space in target": b"GET /web /x HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.mark.either_build
@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_head_gets_400(gateway: Gateway, open_connection: Open, data: bytes) -> None:
    client = await open_connection(gateway)
    await refused(gateway, client, data, 400, "bad_request")


@pytest.mark.either_build
@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_head_on_a_kept_alive_connection_gets_400(
    gateway: Gateway, open_connection: Open, web: Web, data: bytes
) -> None:
    """The second head is read by aiohttp, and must not be read less strictly than the first."""
    client = await open_connection(gateway)
    await client.send(request("/web/first"))
    assert (await client.answer()).status == 200
    seen = len(web.connections)
    before = await gateway.scrape()
    await client.send(data)
    answer = await client.answer()
    assert answer.status == 400
    assert answer.head.value("Content-Type") == "text/plain; charset=utf-8"
    assert await client.rest() == b""
    assert len(web.connections) == seen
    await gateway.until(
        lambda now: (
            now.value("gateway_http_requests_total", code="400")
            > before.value("gateway_http_requests_total", code="400")
        ),
        "the 400 to be counted",
    )


@pytest.mark.parametrize("coding", [b"gzip", b"gzip, chunked", b"identity"])
async def test_a_transfer_coding_other_than_chunked_gets_501(
    gateway: Gateway, open_connection: Open, coding: bytes
) -> None:
    client = await open_connection(gateway)
    await refused(gateway, client, HEAD + b"Transfer-Encoding: " + coding + b"\r\n\r\n", 501, "bad_request")


TOO_LARGE = {
    "field": HEAD + b"X-Long: " + b"a" * 40_000 + b"\r\n\r\n",
    "target": b"GET /web/" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "fields": HEAD + b"".join(b"X-%d: 1\r\n" % number for number in range(201)) + b"\r\n",
    "altogether": HEAD + b"".join(b"X-%d: %b\r\n" % (number, b"a" * 4000) for number in range(10)) + b"\r\n",
}


@pytest.mark.parametrize("data", TOO_LARGE.values(), ids=TOO_LARGE.keys())
async def test_a_head_too_large_gets_431(gateway: Gateway, open_connection: Open, data: bytes) -> None:
    client = await open_connection(gateway)
    await refused(gateway, client, data, 431, "bad_request")


@pytest.mark.parametrize("data", TOO_LARGE.values(), ids=TOO_LARGE.keys())
async def test_a_head_too_large_on_a_kept_alive_connection_gets_431(
    gateway: Gateway, open_connection: Open, data: bytes
) -> None:
    client = await open_connection(gateway)
    await client.send(request("/web/first"))
    assert (await client.answer()).status == 200
    before = await gateway.scrape()
    await client.send(data)
    assert (await client.answer()).status == 431
    await gateway.counts(before, "gateway_http_requests_total", code="431")


async def test_a_head_too_large_is_not_read_on(gateway: Gateway, open_connection: Open) -> None:
    """A head that never ends is refused at the limit."""
    client = await open_connection(gateway)
    await client.send(HEAD + b"X-Endless: " + b"a" * 34_000)
    assert (await client.answer()).status == 431


@pytest.mark.parametrize("first", [b"GET /web/late HTTP/1.1\r\nHost: a\r\n", b"G"])
async def test_a_late_head_gets_408(gateway: Gateway, open_connection: Open, first: bytes) -> None:
    client = await open_connection(gateway)
    await refused(gateway, client, first, 408, "timeout")


async def test_a_connection_that_says_nothing_is_closed_without_a_word(gateway: Gateway, open_connection: Open) -> None:
    client = await open_connection(gateway)
    assert await client.rest() == b""


async def test_a_late_head_on_a_kept_alive_connection_gets_408(gateway: Gateway, open_connection: Open) -> None:
    client = await open_connection(gateway)
    await client.send(request("/web/first"))
    assert (await client.answer()).status == 200
    await client.send(b"GET /web/second HTTP/1.1\r\nHost: a\r\n")
    assert (await client.answer()).status == 408
    assert await client.rest() == b""


@pytest.mark.either_build
async def test_no_route_gets_404(gateway: Gateway, open_connection: Open) -> None:
    client = await open_connection(gateway)
    answer = await refused(gateway, client, handshake("/webx"), 404, "no_route")
    assert "/webx" in answer.text

    before = await gateway.scrape()
    plain = await open_connection(gateway)
    await plain.send(request("/nowhere"))
    assert (await plain.answer()).status == 404
    assert (await gateway.logged(event="http", client=plain.name))["status"] == 404
    await gateway.counts(before, "gateway_http_requests_total", route="-", code="404")
    await plain.send(request("/web/goes-on"))
    assert (await plain.answer()).status == 200


@pytest.mark.either_build
@pytest.mark.parametrize("version", ["Sec-WebSocket-Version: 8", "Sec-WebSocket-Version: 130", "X-None: 1"])
async def test_another_version_of_websocket_gets_426(gateway: Gateway, open_connection: Open, version: str) -> None:
    client = await open_connection(gateway)
    head = request("/web/v", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {KEY}", version)
    answer = await refused(gateway, client, head, 426, "bad_request", "web")
    assert answer.head.value("Sec-WebSocket-Version") == "13"
    assert answer.head.value("Upgrade") == "websocket"


@pytest.mark.either_build
@pytest.mark.parametrize(
    "fields",
    [
        (),
        ("Sec-WebSocket-Key: short",),
        ("Sec-WebSocket-Key: Uc9l9TMkWGbHFD2qnFHltg=",),
        (f"Sec-WebSocket-Key: {KEY}", f"Sec-WebSocket-Key: {KEY}"),
    ],
    ids=["none", "short", "no padding", "twice"],
)
async def test_a_bad_key_gets_400(gateway: Gateway, open_connection: Open, fields: tuple[str, ...]) -> None:
    client = await open_connection(gateway)
    data = request("/web/k", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", *fields)
    await refused(gateway, client, data, 400, "bad_request", "web")


@pytest.mark.either_build
@pytest.mark.parametrize(
    ("method", "fields", "body"),
    [
        ("POST", (), b""),
        ("GET", ("Content-Length: 3",), b"abc"),
        ("GET", ("Transfer-Encoding: chunked",), b"0\r\n\r\n"),
    ],
)
async def test_a_handshake_that_is_no_get_or_has_a_body_gets_400(
    gateway: Gateway, open_connection: Open, method: str, fields: tuple[str, ...], body: bytes
) -> None:
    client = await open_connection(gateway)
    head = request("/web/b", "Upgrade: websocket", "Connection: Upgrade", *OK_KEY, *fields, method=method)
    await refused(gateway, client, head + body, 400, "bad_request", "web")


@pytest.mark.either_build
@pytest.mark.parametrize(
    ("head", "missing"),
    [
        (request("/web/s", "Connection: Upgrade", *OK_KEY, "Via: 1.1 squid"), "Upgrade: websocket"),
        (
            request("/web/s", "Upgrade: websocket", "Connection: close", *OK_KEY, "Via: 1.1 squid"),
            "Connection: Upgrade",
        ),
        (request("/web/s", *OK_KEY, "Via: 1.1 squid"), "Upgrade: websocket and Connection: Upgrade"),
        (handshake("/web/s", "Via: 1.1 squid").replace(b"HTTP/1.1", b"HTTP/1.0", 1), "HTTP/1.1"),
    ],
    ids=["no Upgrade", "no Connection", "neither", "HTTP/1.0"],
)
async def test_a_stripped_upgrade_gets_426_and_is_counted_apart(
    gateway: Gateway, open_connection: Open, head: bytes, missing: str
) -> None:
    before = await gateway.scrape()
    client = await open_connection(gateway)
    await client.send(head)
    answer = await client.answer()
    assert answer.status == 426
    assert answer.head.value("Sec-WebSocket-Version") == "13"
    assert missing in answer.text
    assert "Via: 1.1 squid" in answer.text
    record = await gateway.logged(client=client.name, status=426)
    assert record["result"] == "stripped_upgrade"
    await gateway.counts(before, "gateway_handshakes_total", result="stripped_upgrade", route="web")


async def test_plain_http_where_only_websocket_is_served_gets_426(gateway: Gateway, open_connection: Open) -> None:
    before = await gateway.scrape()
    client = await open_connection(gateway)
    await client.send(request("/only-websocket/"))
    answer = await client.answer()
    assert answer.status == 426
    assert answer.head.value("Upgrade") == "websocket"
    await gateway.counts(before, "gateway_http_requests_total", route="only-websocket", code="426")


async def test_no_backend_that_can_be_reached_gets_502(gateway: Gateway, open_connection: Open) -> None:
    before = await gateway.scrape()
    client = await open_connection(gateway)
    await refused(gateway, client, handshake("/nobody/"), 502, "connect_error", "nobody")
    await gateway.counts(before, "gateway_backend_connect_errors_total", upstream="nobody", reason="connection_refused")
    await gateway.until(lambda now: now.value("gateway_backend_up", upstream="nobody") == 0, "it to be down")

    plain = await open_connection(gateway)
    await plain.send(request("/nobody/"))
    assert (await plain.answer()).status == 502
    assert (await gateway.logged(event="http", client=plain.name))["status"] == 502


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 101\r\nUpgrade websocket\r\n\r\n", b"HTTP/2 200 OK\r\n\r\n"]
)
async def test_a_backend_that_talks_nonsense_gets_502(
    gateway: Gateway, open_connection: Open, scripted: Scripted, answer: bytes
) -> None:
    scripted.answers(answer)
    client = await open_connection(gateway)
    result = "refused_by_backend" if answer else "connect_error"
    await refused(gateway, client, handshake("/scripted/nonsense"), 502, result, "scripted")

    plain = await open_connection(gateway)
    await plain.send(request("/scripted/nonsense"))
    assert (await plain.answer()).status == 502


async def test_a_backend_that_answers_late_gets_504(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    gone = asyncio.Event()

    async def script(backend: Connection) -> None:
        await scripted.request(backend)
        await backend.ends()
        gone.set()

    scripted.script = script
    client = await open_connection(gateway)
    await refused(gateway, client, handshake("/scripted/late"), 504, "timeout", "scripted")
    await within(gone.wait(), "the backend's connection to end")


@pytest.mark.either_build
async def test_over_max_tunnels_gets_503(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(
        {
            "max_tunnels": 2,
            "upstreams": {"echo": {"backends": [echo.address]}},
            "routes": [route("all", "echo", "/")],
        }
    )
    clients = [await open_connection(gateway) for _ in range(2)]
    for client in clients:
        await client.send(handshake("/"))
        assert (await client.head()).status == 101
    third = await open_connection(gateway)
    answer = await refused(gateway, third, handshake("/"), 503, "unavailable", "all")
    assert "max_tunnels" in answer.text
    clients[0].reset()
    await gateway.logged(event="tunnel_end")
    fourth = await open_connection(gateway)
    await fourth.send(handshake("/"))
    assert (await fourth.head()).status == 101


@pytest.mark.parametrize(
    "fields",
    [
        ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"),
        ("Connection: upgrade", "Upgrade: TLS/1.2, HTTP/3"),
        ("Connection: keep-alive", "Upgrade: h2c"),
        ("Upgrade: anything",),
    ],
)
async def test_an_upgrade_that_the_route_does_not_list_is_ignored(
    gateway: Gateway, open_connection: Open, fields: tuple[str, ...]
) -> None:
    """RFC 9110 section 7.8. The connection stays plain HTTP, and goes on."""
    client = await open_connection(gateway)
    for path in ("/web/h2c", "/web/again"):
        await client.send(request(path, *fields))
        answer = await client.answer()
        assert answer.status == 200
        seen = json.loads(answer.body)
        assert seen["target"] == path
        assert not {"upgrade", "http2-settings", "connection"} & {name.lower() for name, _ in seen["headers"]}


async def test_websocket_where_the_route_does_not_list_it_is_plain_http(
    gateway: Gateway, open_connection: Open
) -> None:
    client = await open_connection(gateway)
    for path in ("/only-tcp/ws-not-here", "/only-tcp/again"):
        await client.send(request(path, "Connection: Upgrade", "Upgrade: websocket"))
        answer = await client.answer()
        assert answer.status == 200
        assert json.loads(answer.body)["target"] == path


async def test_h2c_in_a_request_with_a_body_is_ignored(gateway: Gateway, open_connection: Open) -> None:
    """Java's HttpClient asks for h2c in every first request, a POST included."""
    client = await open_connection(gateway)
    for _ in range(2):
        await client.send(
            request("/web/h2c", "Connection: Upgrade", "Upgrade: h2c", "Content-Length: 5", method="POST") + b"hello"
        )
        answer = await client.answer()
        assert answer.status == 200
        assert json.loads(answer.body)["body"] == "hello"


@pytest.mark.parametrize(
    "data",
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /web\r\n\r\n", b"GET /web HTTP/1.2\r\nHost: a\r\n\r\n"],
    ids=["2.0", "0.9", "1.2"],
)
async def test_another_version_of_http_is_told_so(gateway: Gateway, open_connection: Open, data: bytes) -> None:
    first = await open_connection(gateway)
    await first.send(data)
    assert (await first.answer()).status in (400, 505)

    kept_alive = await open_connection(gateway)
    await kept_alive.send(request("/web/first"))
    assert (await kept_alive.answer()).status == 200
    await kept_alive.send(data)
    answer = await kept_alive.answer()
    assert answer.status in (400, 505)
    assert answer.head.first_line.startswith("HTTP/1.")


async def test_frames_that_break_the_rules_are_counted_and_relayed_as_they_are(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    """The endpoints judge them (design: the gateway relays every byte)."""
    scripted = await backends.scripted()
    gateway = await start_gateway(
        {"upstreams": {"s": {"backends": [scripted.address]}}, "routes": [route("all", "s", "/")]}
    )
    bad = frame(3, b"reserved opcode", b"abcd") + frame(TEXT, b"not masked") + b"\xff" * 64 + from_client(TEXT, b"x")

    async def script(backend: Connection) -> None:
        await scripted.request(backend)
        await backend.send(switching())
        assert await backend.read(len(bad)) == bad
        await backend.send(bad)

    scripted.script = script
    client = await open_connection(gateway)
    await client.send(handshake("/") + bad)
    assert (await client.head()).status == 101
    assert await client.read(len(bad)) == bad
    client.half_close()
    await gateway.logged(event="tunnel_end")
    scrape = await gateway.scrape()
    assert scrape.value("gateway_protocol_violations_total", direction="client_to_backend") == 1
    assert scrape.value("gateway_protocol_violations_total", direction="backend_to_client") == 1
