"""The opening handshake as it goes over the wire."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from hashlib import sha1

import pytest
import pytest_asyncio

from tests.conftest import Backends, Open, StartGateway
from tests.support.backends import SUBPROTOCOL, Echo, Scripted
from tests.support.deadline import turn, within
from tests.support.frames import BINARY, TEXT, frame, from_client, read_frame
from tests.support.gateway import Gateway, route
from tests.support.raw import ACCEPT, KEY, Connection, Head, handshake, request, switching

pytestmark = pytest.mark.asyncio(loop_scope="module")

# The request of the issue, and of the mission: as Spring's portfolio sample sends it.
PORTFOLIO = (
    b"GET /spring-websocket-portfolio/portfolio HTTP/1.1\r\n"
    b"Host: localhost:8080\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Key: Uc9l9TMkWGbHFD2qnFHltg==\r\n"
    b"Sec-WebSocket-Protocol: v10.stomp, v11.stomp\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"Origin: http://localhost:8080\r\n"
    b"\r\n"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def echo(shared_backends: Backends) -> Echo:
    return await shared_backends.echo()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scripted(shared_backends: Backends) -> Scripted:
    return await shared_backends.scripted()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(start_shared_gateway: StartGateway, echo: Echo, scripted: Scripted) -> Gateway:
    return await start_shared_gateway(
        {
            "upstreams": {"echo": {"backends": [echo.address]}, "scripted": {"backends": [scripted.address]}},
            "routes": [
                route("scripted", "scripted"),
                route("docker", "scripted", upgrades=["tcp", "websocket"]),
                route("plain", "scripted", upgrades=[]),
                route("all", "echo", "/"),
            ],
        }
    )


async def test_the_handshake_of_the_mission(gateway: Gateway, open_connection: Open) -> None:
    client = await open_connection(gateway)
    await client.send(PORTFOLIO)
    head = await client.head()
    assert head.first_line == "HTTP/1.1 101 Switching Protocols"
    assert head.value("Sec-WebSocket-Accept") == "1qVdfYHU9hPOl4JYYNXF623Gzn0="
    assert head.value("Sec-WebSocket-Protocol") == "v10.stomp"
    assert head.value("Upgrade") == "websocket"
    assert head.value("Connection") == "Upgrade"
    assert await client.is_quiet()  # the socket stays open
    await client.echoes(from_client(TEXT, b"CONNECT\n\n\0"), frame(TEXT, b"CONNECT\n\n\0"))
    record = await gateway.logged(event="handshake", client=client.name)
    assert record["result"] == "upgraded"
    assert record["status"] == 101
    assert record["path"] == "/spring-websocket-portfolio/portfolio"
    assert record["host"] == "localhost"
    (tunnel,) = (await gateway.api("tunnels"))["tunnels"]
    assert tunnel["subprotocol"] == SUBPROTOCOL
    assert tunnel["client_address"] == client.name


@pytest.mark.parametrize(
    "fields",
    [
        ("Connection: keep-alive, Upgrade", "Upgrade: websocket"),
        ("connection: keep-alive", "CONNECTION: UPGRADE", "upgrade: WebSocket"),
        ("Connection: foo,upgrade ,bar", "Upgrade: h2c, websocket"),
    ],
)
async def test_tokens_are_found_in_lists_whatever_their_case(
    gateway: Gateway, open_connection: Open, fields: tuple[str, ...]
) -> None:
    client = await open_connection(gateway)
    key = ("Sec-WebSocket-Key: Uc9l9TMkWGbHFD2qnFHltg==", "Sec-WebSocket-Version: 13")
    await client.send(request("/", *fields, *key))
    head = await client.head()
    assert head.status == 101
    assert head.value("Sec-WebSocket-Accept") == ACCEPT


async def test_the_backend_is_sent_what_the_client_sent(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    scripted.answers(switching(), hold=True)
    client = await open_connection(gateway)
    await client.send(
        b"GET /scripted/%7Euser/../x?a=1&b=%2F HTTP/1.1\r\n"
        b"HOST: Gateway.test:99\r\n"
        b"X-first: 1\r\n"
        b"Cookie: a=b\r\n"
        b"Connection: keep-alive, Upgrade, X-Drop\r\n"
        b"Keep-Alive: timeout=5\r\n"
        b"X-Drop: gone\r\n"
        b"upgrade: websocket\r\n"
        b"x-dup: one\r\n"
        b"X-Forwarded-For: 6.6.6.6\r\n"
        b"X-DUP: two\r\n"
        b"Proxy-Authorization: Basic eA==\r\n"
        b"Sec-WebSocket-Key: Uc9l9TMkWGbHFD2qnFHltg==\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
        b"\r\n"
    )
    assert (await client.head()).status == 101
    head = await scripted.next_head()
    assert head.first_line == "GET /scripted/%7Euser/../x?a=1&b=%2F HTTP/1.1"
    *fields, loop_mark, request_id = head.fields
    assert loop_mark[0] == "CDN-Loop"
    assert fields == [
        ("HOST", "Gateway.test:99"),
        ("X-first", "1"),
        ("Cookie", "a=b"),
        ("Connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("x-dup", "one"),
        ("X-DUP", "two"),
        ("Sec-WebSocket-Key", "Uc9l9TMkWGbHFD2qnFHltg=="),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Host", "Gateway.test:99"),
    ]
    assert request_id[0] == "X-Request-Id"
    assert (await gateway.logged(event="handshake", client=client.name))["request_id"] == request_id[1]


async def test_a_head_like_one_before_goes_where_its_own_target_says(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    """Heads and answers that are known are not read again, but differ in keys, targets and what becomes of them."""
    for number in range(3):
        key = b64encode(bytes([number]) * 16).decode()
        accept = b64encode(sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()).decode()
        scripted.answers(switching(accept=accept), hold=True)
        client = await open_connection(gateway)
        await client.send(handshake(f"/scripted/{number}").replace(KEY.encode(), key.encode()))
        assert (await client.head()).value("Sec-WebSocket-Accept") == accept
        head = await scripted.next_head()
        assert head.first_line == f"GET /scripted/{number} HTTP/1.1"
        assert head.value("Sec-WebSocket-Key") == key
        assert head.value("X-Request-Id") == (await gateway.logged(event="handshake", client=client.name))["request_id"]

    # An answer that is right for somebody else's key.
    scripted.answers(switching(), hold=True)
    client = await open_connection(gateway)
    await client.send(handshake("/scripted/4").replace(KEY.encode(), b64encode(bytes(16))))
    assert (await client.answer()).status == 502
    await scripted.next_head()

    # A route that upgrades nothing.
    scripted.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
    client = await open_connection(gateway)
    await client.send(handshake("/plain/5"))
    answer = await client.answer()
    assert (answer.status, answer.body) == (200, b"hello")
    head = await scripted.next_head()
    assert head.first_line == "GET /plain/5 HTTP/1.1"
    assert head.value("Upgrade") is None


async def test_the_client_is_sent_what_the_backend_sent(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    scripted.answers(
        switching("Set-Cookie: a=1", "set-cookie: b=2", "Sec-WebSocket-Protocol: x", "Keep-Alive: timeout=1"), hold=True
    )
    client = await open_connection(gateway)
    await client.send(handshake("/scripted/fields"))
    head = await client.head()
    assert head.fields == [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", ACCEPT),
        ("Set-Cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("Sec-WebSocket-Protocol", "x"),
    ]


async def test_early_bytes_of_the_backend_come_behind_the_101(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    early = frame(TEXT, b"hello before you") + frame(BINARY, bytes(100_000))
    scripted.answers(switching() + early, hold=True)
    client = await open_connection(gateway)
    await client.send(handshake("/scripted/early-backend"))
    assert (await client.head()).status == 101
    assert await client.read(len(early)) == early


@pytest.mark.parametrize("size", [10, 60_000, 200_000])
async def test_early_bytes_of_the_client_wait_for_the_101(
    gateway: Gateway, open_connection: Open, scripted: Scripted, size: int
) -> None:
    early = from_client(BINARY, b"x" * size)
    go_on = asyncio.Event()
    arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def script(backend: Connection) -> None:
        await scripted.request(backend)
        assert await backend.is_quiet(), "bytes came ahead of the 101"
        go_on.set()
        await backend.send(switching())
        arrived.set_result(await backend.read(len(early) + 7))

    scripted.script = script
    client = await open_connection(gateway)
    client.writer.write(handshake("/scripted/early-client") + early)
    await go_on.wait()
    assert (await client.head()).status == 101
    await client.send(b"\x81\x81abcd\0")
    assert await arrived == early + b"\x81\x81abcd\0"


async def test_interim_answers_are_passed_on(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    scripted.answers(
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nlink: </b.css>\r\n\r\n" + switching(),
        hold=True,
    )
    client = await open_connection(gateway)
    await client.send(handshake("/scripted/interim"))
    assert (await client.head()).raw == b"HTTP/1.1 100 Continue\r\n\r\n"
    hints = await client.head()
    assert hints.first_line == "HTTP/1.1 103 Early Hints"
    assert hints.fields == [("Link", "</a.css>; rel=preload"), ("link", "</b.css>")]
    assert (await client.head()).status == 101


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (switching(accept="AAAAAAAAAAAAAAAAAAAAAAAAAAA="), "Sec-WebSocket-Accept"),
        (switching().replace(b"Sec-WebSocket-Accept", b"X-Accept"), "Sec-WebSocket-Accept"),
        (switching(upgrade="h2c"), "protocol"),
        (switching().replace(b"Upgrade: websocket\r\n", b""), "protocol"),
        (switching().replace(b"Connection: Upgrade", b"Connection: keep-alive"), "Connection"),
    ],
)
async def test_a_101_that_is_none_makes_no_tunnel(
    gateway: Gateway, open_connection: Open, scripted: Scripted, answer: bytes, says: str
) -> None:
    closed = asyncio.Event()
    before = await gateway.scrape()

    async def script(backend: Connection) -> None:
        await scripted.request(backend)
        await backend.send(answer + frame(TEXT, b"never to be seen"))
        await backend.ends()
        closed.set()

    scripted.script = script
    client = await open_connection(gateway)
    await client.send(handshake("/scripted/not-101") + from_client(TEXT, b"never to be seen"))
    refusal = await client.answer()
    assert refusal.status == 502
    assert refusal.head.value("Content-Type") == "text/plain; charset=utf-8"
    assert says in refusal.text
    assert await client.rest() == b""
    await within(closed.wait(), "the backend's connection to end")
    record = await gateway.logged(event="handshake", client=client.name)
    assert (record["result"], record["status"]) == ("refused_by_backend", 502)
    await gateway.counts(before, "gateway_handshakes_total", route="scripted", result="refused_by_backend")
    assert not gateway.log_records(event="tunnel_end", client=client.name)


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 5\r\n\r\nlogin", b"login"),
        (b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n", b""),
        (
            b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n6;x=y\r\n, sir!\r\n0\r\n\r\n",
            b"no, sir!",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + b"until the end " * 20_000,
            b"until the end " * 20_000,
        ),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 300000\r\n\r\n" + b"b" * 300_000, b"b" * 300_000),
        (b"HTTP/1.0 404 Not Found\r\n\r\nold", b"old"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 403 Forbidden\r\nContent-Length: 1\r\n\r\nx", b"x"),
    ],
    ids=["401", "302", "403-chunked", "200-until-close", "503-long", "404-http-1.0", "103-then-403"],
)
async def test_a_refusal_of_the_backend_is_relayed_whole(
    gateway: Gateway, open_connection: Open, scripted: Scripted, answer: bytes, body: bytes
) -> None:
    before = await gateway.scrape()
    scripted.answers(answer)
    client = await open_connection(gateway)
    await client.send(handshake("/scripted/refused"))
    relayed = await client.answer()
    if relayed.status == 103:
        relayed = await client.answer()
    last = Head(answer[answer.rindex(b"HTTP/1.") :].partition(b"\r\n\r\n")[0])
    assert relayed.body == body
    assert relayed.status == last.status
    assert relayed.head.value("Connection") == "close"
    assert await client.rest() == b""
    for name in ("WWW-Authenticate", "Location", "Content-Type"):
        assert relayed.head.values(name) == last.values(name)
    record = await gateway.logged(event="handshake", client=client.name)
    assert (record["result"], record["status"]) == ("refused_by_backend", relayed.status)
    await gateway.counts(before, "gateway_handshakes_total", route="scripted", result="refused_by_backend")


async def test_a_refused_connection_never_becomes_a_tunnel(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    """A client that goes on as if it had got a 101 must not reach the backend (request smuggling, CVE-2020-36048)."""
    seen = bytearray()
    done = asyncio.Event()

    async def script(backend: Connection) -> None:
        await scripted.request(backend)
        await backend.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        seen.extend(await backend.ends())
        done.set()

    scripted.script = script
    client = await open_connection(gateway)
    smuggled = b"GET /internal HTTP/1.1\r\nHost: x\r\n\r\n"
    await client.send(handshake("/scripted/smuggling") + smuggled)
    assert (await client.answer()).body == b"no"
    client.writer.write(smuggled)
    client.half_close()
    assert await client.ends() == b""
    await within(done.wait(), "the backend's connection to end")
    assert bytes(seen) == b""


async def test_a_backend_that_breaks_off_in_a_refusal_is_not_made_whole(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    scripted.answers(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nonly this")
    client = await open_connection(gateway)
    await client.send(handshake("/scripted/broken-off"))
    head = await client.head()
    assert head.value("Content-Length") == "100"
    assert await client.ends() == b"only this"


async def test_a_client_that_goes_in_a_refusal_lets_the_backend_go(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    gone = asyncio.Event()

    async def script(backend: Connection) -> None:
        await scripted.request(backend)
        await backend.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nonly this")
        await backend.ends()
        gone.set()

    scripted.script = script
    client = await open_connection(gateway)
    await client.send(handshake("/scripted/gone-in-refusal"))
    await client.head()
    assert await client.read(9) == b"only this"
    client.reset()
    await within(gone.wait(), "the backend's connection to end")


async def test_a_head_in_single_bytes(gateway: Gateway, open_connection: Open) -> None:
    client = await open_connection(gateway)
    for byte in handshake("/single-bytes"):
        client.writer.write(bytes([byte]))
        await turn()
    assert (await client.head()).status == 101
    await client.echoes(from_client(TEXT, b"hi"), frame(TEXT, b"hi"))


async def test_the_backends_head_in_single_bytes(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    async def script(backend: Connection) -> None:
        await scripted.request(backend)
        for byte in switching() + frame(TEXT, b"hi"):
            await backend.send(bytes([byte]))
            await turn()
        await backend.ends()

    scripted.script = script
    client = await open_connection(gateway)
    await client.send(handshake("/scripted/single-bytes"))
    assert (await client.head()).status == 101
    assert await read_frame(client) == (TEXT, b"hi")


async def test_half_a_head_and_then_the_end(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    """Neither side of a handshake that breaks off leaves anything behind."""
    client = await open_connection(gateway)
    await client.send(handshake("/half")[:60])
    client.half_close()
    assert await client.ends() == b""

    scripted.answers(switching()[:40])
    client = await open_connection(gateway)
    await client.send(handshake("/scripted/half"))
    assert (await client.answer()).status == 502
    record = await gateway.logged(event="handshake", client=client.name)
    assert record["result"] in ("connect_error", "refused_by_backend")
    await gateway.tunnels(0, route="scripted")


async def test_a_client_that_goes_before_the_answer_lets_the_backend_go(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def script(backend: Connection) -> None:
        await scripted.request(backend)
        asked.set()
        await backend.ends()
        gone.set()

    scripted.script = script
    client = await open_connection(gateway)
    await client.send(handshake("/scripted/impatient"))
    await within(asked.wait(), "the request at the backend")
    client.reset()
    await within(gone.wait(), "the backend's connection to end")


async def test_pipelined_frames_behind_a_handshake_reach_the_backend_once(
    gateway: Gateway, open_connection: Open
) -> None:
    client = await open_connection(gateway)
    messages = [f"message {number}".encode() for number in range(50)]
    await client.send(handshake("/pipelined") + b"".join(from_client(TEXT, message) for message in messages))
    assert (await client.head()).status == 101
    for message in messages:
        assert await read_frame(client) == (TEXT, message)
    assert await client.is_quiet(0.05)


async def test_another_protocol_that_the_route_lists(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    """As Docker's attach does it: POST, ``Upgrade: tcp``, then bytes of any kind."""
    scripted.answers(
        b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
        b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n$ ",
        hold=True,
    )
    client = await open_connection(gateway)
    await client.send(request("/docker/attach", "Connection: Upgrade", "Upgrade: tcp", method="POST"))
    head = await client.head()
    assert head.first_line == "HTTP/1.1 101 UPGRADED"
    assert head.value("Upgrade") == "tcp"
    assert await client.read(2) == b"$ "
    assert (await scripted.next_head()).first_line == "POST /docker/attach HTTP/1.1"
