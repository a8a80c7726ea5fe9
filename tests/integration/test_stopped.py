"""A worker that is stopped for a moment finds all that has come meanwhile in one turn of its poller, in its order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.support.deadline import DEADLINE_SECONDS, eventually, within
from tests.support.frames import TEXT, frame, from_client
from tests.support.gateway import to_one
from tests.support.process import state
from tests.support.raw import Connection, handshake, switching

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIMES = 10
FROM_CLIENT, FROM_BACKEND = from_client(TEXT, b"ahead of the answer"), frame(TEXT, b"behind the answer")
WHOLE = switching() + FROM_BACKEND


@contextlib.asynccontextmanager
async def stopped(pid: int) -> AsyncIterator[None]:
    """A process, stopped meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        await eventually(lambda: state(pid) == "T", "the worker to stop")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("pieces", "place"),
    [
        pytest.param(pieces, place, id=f"{len(pieces)} pieces of the backend's, {place} of them before the client's")
        for pieces in ([WHOLE], [WHOLE[:50], WHOLE[50:]])
        for place in range(len(pieces) + 1)
    ],
)
async def test_nothing_that_came_while_the_worker_was_stopped_is_lost(
    start_gateway: StartGateway, open_connection: Open, backends: Backends, pieces: list[bytes], place: int
) -> None:
    scripted = await backends.scripted()
    arrived: asyncio.Queue[Connection] = asyncio.Queue()
    over = asyncio.Event()

    async def script(backend: Connection) -> None:
        await scripted.request(backend)
        arrived.put_nowait(backend)
        await within(over.wait(), "the test to end", 3 * DEADLINE_SECONDS)

    scripted.plays(script)
    gateway = await start_gateway({**to_one(scripted.address), "workers": 1})
    (pid,) = await gateway.worker_pids()
    for _ in range(TIMES):
        client = await open_connection(gateway)
        await client.send(handshake("/"))
        backend = await within(arrived.get(), "the handshake at the backend")
        async with stopped(pid):
            for piece in pieces[:place]:
                await backend.send(piece)
            await client.send(FROM_CLIENT)
            for piece in pieces[place:]:
                await backend.send(piece)
        assert (await client.head()).raw == switching()
        assert await client.read(len(FROM_BACKEND)) == FROM_BACKEND
        assert await backend.read(len(FROM_CLIENT)) == FROM_CLIENT
        await client.close()
    over.set()
