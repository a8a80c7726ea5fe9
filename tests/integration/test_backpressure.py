"""A sender without limit against a reader that takes 1 MB/s: memory stays bounded, and others do not notice.

Six seconds of it here; the whole minute of the issue with ``GATEWAY_SOAK=1 pytest -m soak``.
"""

from __future__ import annotations

import asyncio
import random
import socket
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.conftest import Backends, StartGateway
from tests.support.backends import Scripted
from tests.support.deadline import SOAK, quiet_for, within
from tests.support.frames import BINARY, TEXT, frame, from_client
from tests.support.gateway import Gateway, route, to_one
from tests.support.memory import private_bytes
from tests.support.pace import Pace
from tests.support.raw import Connection, connect, handshake, request, switching

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.soak, pytest.mark.timeout(300)]

SECONDS = 60.0 if SOAK else 4.0
FLOWS = 4
"""of each kind"""

BYTES_PER_SECOND = 1_000_000
PIECE = 256 * 1024
MIB = 1024 * 1024
Work = Callable[[Connection], Awaitable[None]]


def held_by_the_kernel(*addresses: str) -> int:
    """Bytes in the queues of all TCP sockets that have one of these ports at either end: proc(5), /proc/net/tcp."""
    ports = {int(address.rpartition(":")[2]) for address in addresses}
    held = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if ports & {int(end.rpartition(":")[2], 16) for end in (local, remote)}:
            held += sum(int(queue, 16) for queue in queues.split(":"))
    return held


class Flood:
    """Flows from senders without limit to readers that take 1 MB/s."""

    def __init__(self) -> None:
        self.sent = 0
        self.read = 0
        self.flows = 0

    async def send(self, connection: Connection, piece: bytes) -> None:
        """As much as the connection takes, for ever."""
        self.flows += 1
        while True:
            connection.writer.write(piece)
            await connection.writer.drain()
            self.sent += len(piece)

    async def take(self, connection: Connection) -> None:
        """1 MB/s, for ever."""
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        tick = 0.05
        due = time.monotonic()
        while True:
            self.read += len(await connection.read(int(BYTES_PER_SECOND * tick)))
            due += tick
            await quiet_for(max(0, due - time.monotonic()))


async def test_a_flood_takes_no_memory_and_others_keep_their_latency(
    start_gateway: StartGateway, backends: Backends
) -> None:
    flood = Flood()
    binary = from_client(BINARY, bytes(PIECE))
    from_backend = frame(BINARY, bytes(PIECE))
    chunk = b"%x\r\n%b\r\n" % (PIECE, bytes(PIECE))
    chunked = "Transfer-Encoding: chunked"

    async def backend_script(connection: Connection) -> None:
        head = await scripted.request(connection)
        kind = head.target.strip("/")
        if kind == "up":
            await connection.send(switching())
            await flood.take(connection)
        elif kind == "down":
            await connection.send(switching())
            await flood.send(connection, from_backend)
        elif kind == "http-up":
            await flood.take(connection)
        else:
            await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await flood.send(connection, chunk)

    async def client_up(connection: Connection) -> None:
        await connection.send(handshake("/up"))
        assert (await connection.head()).status == 101
        await flood.send(connection, binary)

    async def client_down(connection: Connection) -> None:
        await connection.send(handshake("/down"))
        assert (await connection.head()).status == 101
        await flood.take(connection)

    async def http_up(connection: Connection) -> None:
        await connection.send(request("/http-up", chunked, method="POST"))
        await flood.send(connection, chunk)

    async def http_down(connection: Connection) -> None:
        await connection.send(request("/http-down"))
        assert (await connection.head()).status == 200
        await flood.take(connection)

    scripted: Scripted = await backends.scripted()
    scripted.script = backend_script
    echo = await backends.echo()
    gateway = await start_gateway(
        {
            "access_log": "off",
            "upstreams": {"flood": {"backends": [scripted.address]}, "echo": {"backends": [echo.address]}},
            "routes": [route("echo", "echo"), route("flood", "flood", "/")],
        }
    )
    (worker,) = await gateway.worker_pids()
    probe = await connect(gateway.address)
    await probe.send(handshake("/echo"))
    assert (await probe.head()).status == 101
    idle = statistics.median(await round_trips(probe, 1.0))
    plain = await connect(gateway.address)
    await plain.send(request("/echo"))  # what is imported for plain HTTP is no flow's
    assert (await plain.head()).status
    await plain.close()
    before = private_bytes(worker)

    tasks = []
    connections = []
    for work in (client_up, client_down, http_up, http_down):
        for _ in range(FLOWS):
            connection = await connect(gateway.address)
            connections.append(connection)
            tasks.append(asyncio.create_task(work(connection)))
    try:
        async with Pace() as pace:
            trips = await round_trips(probe, SECONDS, lambda: ended_early(tasks))
        after = private_bytes(worker)
        ahead = flood.sent - flood.read - held_by_the_kernel(gateway.address, scripted.address)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in connections:
            connection.reset()
            await connection.close()
    assert flood.flows == 4 * FLOWS
    grown = (after - before) / (4 * FLOWS)
    assert grown < MIB, f"the worker took {grown / MIB:.2f} MiB for each of {4 * FLOWS} flows"
    # A sender that is ahead of its reader by more than the sockets in between hold was not slowed down.
    assert ahead < 4 * MIB * 4 * FLOWS, f"{ahead / MIB:.1f} MiB are neither read nor in a socket"
    wanted = BYTES_PER_SECOND * SECONDS * 4 * FLOWS
    assert flood.read > 0.7 * wanted / pace.slowdown, "readers did not get their 1 MB/s"
    busy = statistics.median(trips)
    limit = (10 if SOAK else 100) * idle + 0.005 * pace.slowdown
    assert busy < limit, f"a round trip took {busy * 1e3:.1f} ms, {idle * 1e3:.1f} ms when idle"
    # On a machine that does much else, the ends of the flows, which are in this process, are part of it.
    longest = (0.1 if SOAK else 1.0) * pace.slowdown
    assert statistics.quantiles(trips, n=100)[98] < longest, "one round trip in a hundred waited for the flood"
    await probe.close()


