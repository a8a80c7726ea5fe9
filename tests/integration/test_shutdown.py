"""How a gateway ends: TERM, INT, and a supervisor that is killed."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.support.deadline import SCALE, within
from tests.support.frames import CLOSE, TEXT, close, frame, from_client, read_frame
from tests.support.gateway import to_one
from tests.support.process import gone
from tests.support.raw import Connection, connect, handshake, request, switching

from .clients import tunnel

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("workers", [1, 2])
async def test_term_tells_every_client_and_exits_with_0(
    start_gateway: StartGateway, backends: Backends, open_connection: Open, workers: int
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway({"workers": workers, **to_one(echo.address, drain={"period": "1s"})})
    clients = [await tunnel(gateway, open_connection) for _ in range(20)]
    for client in clients:
        await client.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))
    gateway.term()
    for client in clients:
        assert await read_frame(client) == (CLOSE, close(1012))
        await client.send(from_client(CLOSE, close(1012)))
        assert await client.ends() == b""
    await gateway.exits(0)
    records = gateway.log_records(event="tunnel_end")
    assert len(records) == 20
    assert {(record["initiator"], record["cause"], record["gateway_close_code"]) for record in records} == {
        ("gateway", "drain", 1012)
    }
    with pytest.raises(ConnectionRefusedError):
        await connect(gateway.address)


async def test_term_waits_for_the_end_of_a_frame(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    scripted = await backends.scripted()
    arrived: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()

    async def script(backend: Connection) -> None:
        await scripted.request(backend)
        await backend.send(switching())
        arrived.set_result(backend)
        await within(backend.writer.wait_closed(), "the test to close", 60)

    scripted.script = script
    gateway = await start_gateway(to_one(scripted.address))
    client = await tunnel(gateway, open_connection)
    backend = await arrived
    whole = frame(TEXT, b"x" * 100)
    await backend.send(whole[:50])
    assert await client.read(50) == whole[:50]
    gateway.term()
    assert await read_frame(backend) == (CLOSE, close(1012))
    await backend.send(whole[50:])
    assert await client.read(52) == whole[50:]
    assert await read_frame(client) == (CLOSE, close(1012))
    await backend.send(frame(CLOSE, close(1012)))
    await client.send(from_client(CLOSE, close(1012)))
    await gateway.exits(0)


async def test_term_does_not_wait_for_ever_for_those_who_do_not_answer(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address, timeouts={"close": "1s"}))
    kept_alive = await open_connection(gateway)
    mute = await tunnel(gateway, open_connection)
    gateway.term()
    await gateway.stderr.containing("signal TERM")
    status, text = await gateway.get("/readyz")
    assert (status, text) == (503, "not ready: the gateway is shutting down\n")
    assert (await gateway.get("/healthz"))[0] == 200
    assert await read_frame(mute) == (CLOSE, close(1012))  # the worker has heard of it, too
    await kept_alive.send(handshake("/"))
    answer = await kept_alive.ends()
    assert b" 503 " in answer.partition(b"\r\n")[0] or answer == b""
    await gateway.exits(0, 5 * SCALE)


@pytest.mark.either_build
async def test_term_lets_requests_in_flight_finish(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    web = await backends.web()
    gateway = await start_gateway(to_one(web.address))
    client = await open_connection(gateway)
    await client.send(request("/a/poll"))
    await within(web.arrived["/a/poll"].wait(), "the poll at the backend")
    gateway.term()
    await gateway.stderr.containing("signal TERM")
    web.events["/a/poll"].put_nowait("in time")
    assert (await client.answer()).body == b"in time"
    await gateway.exits(0)


@pytest.mark.either_build
async def test_term_ends_an_event_stream_after_a_while(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    web = await backends.web()
    gateway = await start_gateway(to_one(web.address, drain={"period": "500ms"}))
    client = await open_connection(gateway)
    await client.send(request("/a/sse"))
    await client.head()
    gateway.term()
    await client.ends()
    await gateway.exits(0)


@pytest.mark.either_build
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
async def test_int_ends_at_once(
    start_gateway: StartGateway, backends: Backends, open_connection: Open, number: signal.Signals
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway({"workers": 2, **to_one(echo.address)})
    clients = [await tunnel(gateway, open_connection) for _ in range(5)]
    start = time.monotonic()
    gateway.process.signal(number)
    await gateway.exits(0)
    assert time.monotonic() - start < 9 * SCALE  # the clients were not waited for
    for client in clients:
        assert await client.ends() == b""


@pytest.mark.either_build
async def test_int_cuts_a_drain_short(start_gateway: StartGateway, backends: Backends, open_connection: Open) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address, timeouts={"close": "60s"}))
    client = await tunnel(gateway, open_connection)
    gateway.term()
    assert await read_frame(client) == (CLOSE, close(1012))
    start = time.monotonic()
    gateway.process.signal(signal.SIGINT)
    await gateway.exits(0)
    assert time.monotonic() - start < 9 * SCALE  # the clients were not waited for


@pytest.mark.either_build
async def test_workers_go_when_their_supervisor_is_killed(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway({"workers": 2, **to_one(echo.address, timeouts={"close": "200ms"})})
    pids = await gateway.worker_pids()
    client = await tunnel(gateway, open_connection)
    gateway.process.signal(signal.SIGKILL)
    assert await read_frame(client) == (CLOSE, close(1012))
    for pid in pids:
        await gone(pid)
    await gateway.exits(-signal.SIGKILL)
    with pytest.raises(ConnectionRefusedError):
        await connect(gateway.address)


@pytest.mark.either_build
async def test_nothing_is_left_in_the_file_system(
    start_gateway: StartGateway, backends: Backends, tmp_path: Path
) -> None:
    directory = tmp_path / "tmp"
    directory.mkdir()
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address), env={"TMPDIR": str(directory)})
    assert list(directory.iterdir())
    gateway.term()
    await gateway.exits(0)
    assert not list(directory.iterdir())
