"""Event streams and long polls by the hundred: events pass at once, a stream is as cheap as a tunnel, ends are seen."""

from __future__ import annotations

import asyncio
import statistics
import time

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.support.backends import Scripted
from tests.support.deadline import SCALE, SOAK, within
from tests.support.gateway import Gateway, to_one
from tests.support.memory import private_bytes
from tests.support.pace import Pace
from tests.support.raw import Connection, connect, request

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.soak, pytest.mark.timeout(300)]

STREAMS = 2000 if SOAK else 500
FIRST = 100
"""Streams that come and go before anything is measured: what a worker needs once is no stream's."""

STREAM_BYTES = 6 * 1024
"""Memory of the worker's that an open stream may take: little more than a tunnel."""

EVENT_SECONDS = 0.005
"""For an event to come through a gateway that does nothing else, and through the test's own loop."""

ENDS_SECONDS = 8 * SCALE
"""For the end of every client to be seen at the backend."""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Streams:
    """A backend that opens a stream on every connection."""

    def __init__(self, backend: Scripted) -> None:
        self.address = backend.address
        self.open: dict[str, Connection] = {}
        """by target"""
        self._opened = asyncio.Condition()
        self._backend = backend
        backend.plays(self._script)

    async def opened(self, target: str) -> Connection:
        """The backend's end of a stream, when it is there."""
        async with self._opened:
            await within(self._opened.wait_for(lambda: target in self.open), f"{target} at the backend")
        return self.open[target]

    async def none_left(self) -> None:
        """Wait until the last one has ended."""
        async with self._opened:
            await within(self._opened.wait_for(lambda: not self.open), "the ends at the backend", ENDS_SECONDS)

    async def _script(self, connection: Connection) -> None:
        head = await self._backend.request(connection)
        await connection.send(HEAD)
        async with self._opened:
            self.open[head.target] = connection
            self._opened.notify_all()
        await connection.reader.read()  # the client's end
        async with self._opened:
            del self.open[head.target]
            self._opened.notify_all()


async def open_streams(gateway: Gateway, streams: Streams, names: range) -> list[tuple[Connection, Connection]]:
    """Both ends of some streams: the client's, then the backend's."""
    at_once = asyncio.Semaphore(50)

    async def open_one(target: str) -> tuple[Connection, Connection]:
        async with at_once:
            client = await connect(gateway.address)
            await client.send(request(target, "Accept: text/event-stream"))
            assert (await client.head()).status == 200
            return client, await streams.opened(target)

    return await asyncio.gather(*(open_one(f"/{name}/sse") for name in names))


async def event(client: Connection, backend: Connection, text: str) -> None:
    """Send an event, and see it."""
    data = f"data: {text}\n\n".encode()
    await backend.send(b"%x\r\n%b\r\n" % (len(data), data))
    assert await client.chunk() == data


async def close_all(ends: list[tuple[Connection, Connection]]) -> None:
    for client, _ in ends:
        await client.close()


async def test_many_streams(start_gateway: StartGateway, backends: Backends) -> None:
    streams = Streams(await backends.scripted())
    gateway = await start_gateway(to_one(streams.address))
    (worker,) = await gateway.worker_pids()

    async def in_flight(count: int) -> None:
        await gateway.until(
            lambda scrape: scrape.value("gateway_http_requests", route="all") == count, f"{count} requests in flight"
        )

    first = await open_streams(gateway, streams, range(FIRST))
    for client, backend in first:
        await event(client, backend, "first")
    await close_all(first)
    await streams.none_left()
    await in_flight(0)
    before = private_bytes(worker)
    ends = await open_streams(gateway, streams, range(STREAMS))
    await in_flight(STREAMS)
    for client, backend in ends:
        await event(client, backend, "hello")
    each = (private_bytes(worker) - before) / STREAMS
    assert each <= STREAM_BYTES, f"a stream takes {each / 1024:.1f} KiB of the worker's memory"

    # One event at a time, each on another stream; then one on every stream, with nobody reading until all are sent.
    seconds = []
    async with Pace() as pace:
        for number, (client, backend) in enumerate(ends):
            start = time.monotonic()
            await event(client, backend, str(number))
            seconds.append(time.monotonic() - start)
    assert statistics.median(seconds) < EVENT_SECONDS * pace.slowdown
    for _, backend in ends:
        await backend.send(b"5\r\nto-al\r\n1\r\nl\r\n")
    for client, _ in ends:
        assert await client.chunk() + await client.chunk() == b"to-all"

    for number, (client, _) in enumerate(ends):
        if number % 2:
            client.reset()
        await client.close()
    await streams.none_left()
    await in_flight(0)
    for end in ("fin", "reset"):
        record = await gateway.logged(event="http", initiator="client", cause=end)
        assert (record["status"], record["backend"], record["reason"]) == (200, streams.address, None)
        assert record["first_byte"] < record["duration"]


@pytest.mark.either_build
@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_client_that_goes_before_the_first_event(
    start_gateway: StartGateway, backends: Backends, open_connection: Open, how: str
) -> None:
    """A poll has no answer yet: there is nothing but the connection's end for the backend to see."""
    web = await backends.web()
    gateway = await start_gateway(to_one(web.address))
    client = await open_connection(gateway)
    await client.send(request("/a/poll"))
    await within(web.arrived["/a/poll"].wait(), "the poll at the backend")
    if how == "reset":
        client.reset()
    await client.close()
    await within(web.cancelled["/a/poll"].wait(), "the backend's end of it", ENDS_SECONDS)
    record = await gateway.logged(event="http", path="/a/poll")
    assert (record["status"], record["initiator"], record["cause"], record["first_byte"]) == (499, "client", how, None)
    assert record["backend"] == web.address


@pytest.mark.either_build
async def test_many_polls(start_gateway: StartGateway, backends: Backends) -> None:
    """Each gets its own answer, however many wait, and its connection is good for the next one."""
    web = await backends.web()
    gateway = await start_gateway({**to_one(web.address), "workers": 2})
    clients = [await connect(gateway.address) for _ in range(STREAMS // 5)]
    for turn in range(2):
        for number, client in enumerate(clients):
            await client.send(request(f"/{number}/poll"))
        for number in reversed(range(len(clients))):
            await within(web.arrived[f"/{number}/poll"].wait(), "the poll at the backend")
            web.events[f"/{number}/poll"].put_nowait(f"{turn} {number}")
        for number, client in enumerate(clients):
            assert (await client.answer()).text == f"{turn} {number}"
    for client in clients:
        await client.close()
