"""Draining: every client gets a Close frame, spread over the period, and new connections get 503."""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections import Counter

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.support.deadline import SCALE, SOAK, eventually, turn, within
from tests.support.frames import CLOSE, close, frame, from_client, read_frame
from tests.support.gateway import command, to_one
from tests.support.pace import Pace
from tests.support.raw import Connection, handshake, request, switching

from .clients import asked_backends, clients_of, closed_at, tunnel, until_refused

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.soak]

TUNNELS, PERIOD_SECONDS = (2000, 20) if SOAK else (240, 4)
ALLOWED = 0.3
"""How far the closes of any second may be from their mean."""


# --- the pace ---------------------------------------------------------------------------------------------------------


@pytest.mark.either_build
@pytest.mark.timeout(300 + 6 * PERIOD_SECONDS)
async def test_clients_are_closed_at_an_even_pace(start_gateway: StartGateway, backends: Backends) -> None:
    echo = await backends.echo()
    gateway = await start_gateway({"workers": 2, **to_one(echo.address, drain={"period": f"{PERIOD_SECONDS}s"})})
    clients = await clients_of(gateway, TUNNELS)
    await asyncio.gather(*(client.send("hello") for client in clients))
    assert await asyncio.gather(*(client.recv() for client in clients)) == ["hello"] * TUNNELS
    ends = [asyncio.create_task(closed_at(client)) for client in clients]
    await turn()  # all of them wait now
    gc.freeze()  # what a collection of so many clients takes would show as a burst
    try:
        async with Pace() as pace:
            gateway.term()
            start = time.monotonic()
            times = await within(asyncio.gather(*ends), "every client to be closed", (PERIOD_SECONDS + 5) * SCALE)
    finally:
        gc.unfreeze()

    first = min(times)
    assert first - start < 1 * pace.slowdown
    mean = TUNNELS / PERIOD_SECONDS
    seconds = Counter(int(at - first) for at in times)
    for second in range(PERIOD_SECONDS):
        assert abs(seconds[second] - mean) <= ALLOWED * mean * pace.slowdown, seconds
    for client in clients:
        assert (client.close_code, client.close_reason) == (1012, "")
        assert client.protocol.close_rcvd_then_sent is True
        assert client.protocol.close_sent is not None
        assert client.protocol.close_sent.code == 1012
    await gateway.exits(0)
    ended = gateway.log_records(event="tunnel_end")
    codes = Counter(
        (r["cause"], r["client_close_code"], r["backend_close_code"], r["gateway_close_code"]) for r in ended
    )
    assert codes == {("drain", 1012, 1012, 1012): TUNNELS}


async def test_a_single_tunnel_is_closed_at_once_with_the_code_that_is_configured(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    config = to_one(echo.address, drain={"period": "1h", "close_code": 4000})
    gateway = await start_gateway({"workers": 2, **config})
    client = await tunnel(gateway, open_connection)
    gateway.term()
    assert await read_frame(client) == (CLOSE, close(4000))
    await client.send(from_client(CLOSE, close(4000)))
    assert await client.ends() == b""
    await gateway.exits(0)


@pytest.mark.either_build
async def test_those_who_end_by_themselves_only_make_it_shorter(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    """Turns of others come no sooner for it; when nobody is left, the gateway does not sit the period out."""
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address, drain={"period": "8s"}))
    clients = [await tunnel(gateway, open_connection) for _ in range(8)]
    start = time.monotonic()
    gateway.term()
    assert await read_frame(clients[0]) == (CLOSE, close(1012))
    for client in clients[2:]:
        await client.close()
    assert await read_frame(clients[1]) == (CLOSE, close(1012))
    assert time.monotonic() - start > 0.9
    for client in clients[:2]:
        await client.send(from_client(CLOSE, close(1012)))
    await gateway.exits(0, 5 * SCALE)


