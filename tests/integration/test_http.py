"""Plain HTTP beside the tunnels, on the same routes and the same connections."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import random

import aiohttp
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect as websocket

from tests.conftest import Backends, Open, StartGateway
from tests.support.backends import Scripted, Web
from tests.support.deadline import SCALE, SOAK, within
from tests.support.frames import TEXT, frame, from_client, read_frame
from tests.support.gateway import Gateway, route
from tests.support.raw import Connection, handshake, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1024 * 1024
UPLOAD_BYTES = 1024 * MIB if SOAK else 64 * MIB
AT_ONCE_SECONDS = 8 * SCALE
"""For news of one side's end to reach the other."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(shared_backends: Backends) -> Web:
    return await shared_backends.web()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scripted(shared_backends: Backends) -> Scripted:
    return await shared_backends.scripted()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(start_shared_gateway: StartGateway, web: Web, scripted: Scripted) -> Gateway:
    return await start_shared_gateway(
        {
            "timeouts": {"write_stall": "1s"},
            "upstreams": {"web": {"backends": [web.address]}, "scripted": {"backends": [scripted.address]}},
            "routes": [route("scripted", "scripted"), route("web", "web")],
        }
    )


# --- messages ---------------------------------------------------------------------------------------------------------


async def test_a_connection_is_kept_alive_on_both_sides(gateway: Gateway, open_connection: Open, web: Web) -> None:
    client = await open_connection(gateway)
    seen = len(web.connections)
    for number in range(5):
        await client.send(request(f"/web/keep-alive/{number}"))
        answer = await client.answer()
        assert answer.status == 200
        assert json.loads(answer.body)["target"] == f"/web/keep-alive/{number}"
    assert len(set(web.connections[seen:])) == 1
    record = await gateway.logged(event="http", path="/web/keep-alive/4")
    assert (record["route"], record["status"], record["method"]) == ("web", 200, "GET")
    assert record["bytes"] == len(answer.body)


