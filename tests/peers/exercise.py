"""What must work through any chain of proxies that ends in our backends."""

from __future__ import annotations

import hashlib
import io
import random
import ssl

import aiohttp
from websockets.asyncio.client import connect as websocket

from tests.support.backends import Web
from tests.support.deadline import within

MIB = 1024 * 1024


async def websocket_works(url: str, tls: ssl.SSLContext | None = None) -> None:
    """Messages of every kind come back, and the Close frame does. :param tls: the client's context, for wss"""
    rng = random.Random(url)
    async with websocket(url, max_size=None, subprotocols=["v10.stomp"], ping_interval=None, ssl=tls) as client:
        assert client.subprotocol == "v10.stomp"
        for message in ("héllo", b"", rng.randbytes(70_000), "x" * MIB):
            await client.send(message)
            assert await within(client.recv(), "an echo") == message
        await within(await client.ping(), "a pong")
        await client.close(1000, "done")
    assert client.close_code == 1000


async def http_works(base: str, web: Web, tls: ssl.SSLContext | None = None) -> None:
    """An upload arrives whole, and events come as they are sent.

    :param base: URL of a folder
    :param tls: the client's context, for https
    """
    body = random.Random(1).randbytes(4 * MIB)
    connector = aiohttp.TCPConnector(ssl=tls or True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=20)) as session:
        async with session.put(f"{base}/upload", data=io.BytesIO(body)) as answer:
            found = await answer.json()
            assert found["size"] == len(body)
            assert found["sha256"] == hashlib.sha256(body).hexdigest()
        async with session.get(f"{base}/sse") as answer:
            path = answer.url.path
            for number in range(3):
                web.events[path].put_nowait(str(number))
                assert await within(answer.content.readuntil(b"\n\n"), "an event") == f"data: {number}\n\n".encode()
            web.events[path].put_nowait(None)
            assert await answer.content.read() == b""