async def test_an_opaque_tunnel_is_cut_in_its_turn(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    scripted = await backends.scripted()
    scripted.answers(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n", hold=True)
    config = to_one(scripted.address, drain={"period": "2s"})
    config["routes"][0]["upgrades"] = ["tcp"]
    gateway = await start_gateway(config)
    clients = []
    for _ in range(4):
        client = await open_connection(gateway)
        await client.send(request("/", "Upgrade: tcp", "Connection: Upgrade"))
        assert (await client.head()).status == 101
        clients.append(client)
    start = time.monotonic()
    gateway.term()
    ends = []
    for client in clients:
        assert await client.ends() == b""
        ends.append(time.monotonic() - start)
    await gateway.exits(0)
    assert ends == sorted(ends)
    assert ends[3] > 1.4
    assert {r["cause"] for r in gateway.log_records(event="tunnel_end")} == {"drain"}


# --- connections that come meanwhile ----------------------------------------------------------------------------------


@pytest.mark.either_build
async def test_whoever_comes_new_is_sent_elsewhere_until_the_last_tunnel_has_ended(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    """Of several workers those without tunnels answer, too, as long as the others have some."""
    web = await backends.web()
    gateway = await start_gateway({"workers": 3, **to_one(web.address, drain={"period": "100ms"})})
    client = await tunnel(gateway, open_connection, "/a/ws")
    others = []
    while not all(worker["tunnels"] for worker in (await gateway.api("status"))["workers"]):
        others.append(await tunnel(gateway, open_connection, "/a/ws"))
    gateway.term()
    for each in (client, *others):  # so every worker has heard of it
        assert await read_frame(each) == (CLOSE, close(1012))
    for each in others:
        await each.send(from_client(CLOSE, close(1012)))
        await each.ends()
    await gateway.tunnels(1)
    assert await gateway.get("/readyz") == (503, "not ready: the gateway is shutting down\n")
    for _ in range(20):
        for head in (handshake("/a/ws"), request("/"), request("/a/poll")):
            new = await open_connection(gateway)
            await new.send(head)
            answer = await new.answer()
            assert (answer.status, answer.head.value("Retry-After")) == (503, "5")
            assert "shutting down" in answer.text
            assert await new.ends() == b""
    scrape = await gateway.scrape()
    assert scrape.value("gateway_draining") == 1
    assert scrape.value("gateway_drain_tunnels_left") == 1
    await client.send(from_client(CLOSE, close(1012)))
    await gateway.exits(0)


@pytest.mark.either_build
async def test_a_drain_shows_in_metrics_and_status(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address, drain={"period": "30s"}))
    clients = [await tunnel(gateway, open_connection) for _ in range(3)]
    scrape = await gateway.scrape()
    assert (scrape.value("gateway_draining"), scrape.value("gateway_drain_tunnels_left")) == (0, 0)
    assert (await gateway.api("status"))["drain"] is None
    gateway.term()
    await gateway.until(lambda scrape: scrape.value("gateway_draining") == 1, "the drain to show")
    await clients[2].close()
    await gateway.until(lambda scrape: scrape.value("gateway_drain_tunnels_left") == 2, "one less")
    status = await gateway.api("status")
    assert status["stopping"] is True
    drain = status["drain"]
    assert (drain["period"], drain["tunnels"], drain["tunnels_left"], status["tunnels"]) == (30, 3, 2, 2)
    gateway.process.signal(signal.SIGINT)
    await gateway.exits(0)


@pytest.mark.either_build
async def test_a_handshake_that_fails_is_the_last_thing_that_is_waited_for(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    scripted = await backends.scripted()  # it never answers
    gateway = await start_gateway(to_one(scripted.address, timeouts={"handshake": "1s"}))
    client = await open_connection(gateway)
    await client.send(handshake("/"))
    await eventually(lambda: scripted._tasks, "the handshake at the backend")
    gateway.term()
    assert (await client.answer()).status == 504
    await gateway.exits(0, 5 * SCALE)


@pytest.mark.either_build
async def test_a_handshake_that_is_at_its_backend_gets_its_tunnel_which_is_closed_in_turn(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    scripted = await backends.scripted()
    asked = asked_backends(scripted)
    gateway = await start_gateway(to_one(scripted.address, drain={"period": "2s"}))
    client = await open_connection(gateway)
    await client.send(handshake("/"))
    backend = await asked.get()
    gateway.term()
    await until_refused(gateway, open_connection, asked)
    await backend.send(switching())
    assert (await client.head()).status == 101
    for end in (client, backend):
        assert await read_frame(end) == (CLOSE, close(1012))
        await end.send(from_client(CLOSE, close(1012)) if end is client else frame(CLOSE, close(1012)))
    await gateway.exits(0)


# --- endpoints that do not answer -------------------------------------------------------------------------------------


async def test_whoever_does_not_answer_is_cut_when_the_time_for_it_is_up(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    config = to_one(echo.address, drain={"period": "1s"}, timeouts={"close": "500ms"})
    gateway = await start_gateway({"workers": 2, **config})
    clients = [await tunnel(gateway, open_connection) for _ in range(6)]
    gateway.term()
    for client in clients:
        assert await read_frame(client) == (CLOSE, close(1012))
    await gateway.exits(0, 4 * SCALE)
    for client in clients:
        assert await client.ends() == b""


@pytest.mark.either_build
async def test_a_second_term_closes_all_that_are_left_at_once(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    web = await backends.web()
    gateway = await start_gateway({"workers": 2, **to_one(web.address, drain={"period": "1h"})})
    clients = [await tunnel(gateway, open_connection, "/a/ws") for _ in range(10)]
    stream = await open_connection(gateway)
    await stream.send(request("/a/sse"))
    await stream.head()
    gateway.term()
    await gateway.stderr.containing("draining 10 tunnels over 3600 s")
    gateway.term()
    for client in clients:
        assert await read_frame(client) == (CLOSE, close(1012))
        await client.send(from_client(CLOSE, close(1012)))
        assert await client.ends() == b""
    await gateway.exits(0)
    await stream.ends()


@pytest.mark.either_build
async def test_a_worker_that_dies_in_a_drain_is_replaced_by_one_that_drains(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    """Its listening socket is open still, and somebody has to answer there."""
    echo = await backends.echo()
    gateway = await start_gateway({"workers": 2, **to_one(echo.address, drain={"period": "1h"})})
    clients = [await tunnel(gateway, open_connection) for _ in range(12)]
    workers = {worker["index"]: worker["tunnels"] for worker in (await gateway.api("status"))["workers"]}
    assert all(count > 1 for count in workers.values())
    gateway.term()
    await gateway.until(lambda scrape: scrape.value("gateway_draining") == 1, "the drain to begin")
    await gateway.kill_worker(1)
    await gateway.until(lambda scrape: scrape.value("gateway_worker_restarts_total") == 1, "the new worker")
    for _ in range(20):
        new = await open_connection(gateway)
        await new.send(handshake("/"))
        assert (await new.answer()).status == 503
    for client in clients:
        await client.close()
    await gateway.exits(0)


async def test_a_flood_does_not_keep_a_drain_from_its_end(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    """The Close frame goes in between two frames of a backend that never pauses."""
    scripted = await backends.scripted()

    async def flood(backend: Connection) -> None:
        await scripted.request(backend)
        await backend.send(switching())
        message = bytes((0x82, 126, 0x40, 0)) + bytes(0x4000)
        while True:
            backend.writer.write(message)
            await backend.writer.drain()

    scripted.plays(flood)
    gateway = await start_gateway(to_one(scripted.address, timeouts={"close": "1s"}))
    client = await tunnel(gateway, open_connection)
    gateway.term()
    while (opcode := (last := await read_frame(client))[0]) != CLOSE:
        assert opcode == 2
    assert last == (CLOSE, close(1012))
    await client.send(from_client(CLOSE, close(1012)))
    await client.ends()
    await gateway.exits(0)


# --- the commands -----------------------------------------------------------------------------------------------------


@pytest.mark.either_build
async def test_the_drain_command_waits_for_the_gateways_end(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address, drain={"period": "2s"}))
    clients = await clients_of(gateway, 4)
    status, stdout, stderr = await command("drain", "-c", gateway.file)
    assert (status, stderr) == (0, "")
    assert stdout.startswith("drained 4 tunnels in 1.")
    assert stdout.endswith("s; the gateway has exited")
    assert [client.close_code for client in clients] == [1012] * 4
    await gateway.exits(0)


@pytest.mark.either_build
async def test_the_drain_command_tells_when_it_was_cut_short(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address, drain={"period": "1h"}))
    for _ in range(2):
        await tunnel(gateway, open_connection)
    asked = asyncio.create_task(command("drain", "-c", gateway.file))
    await gateway.stderr.containing("draining 2 tunnels over 3600 s")
    gateway.process.signal(signal.SIGINT)
    status, _, stderr = await asked
    assert status == 1
    assert "cut short" in stderr
    await gateway.exits(0)


@pytest.mark.either_build
async def test_the_stop_command(start_gateway: StartGateway, backends: Backends, open_connection: Open) -> None:
    echo = await backends.echo()
    gateway = await start_gateway({"workers": 2, **to_one(echo.address)})
    client = await tunnel(gateway, open_connection)
    assert await command("stop", "-c", gateway.file) == (0, "stopped", "")
    assert await client.ends() == b""
    await gateway.exits(0)


@pytest.mark.either_build
async def test_orders_while_it_drains(start_gateway: StartGateway, backends: Backends, open_connection: Open) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address, drain={"period": "1h"}))
    clients = [await tunnel(gateway, open_connection) for _ in range(2)]
    assert (await gateway.post("drain"))[0] == 202
    assert await gateway.post("reload") == (409, {"error": "the gateway is shutting down"})
    assert await gateway.post(f"drain?backend={echo.address}") == (409, {"error": "the gateway is shutting down"})
    assert await read_frame(clients[0]) == (CLOSE, close(1012))
    assert await clients[1].is_quiet()
    assert (await gateway.post("drain"))[0] == 202
    assert await read_frame(clients[1]) == (CLOSE, close(1012))
    assert await gateway.post("stop") == (202, {"stopping": True})
    await gateway.exits(0)
