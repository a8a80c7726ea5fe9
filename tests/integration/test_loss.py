"""A backend that vanishes under its tunnels: clients are told, with a code of their upstream's, and not all at once."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import Counter

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.support.deadline import SCALE, SOAK, eventually, within
from tests.support.frames import CLOSE, TEXT, close, frame, from_client, read_frame
from tests.support.gateway import route, to_one
from tests.support.pace import Pace
from tests.support.ports import free_port
from tests.support.process import Process
from tests.support.raw import Connection, switching

from .clients import clients_of, closed_at, tunnel

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.soak]

TUNNELS = 2000 if SOAK else 200
SPREAD_SECONDS = 5
ECHO = """
import asyncio, sys
from websockets.asyncio.server import serve
async def echo(connection):
    async for message in connection:
        await connection.send(message)
async def main():
    async with serve(echo, "127.0.0.1", int(sys.argv[1]), ping_interval=None, compression=None) as server:
        print("ready", flush=True)
        await server.serve_forever()
asyncio.run(main())
"""


@pytest.mark.either_build
@pytest.mark.timeout(300)
async def test_a_whole_backend_dies(start_gateway: StartGateway) -> None:
    port = free_port()
    backend = await Process.start(sys.executable, "-c", ECHO, str(port), name="echo")
    try:
        await backend.stdout.containing("ready")
        gateway = await start_gateway({"workers": 2, **to_one(f"127.0.0.1:{port}")})
        clients = await clients_of(gateway, TUNNELS)
        await asyncio.gather(*(client.send("hello") for client in clients))
        assert await asyncio.gather(*(client.recv() for client in clients)) == ["hello"] * TUNNELS
        ends = [asyncio.create_task(closed_at(client)) for client in clients]
        async with Pace() as pace:
            backend.signal(signal.SIGKILL)
            times = await within(asyncio.gather(*ends), "every client to be told", (SPREAD_SECONDS + 5) * SCALE)
    finally:
        await backend.end(signal.SIGKILL)
    first = min(times)
    assert max(times) - first < SPREAD_SECONDS + pace.slowdown
    seconds = Counter(int(at - first) for at in times)
    mean = TUNNELS / SPREAD_SECONDS
    assert max(seconds.values()) < (1.4 * mean + 20) * pace.slowdown, seconds
    for client in clients:
        assert client.close_code == 1012
        assert client.protocol.close_rcvd_then_sent is True
    await eventually(lambda: len(gateway.log_records(event="tunnel_end")) == TUNNELS, "every end in the log")
    ended = gateway.log_records(event="tunnel_end")
    said = Counter(
        (r["initiator"], r["client_close_code"], r["backend_close_code"], r["gateway_close_code"]) for r in ended
    )
    assert said == {("backend", 1012, None, 1012): TUNNELS}
    assert {record["cause"] for record in ended} <= {"fin", "reset"}


@pytest.mark.parametrize("way", ["fin", "reset"])
async def test_a_few_are_told_at_once(
    start_gateway: StartGateway, backends: Backends, open_connection: Open, way: str
) -> None:
    scripted = await backends.scripted()
    arrived: list[Connection] = []

    async def script(backend: Connection) -> None:
        await scripted.request(backend)
        await backend.send(switching())
        arrived.append(backend)
        await backend.writer.wait_closed()

    scripted.plays(script)
    config = to_one(scripted.address)
    config["upstreams"]["one"]["on_loss"] = {"close_code": 4321}
    gateway = await start_gateway(config)
    clients = [await tunnel(gateway, open_connection, f"/{number}") for number in range(10)]
    await eventually(lambda: len(arrived) == 10, "the backend's side of them")
    for backend in arrived:
        await backend.send(frame(TEXT, b"last words"))
    for client in clients:
        assert await read_frame(client) == (TEXT, b"last words")
    async with Pace() as pace:
        start = time.monotonic()
        for backend in arrived:
            backend.reset() if way == "reset" else backend.writer.close()
        for client in clients:
            assert await read_frame(client) == (CLOSE, close(4321))
        took = time.monotonic() - start
    assert took < pace.slowdown
    for number, client in enumerate(clients):
        await client.send(from_client(CLOSE, close(4321)))
        assert await client.ends() == b""
        record = await gateway.logged(event="tunnel_end", path=f"/{number}")
        assert (record["initiator"], record["cause"], record["gateway_close_code"]) == ("backend", way, 4321)


async def test_off_is_a_bare_end(start_gateway: StartGateway, backends: Backends, open_connection: Open) -> None:
    told, left = await backends.scripted(), await backends.scripted()
    for backend in (told, left):
        backend.answers(switching() + frame(TEXT, b"bye"))
    gateway = await start_gateway(
        {
            "upstreams": {"told": {"backends": [told.address]}, "left": {"backends": [left.address], "on_loss": "off"}},
            "routes": [route("told", "told"), route("left", "left")],
        }
    )
    client = await tunnel(gateway, open_connection, "/left")
    assert await client.rest() == frame(TEXT, b"bye")
    client = await tunnel(gateway, open_connection, "/told")
    assert await client.rest() == frame(TEXT, b"bye") + frame(CLOSE, close(1012))


@pytest.mark.either_build
async def test_a_changed_code_is_for_new_tunnels(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    scripted = await backends.scripted()
    scripted.answers(switching(), hold=True)
    config = to_one(scripted.address)
    gateway = await start_gateway(config)
    old = await tunnel(gateway, open_connection)
    config["upstreams"]["one"]["on_loss"] = {"close_code": 3000}
    gateway.write(config)
    await gateway.reload()
    new = await tunnel(gateway, open_connection)
    await scripted.close()
    assert await read_frame(old) == (CLOSE, close(1012))
    assert await read_frame(new) == (CLOSE, close(3000))