def ended_early(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done():
            task.result()
            raise AssertionError("a flow ended")


async def round_trips(probe: Connection, seconds: float, check: Callable[[], None] = lambda: None) -> list[float]:
    """Seconds that single messages took to come back, one each 5 ms."""
    message, answer = from_client(TEXT, b"ping" * 16), frame(TEXT, b"ping" * 16)
    found = []
    end = time.monotonic() + seconds
    while (start := time.monotonic()) < end:
        await probe.echoes(message, answer)
        found.append(time.monotonic() - start)
        check()
        await quiet_for(0.005)
    return found


async def test_a_stalled_tunnel_does_not_stop_its_worker(start_gateway: StartGateway, backends: Backends) -> None:
    """A hundred tunnels whose readers take nothing at all, and one that works."""
    scripted = await backends.scripted()

    async def script(connection: Connection) -> None:
        await scripted.request(connection)
        await connection.send(switching())
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]  # every transport over TCP has it
        await within(connection.writer.wait_closed(), "the test to end", 60)

    scripted.script = script
    echo = await backends.echo()
    gateway: Gateway = await start_gateway(
        {
            "access_log": "off",
            "upstreams": {"s": {"backends": [scripted.address]}, "echo": {"backends": [echo.address]}},
            "routes": [route("echo", "echo"), route("stalled", "s", "/")],
        }
    )
    (worker,) = await gateway.worker_pids()
    before = private_bytes(worker)
    piece = from_client(BINARY, bytes(PIECE))
    stalled = []
    for _ in range(100):
        connection = await connect(gateway.address)
        stalled.append(connection)
        await connection.send(handshake("/"))
        assert (await connection.head()).status == 101
    for connection in stalled:
        for _ in range(12):
            connection.writer.write(piece)
    probe = await connect(gateway.address)
    await probe.send(handshake("/echo"))
    assert (await probe.head()).status == 101
    async with Pace() as pace:
        trips = await round_trips(probe, 1.0)
    assert max(trips) < 0.5 * pace.slowdown
    grown = (private_bytes(worker) - before) / 100
    assert grown < MIB, f"the worker took {grown / MIB:.2f} MiB for each stalled tunnel"
    for connection in (probe, *stalled):
        connection.reset()
        await connection.close()


@pytest.mark.parametrize("way", ["download", "chunked download", "upload", "chunked upload"])
async def test_a_transfer_waits_for_its_reader(start_gateway: StartGateway, backends: Backends, way: str) -> None:
    """64 MiB meet a reader that takes 1 MB/s: they stay where they are, and in the end all of them arrive."""
    content = random.Random(way).randbytes(MIB) * 64
    framing = "Transfer-Encoding: chunked" if way.startswith("chunked") else f"Content-Length: {len(content)}"
    scripted = await backends.scripted()
    begun: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def script(backend: Connection) -> None:
        await scripted.request(backend)
        begun.set_result(backend)
        await over.wait()

    scripted.plays(script)
    gateway = await start_gateway(to_one(scripted.address))
    (worker,) = await gateway.worker_pids()
    client = await connect(gateway.address)
    download = way.endswith("download")
    await client.send(request("/") if download else request("/", framing, method="POST"))
    backend = await within(begun, "the request")
    sender, reader = (backend, client) if download else (client, backend)
    if download:
        await sender.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode())
        assert (await client.head()).status == 200
    before = private_bytes(worker)
    sent = 0

    async def send() -> None:
        nonlocal sent
        for at in range(0, len(content), PIECE):
            piece = content[at : at + PIECE]
            await sender.send(b"%x\r\n%b\r\n" % (len(piece), piece) if "chunked" in framing else piece)
            sent += len(piece)
        await sender.send(b"0\r\n\r\n" if "chunked" in framing else b"")

    sending = asyncio.create_task(send())
    took = bytearray()
    tick = 0.05
    until = time.monotonic() + SECONDS / 3
    while time.monotonic() < until:
        if "chunked" in framing:
            took += await reader.chunk()
            await quiet_for(PIECE / BYTES_PER_SECOND)
        else:
            took += await reader.read(int(BYTES_PER_SECOND * tick))
            await quiet_for(tick)
    assert private_bytes(worker) - before < MIB
    assert sent < len(content), "nobody was slowed down"
    ahead = sent - len(took) - held_by_the_kernel(gateway.address, scripted.address)
    assert ahead < 4 * MIB, f"{ahead / MIB:.1f} MiB are neither read nor in a socket"
    took += await (reader.chunked() if "chunked" in framing else reader.read(len(content) - len(took)))
    assert took == content
    await sending
    if not download:
        await backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert (await client.answer()).status == 200
    over.set()
    await client.close()
