"""Clients with a tunnel each: raw connections, and those of a library."""

from __future__ import annotations

import asyncio
import time

import websockets
from websockets.asyncio.client import ClientConnection

from tests.conftest import Open
from tests.support.backends import Scripted
from tests.support.gateway import Gateway
from tests.support.raw import Connection, handshake


async def tunnel(gateway: Gateway, open_connection: Open, path: str = "/") -> Connection:
    """A tunnel of a raw connection."""
    client = await open_connection(gateway)
    await client.send(handshake(path))
    assert (await client.head()).status == 101
    return client


async def clients_of(gateway: Gateway, count: int) -> list[ClientConnection]:
    """Tunnels of a client library, some at a time."""
    at_once = asyncio.Semaphore(20)

    async def connected() -> ClientConnection:
        async with at_once:
            return await websockets.connect(gateway.ws(), ping_interval=None, compression=None, close_timeout=None)

    return await asyncio.gather(*(connected() for _ in range(count)))


async def closed_at(client: ClientConnection) -> float:
    """Wait for the end of a connection; the clock of it."""
    await client.wait_closed()
    return time.monotonic()


async def until_refused(gateway: Gateway, open_connection: Open, asked: asyncio.Queue[Connection]) -> None:
    """Send handshakes until the worker has heard of a drain, too.

    :param asked: has the connections of those that come to the backend all the same
    """
    while True:
        other = await open_connection(gateway)
        await other.send(handshake("/"))
        refusal, passed = asyncio.create_task(other.answer()), asyncio.create_task(asked.get())
        done, waiting = await asyncio.wait((refusal, passed), return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        if refusal in done:
            assert refusal.result().status == 503
            return


def asked_backends(scripted: Scripted) -> asyncio.Queue[Connection]:
    """Have a backend read each request, and leave the answer to the test. :returns: connections with a request read"""
    asked: asyncio.Queue[Connection] = asyncio.Queue()

    async def script(backend: Connection) -> None:
        await scripted.request(backend)
        asked.put_nowait(backend)
        await backend.writer.wait_closed()

    scripted.plays(script)
    return asked
