"""The demo's echo backend, on real sockets."""

import json
import socket

import aiohttp
import pytest
from aiohttp import WSMsgType

from gateway.demo.echo import start_echo


class Echo:
    """A running backend and a client of it."""

    def __init__(self, runner, url: str, client: aiohttp.ClientSession) -> None:
        self.runner = runner
        self.url = url
        self.client = client


@pytest.fixture
async def echo():
    sock = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    runner = await start_echo(sock)
    async with aiohttp.ClientSession() as client:
        yield Echo(runner, url, client)
    await runner.cleanup()


@pytest.mark.parametrize("path", ["/", "/echo", "/any/path?with=query", "/sse"])
async def test_any_path_echoes(echo, path):
    async with echo.client.ws_connect(echo.url + path) as ws:
        await ws.send_str("hällo")
        await ws.send_bytes(b"\x00\xff")
        await ws.send_str("")
        assert await ws.receive_str() == "hällo"
        assert await ws.receive_bytes() == b"\x00\xff"
        assert await ws.receive_str() == ""


async def test_a_long_message_comes_back_whole(echo):
    async with echo.client.ws_connect(echo.url, max_msg_size=0) as ws:
        await ws.send_bytes(bytes(8 << 20))
        assert len(await ws.receive_bytes()) == 8 << 20


@pytest.mark.parametrize(("offered", "agreed"), [((), None), (("v12.stomp",), "v12.stomp"), (("a", "b"), "a")])
async def test_the_first_subprotocol_is_taken(echo, offered, agreed):
    async with echo.client.ws_connect(echo.url, protocols=offered) as ws:
        assert ws.protocol == agreed


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
async def test_it_closes_with_the_clients_code(echo, code):
    async with echo.client.ws_connect(echo.url, autoclose=False) as ws:
        await ws.send_str("x")
        assert await ws.receive_str() == "x"
        await ws.close(code=code)
        assert ws.close_code == code


async def test_a_close_without_a_code(echo):
    head = (
        "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    reader, writer = await _connect(echo)
    writer.write(head.encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    writer.write(b"\x88\x80\0\0\0\0")
    assert await reader.read() == b"\x88\x02\x03\xe8"
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_vanishes(echo):
    async with echo.client.ws_connect(echo.url) as ws:
        await ws.send_str("x")
        ws._response.connection.transport.abort()
    async with echo.client.get(echo.url) as response:
        assert response.status == 200


async def test_the_page(echo):
    async with echo.client.get(echo.url) as response:
        assert response.content_type == "text/html"
        text = await response.text()
    assert "new WebSocket(url)" in text
    assert "location.host" in text
    async with echo.client.head(echo.url) as response:
        assert response.status == 200


async def test_events(echo):
    async with echo.client.get(f"{echo.url}/sse") as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        for number in (1, 2):
            assert await response.content.readline() == b"id: %d\n" % number
            data = (await response.content.readline()).decode().removeprefix("data: ")
            assert json.loads(data)["number"] == number
            assert await response.content.readline() == b"\n"


async def test_a_slow_answer(echo):
    async with echo.client.get(f"{echo.url}/slow?seconds=0.05") as response:
        assert await response.text() == "That took 0.05 s.\n"


@pytest.mark.parametrize("seconds", ["soon", "-1", "301", "nan", "1e3", ""])
async def test_a_slow_answer_has_bounds(echo, seconds):
    async with echo.client.get(f"{echo.url}/slow", params={"seconds": seconds}) as response:
        assert response.status == 400
        assert await response.text() == "seconds must be a number from 0 to 300\n"


async def test_what_is_not_there_says_what_is(echo):
    async with echo.client.get(f"{echo.url}/nothing") as response:
        assert response.status == 404
        assert "/slow?seconds=3" in await response.text()
    async with echo.client.post(echo.url) as response:
        assert response.status == 405


async def test_the_end_is_told_to_everyone(echo):
    async with (
        echo.client.ws_connect(echo.url) as ws,
        echo.client.get(f"{echo.url}/sse") as events,
        echo.client.get(f"{echo.url}/slow?seconds=0") as slow,
    ):
        await events.content.readuntil(b"\n\n")
        await slow.read()
        await ws.send_str("x")
        assert await ws.receive_str() == "x"
        receiving = ws.receive()
        await echo.runner.cleanup()
        message = await receiving
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1001)
        await events.content.read()


async def _connect(echo):
    import asyncio
    from urllib.parse import urlsplit

    url = urlsplit(echo.url)
    return await asyncio.open_connection(url.hostname, url.port)