async def test_requests_are_counted_by_route_and_code(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    scripted.answers(b"HTTP/1.1 418 I'm a teapot\r\nContent-Length: 0\r\n\r\n")
    before = await gateway.scrape()
    client = await open_connection(gateway)
    await client.send(request("/scripted/teapot"))
    assert (await client.answer()).head.first_line == "HTTP/1.1 418 I'm a teapot"
    await gateway.counts(before, "gateway_http_requests_total", route="scripted", code="418")


@pytest.mark.parametrize("first_on_its_connection", [True, False])
async def test_the_backend_is_sent_what_the_client_sent(
    gateway: Gateway, open_connection: Open, scripted: Scripted, first_on_its_connection: bool
) -> None:
    scripted.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    client = await open_connection(gateway)
    if not first_on_its_connection:
        await client.send(request("/web/first"))
        await client.answer()
    await client.send(
        b"GET /scripted/a%2Fb/../%7Ec?q=%20+&q=2 HTTP/1.1\r\n"
        b"hOsT: Gateway.test\r\n"
        b"X-zebra: 1\r\n"
        b"accept-ENCODING: gzip\r\n"
        b"x-dup: one\r\n"
        b"Connection: keep-alive, X-Hop\r\n"
        b"X-Hop: gone\r\n"
        b"TE: trailers\r\n"
        b"X-DUP: two\r\n"
        b"Cookie: a=1\r\n"
        b"X-Forwarded-Proto: https\r\n"
        b"Cookie: b=2\r\n"
        b"X-Latin: \xe9\r\n"
        b"X-Empty:\r\n"
        b"\r\n"
    )
    assert (await client.answer()).body == b"ok"
    head = await scripted.next_head()
    assert head.first_line == "GET /scripted/a%2Fb/../%7Ec?q=%20+&q=2 HTTP/1.1"
    *fields, loop_mark, request_id = head.fields
    assert loop_mark[0] == "CDN-Loop"
    assert fields == [
        ("hOsT", "Gateway.test"),
        ("X-zebra", "1"),
        ("accept-ENCODING", "gzip"),
        ("x-dup", "one"),
        ("X-DUP", "two"),
        ("Cookie", "a=1"),
        ("Cookie", "b=2"),
        ("X-Latin", "\xe9"),
        ("X-Empty", ""),
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Host", "Gateway.test"),
    ]
    assert request_id[0] == "X-Request-Id"


async def test_the_client_is_sent_what_the_backend_sent(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    body = gzip.compress(b"compressed by the backend")
    scripted.answers(
        b"HTTP/1.1 200 Fine By Me\r\n"
        b"zebra: 1\r\n"
        b"Set-Cookie: a=1\r\n"
        b"Connection: keep-alive, X-Hop\r\n"
        b"X-Hop: gone\r\n"
        b"Content-Encoding: gzip\r\n"
        b"set-cookie: b=2\r\n"
        b"Content-Length: %d\r\n"
        b"Apple: \xe9\r\n"
        b"\r\n%b" % (len(body), body)
    )
    client = await open_connection(gateway)
    await client.send(request("/scripted/fields"))
    answer = await client.answer()
    assert answer.head.first_line == "HTTP/1.1 200 Fine By Me"
    assert answer.body == body
    assert answer.head.fields == [
        ("zebra", "1"),
        ("Set-Cookie", "a=1"),
        ("Content-Encoding", "gzip"),
        ("set-cookie", "b=2"),
        ("Content-Length", str(len(body))),
        ("Apple", "\xe9"),
    ]


async def test_head(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    client = await open_connection(gateway)
    scripted.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nX-A: b\r\n\r\n")
    await client.send(request("/scripted/head", method="HEAD"))
    answer = await client.answer(head_only=True)
    assert answer.head.value("Content-Length") == "1234"
    assert (await scripted.next_head()).first_line == "HEAD /scripted/head HTTP/1.1"
    scripted.answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await client.send(request("/scripted/head", method="HEAD"))
    assert (await client.answer(head_only=True)).status == 200
    await client.send(request("/web/next"))
    assert (await client.answer()).status == 200


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_a_body(gateway: Gateway, open_connection: Open, scripted: Scripted, status: int) -> None:
    scripted.answers(b'HTTP/1.1 %d X\r\nETag: "1"\r\n\r\n' % status)
    client = await open_connection(gateway)
    await client.send(request("/scripted/empty") + request("/web/next"))
    answer = await client.answer()
    assert answer.status == status
    assert answer.head.value("ETag") == '"1"'
    assert (await client.answer()).status == 200


async def test_an_http_1_0_client_gets_an_answer_that_it_understands(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    scripted.answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n")
    client = await open_connection(gateway)
    await client.send(b"GET /scripted/old HTTP/1.0\r\nHost: a\r\n\r\n")
    answer = await client.answer()
    assert answer.head.value("Transfer-Encoding") is None
    assert answer.body == b"abcdef"


async def test_interim_answers_are_passed_on(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    scripted.answers(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    )
    client = await open_connection(gateway)
    await client.send(request("/scripted/hints"))
    hints = await client.head()
    assert (hints.status, hints.value("Link")) == (103, "</a.css>")
    assert (await client.answer()).body == b"ok"


# --- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.timeout(600 if SOAK else 300)
@pytest.mark.parametrize("framing", ["chunked", "length"])
async def test_an_upload_arrives_byte_for_byte(gateway: Gateway, framing: str) -> None:
    piece = random.Random(1).randbytes(4 * MIB)
    pieces = UPLOAD_BYTES // len(piece)
    expected = hashlib.sha256()

    async def body() -> aiohttp.AsyncIterable[bytes]:
        for _ in range(pieces):
            expected.update(piece)
            yield piece

    headers = {"Content-Length": str(UPLOAD_BYTES)} if framing == "length" else {}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=500)) as session,
        session.put(gateway.http("/web/upload"), data=body(), headers=headers) as answer,
    ):
        found = await answer.json()
    assert found["size"] == UPLOAD_BYTES
    assert found["sha256"] == expected.hexdigest()
    assert found["framing"] == ("chunked" if framing == "chunked" else str(UPLOAD_BYTES))


async def test_a_body_waits_for_the_backend_to_ask(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    asked = asyncio.Event()
    go_on = asyncio.Event()
    arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def script(backend: Connection) -> None:
        await scripted.request(backend)
        asked.set()
        await go_on.wait()
        await backend.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        arrived.set_result(await backend.read(5))
        await backend.send(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    scripted.script = script
    client = await open_connection(gateway)
    await client.send(request("/scripted/c", "Expect: 100-continue", "Content-Length: 5", method="POST"))
    await within(asked.wait(), "the request at the backend")
    assert await client.is_quiet(0.1)
    go_on.set()
    assert (await client.head()).status == 100
    await client.send(b"hello")
    assert await arrived == b"hello"
    assert (await client.answer()).status == 201


async def test_a_backend_may_decline_a_body(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    scripted.answers(b"HTTP/1.1 413 Too Much\r\nContent-Length: 2\r\n\r\nno")
    client = await open_connection(gateway)
    await client.send(request("/scripted/c", "Expect: 100-continue", "Content-Length: 5000000", method="POST"))
    answer = await client.answer()
    assert (answer.status, answer.body) == (413, b"no")


async def test_a_chunked_body_reaches_the_backend_as_it_comes(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    pieces: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(backend: Connection) -> None:
        head = await scripted.request(backend)
        assert head.value("Transfer-Encoding") == "chunked"
        assert head.value("Content-Length") is None
        while piece := await backend.chunk():
            pieces.put_nowait(piece)
        await backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")

    scripted.script = script
    client = await open_connection(gateway)
    await client.send(request("/scripted/upload", "Transfer-Encoding: chunked", method="POST"))
    for piece in (b"one", b"two", b"three"):
        await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        assert await within(pieces.get(), "a chunk at the backend") == piece
    await client.send(b"0\r\n\r\n")
    assert (await client.answer()).body == b"done"


async def test_server_sent_events_come_as_they_are_sent(gateway: Gateway, open_connection: Open, web: Web) -> None:
    client = await open_connection(gateway)
    await client.send(request("/web/sse", "Accept: text/event-stream"))
    head = await client.head()
    assert head.value("Content-Type") == "text/event-stream"
    events = web.events["/web/sse"]
    for number in range(5):
        assert await client.is_quiet(0.02)
        events.put_nowait(str(number))
        assert await client.chunk() == f"data: {number}\n\n".encode()
    events.put_nowait(None)
    assert await client.chunk() == b""
    await client.send(request("/web/after-sse"))
    assert (await client.answer()).status == 200


async def test_a_long_poll_waits_while_a_tunnel_of_its_route_works(
    gateway: Gateway, open_connection: Open, web: Web
) -> None:
    client = await open_connection(gateway)
    await client.send(request("/web/wait/poll"))
    await within(web.arrived["/web/wait/poll"].wait(), "the poll at the backend")
    async with websocket(gateway.ws("/web/ws"), compression=None) as tunnel:
        await tunnel.send("beside")
        assert await within(tunnel.recv(), "an echo") == "beside"
        assert await client.is_quiet(0.05)
        web.events["/web/wait/poll"].put_nowait("news")
        assert (await client.answer()).body == b"news"


# --- those who go -----------------------------------------------------------------------------------------------------


async def test_a_download_that_the_client_aborts_ends_at_the_backend(
    gateway: Gateway, open_connection: Open, web: Web
) -> None:
    client = await open_connection(gateway)
    await client.send(request("/web/aborted/download"))
    assert (await client.head()).status == 200
    await client.read(2 * MIB)
    client.reset()
    await within(web.cancelled["/web/aborted/download"].wait(), "the backend's end of it", AT_ONCE_SECONDS)
    record = await gateway.logged(event="http", path="/web/aborted/download")
    assert record["bytes"] > MIB


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_poll_whose_client_has_gone_is_cancelled(
    gateway: Gateway, open_connection: Open, web: Web, how: str
) -> None:
    path = f"/web/{how}/poll"
    client = await open_connection(gateway)
    await client.send(request(path))
    await within(web.arrived[path].wait(), "the poll at the backend")
    if how == "fin":
        await client.close()
    else:
        client.reset()
    await within(web.cancelled[path].wait(), "the backend's end of it", AT_ONCE_SECONDS)


async def test_an_upload_that_breaks_off_does_not_look_whole(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def script(backend: Connection) -> None:
        await scripted.request(backend)
        arrived.set_result(await backend.ends())

    scripted.plays(script)
    client = await open_connection(gateway)
    await client.send(request("/scripted/broken", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n")
    await scripted.next_head()
    client.reset()
    seen = await within(arrived, "the backend's end of it", AT_ONCE_SECONDS)
    assert not seen.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this", b"only this"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n", b"9\r\nonly this\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\nzz\r\n", b"9\r\nonly this\r\n"),
    ],
    ids=["length", "chunked", "nonsense"],
)
async def test_an_answer_that_breaks_off_does_not_look_whole(
    gateway: Gateway, open_connection: Open, scripted: Scripted, answer: bytes, body: bytes
) -> None:
    scripted.answers(answer)
    client = await open_connection(gateway)
    await client.send(request("/scripted/broken"))
    head = await client.head()
    if head.status == 200:
        assert await client.ends() == body
    else:
        assert head.status == 502


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_backend_that_closes_without_an_answer_gets_its_client_502(
    gateway: Gateway, open_connection: Open, scripted: Scripted, method: str
) -> None:
    scripted.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    client = await open_connection(gateway)
    await client.send(request("/scripted/alive"))
    assert (await client.answer()).status == 200
    scripted.answers(b"")
    await client.send(request("/scripted/dead", "Content-Length: 0", method=method))
    assert (await client.answer()).status == 502
    assert (await gateway.logged(event="http", path="/scripted/dead", method=method))["status"] == 502
    assert scripted.heads.qsize() == 1 or method == "GET"  # a POST is never sent twice


async def test_a_client_that_takes_nothing_is_cut_off(gateway: Gateway, open_connection: Open, web: Web) -> None:
    """``write_stall``, on the plain path too."""
    client = await open_connection(gateway)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # every transport over TCP has it
    await client.send(request("/web/stalled/download"))
    await within(web.cancelled["/web/stalled/download"].wait(), "the backend's end of it", 1 + AT_ONCE_SECONDS)


# --- one connection for both ------------------------------------------------------------------------------------------


async def test_poll_then_upgrade_on_one_connection(gateway: Gateway, open_connection: Open) -> None:
    """As socket.io does it: polling first, then a WebSocket on the same path and the same connection."""
    client = await open_connection(gateway)
    for _ in range(3):
        await client.send(request("/web/socket.io/?EIO=4&transport=polling"))
        assert json.loads((await client.answer()).body)["upgrades"] == ["websocket"]
    await client.send(handshake("/web/socket.io/?EIO=4&transport=websocket&sid=1"))
    assert (await client.head()).status == 101
    await client.echoes(from_client(TEXT, b"2probe"), frame(TEXT, b"2probe"))
    record = await gateway.logged(event="handshake", client=client.name)
    assert record["result"] == "upgraded"
    await client.close()
    assert (await gateway.logged(event="tunnel_end", client=client.name))["cause"] in ("fin", "reset")


async def test_requests_and_a_handshake_and_frames_in_one_piece(gateway: Gateway, open_connection: Open) -> None:
    client = await open_connection(gateway)
    await client.send(
        request("/web/one")
        + request("/web/two", "Content-Length: 4", method="POST")
        + b"body"
        + request("/web/three")
        + handshake("/web/ws")
        + from_client(TEXT, b"first")
        + from_client(TEXT, b"second")
    )
    for target in ("/web/one", "/web/two", "/web/three"):
        answer = await client.answer()
        assert answer.status == 200
        assert json.loads(answer.body)["target"] == target
    assert (await client.head()).status == 101
    assert await read_frame(client) == (TEXT, b"first")
    assert await read_frame(client) == (TEXT, b"second")
    await client.echoes(from_client(TEXT, b"third"), frame(TEXT, b"third"))


async def test_an_upgrade_that_is_declined_ends_a_kept_alive_connection(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    scripted.answers(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
    client = await open_connection(gateway)
    await client.send(request("/web/first"))
    assert (await client.answer()).status == 200
    await client.send(handshake("/scripted/declined"))
    answer = await client.answer()
    assert (answer.status, answer.body) == (403, b"no")
    assert answer.head.value("Connection") == "close"
    assert await client.rest() == b""


async def test_many_connections_that_change_to_tunnels_leave_nothing_behind(
    gateway: Gateway, open_connection: Open
) -> None:
    """The descriptor that aiohttp lets go and the one that the relay has must not be mixed up."""
    for round_ in range(3):
        clients = [await open_connection(gateway) for _ in range(30)]
        for client in clients:
            await client.send(request("/web/x") + handshake("/web/ws"))
        for number, client in enumerate(clients):
            assert (await client.answer()).status == 200
            assert (await client.head()).status == 101
            text = f"{round_} {number}".encode()
            await client.echoes(from_client(TEXT, text), frame(TEXT, text))
        for client in clients:
            await client.close()
    await gateway.tunnels(0, route="web")
