"""Clients with a tunnel each: raw connections, and those of a library."""

from __future__ import annotations

import asyncio
import time

import websockets
from websockets.asyncio.client import ClientConnection

from tests.conftest import Open
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
