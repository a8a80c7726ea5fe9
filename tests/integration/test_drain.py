"""Draining: everybody is told, nobody is told at the same time, and whoever comes new is sent elsewhere."""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections import Counter

import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from tests.conftest import Backends, Open, StartGateway
from tests.support.deadline import SCALE, SOAK, eventually, within
from tests.support.frames import CLOSE, TEXT, close, frame, from_client, read_frame
from tests.support.gateway import COMMAND, Gateway, route, to_one
from tests.support.pace import Pace
from tests.support.process import run
from tests.support.raw import Connection, handshake, request, switching

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.soak]

TUNNELS, PERIOD_SECONDS = (2000, 20) if SOAK else (240, 4)
ALLOWED = 0.3
"""How far the closes of any second may be from their mean."""


async def tunnel(gateway: Gateway, open_connection: Open, path: str = "/") -> Connection:
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


# --- the pace ---------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(60 + 6 * PERIOD_SECONDS)
async def test_clients_are_closed_at_an_even_pace(start_gateway: StartGateway, backends: Backends) -> None:
    echo = await backends.echo()
    gateway = await start_gateway({"workers": 2, **to_one(echo.address, drain={"period": f"{PERIOD_SECONDS}s"})})
    clients = await clients_of(gateway, TUNNELS)
    await asyncio.gather(*(client.send("hello") for client in clients))
    assert await asyncio.gather(*(client.recv() for client in clients)) == ["hello"] * TUNNELS
    ends = [asyncio.create_task(closed_at(client)) for client in clients]
    await asyncio.sleep(0)  # all of them wait now
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


# --- whoever comes meanwhile ------------------------------------------------------------------------------------------


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


# --- whoever does not play along --------------------------------------------------------------------------------------


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


# --- one backend ------------------------------------------------------------------------------------------------------


def two_backends(first: str, second: str, **keys: object) -> dict[str, object]:
    return {
        "upstreams": {"two": {"backends": [first, second], "balance": "round_robin"}},
        "routes": [route("all", "two", "/")],
        **keys,
    }


async def test_one_backend_is_drained_and_the_others_are_not(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    one, two = await backends.echo(), await backends.echo()
    gateway = await start_gateway({"workers": 2, **two_backends(one.address, two.address, drain={"period": "2s"})})
    clients = await clients_of(gateway, 40)
    before = await gateway.scrape()
    on_one = before.value("gateway_tunnels", backend=one.address)
    assert on_one + before.value("gateway_tunnels", backend=two.address) == 40
    start = time.monotonic()
    status, stdout, stderr = await run([*COMMAND, "drain", "-c", gateway.file, "--backend", one.address])
    assert (status, stderr) == (0, "")
    assert stdout.startswith(f"drained {on_one:g} tunnels in ")
    assert time.monotonic() - start > 1
    for client in clients:
        if client.close_code is None:
            await client.send("still here")
            assert await client.recv() == "still here"
            await client.close()
        else:
            assert client.close_code == 1012
            assert client.protocol.close_rcvd_then_sent is True
    await eventually(
        lambda: len(gateway.log_records(event="tunnel_end", cause="drain")) >= on_one, "a line about each end"
    )
    ended = gateway.log_records(event="tunnel_end", cause="drain")
    assert len(ended) == on_one
    assert {r["backend"] for r in ended} == {one.address}

    scrape = await gateway.scrape()
    assert (scrape.value("gateway_draining"), scrape.value("gateway_drain_tunnels_left")) == (0, 0)
    assert scrape.value("gateway_backend_drained", backend=one.address) == 1
    assert scrape.value("gateway_backend_drained", backend=two.address) == 0
    assert (await gateway.get("/readyz"))[0] == 200
    for _ in range(6):
        await (await tunnel(gateway, open_connection)).close()
    assert one.open == 0

    # A reload puts it into service again.
    await gateway.reload()
    assert (await gateway.scrape()).value("gateway_backend_drained") == 0
    for _ in range(6):
        await tunnel(gateway, open_connection)
    assert one.open > 0
    assert two.open > 0


async def test_when_no_backend_is_left_handshakes_and_requests_get_503(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    web = await backends.web()
    gateway = await start_gateway(to_one(web.address))
    poll = await open_connection(gateway)
    await poll.send(request("/a/poll"))
    await within(web.arrived["/a/poll"].wait(), "the poll at the backend")
    assert (await run([*COMMAND, "drain", "-c", gateway.file, "--backend", web.address]))[0] == 0
    for head in (handshake("/a/ws"), request("/")):
        client = await open_connection(gateway)
        await client.send(head)
        answer = await client.answer()
        assert (answer.status, answer.head.value("Retry-After")) == (503, "5")
    # A worker that comes now knows, too.
    await gateway.kill_worker()
    await gateway.until(lambda scrape: scrape.value("gateway_worker_restarts_total") == 1, "the new worker")
    client = await open_connection(gateway)
    await client.send(handshake("/a/ws"))
    assert (await client.answer()).status == 503


async def test_a_request_in_flight_to_a_drained_backend_is_answered(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    web = await backends.web()
    gateway = await start_gateway(to_one(web.address))
    poll = await open_connection(gateway)
    await poll.send(request("/a/poll"))
    await within(web.arrived["/a/poll"].wait(), "the poll at the backend")
    assert (await run([*COMMAND, "drain", "-c", gateway.file, "--backend", web.address]))[0] == 0
    web.events["/a/poll"].put_nowait("in time")
    assert (await poll.answer()).body == b"in time"


async def test_a_handshake_on_its_way_to_a_drained_backend_gets_503(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    scripted = await backends.scripted()
    asked: asyncio.Queue[Connection] = asyncio.Queue()

    async def script(backend: Connection) -> None:
        await scripted.request(backend)
        asked.put_nowait(backend)
        await backend.writer.wait_closed()

    scripted.plays(script)
    gateway = await start_gateway(to_one(scripted.address))
    client = await open_connection(gateway)
    await client.send(handshake("/"))
    backend = await asked.get()
    status, _ = await gateway.post(f"drain?backend={scripted.address}")
    assert status == 202
    await gateway.until(lambda scrape: scrape.value("gateway_backend_drained") == 1, "the drain to show")
    while True:  # until the worker has heard of it, too
        other = await open_connection(gateway)
        await other.send(handshake("/"))
        refusal, passed = asyncio.create_task(other.answer()), asyncio.create_task(asked.get())
        done, waiting = await asyncio.wait((refusal, passed), return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        if refusal in done:
            assert refusal.result().status == 503
            break
    await backend.send(switching())
    answer = await client.answer()
    assert (answer.status, answer.text) == (
        503,
        "503 Service Unavailable: the backend is being taken out of service\n",
    )


async def test_a_reload_ends_a_backends_drain_and_one_that_fails_does_not(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    config = to_one(echo.address, drain={"period": "4s"})
    gateway = await start_gateway(config)
    clients = [await tunnel(gateway, open_connection) for _ in range(4)]
    command = asyncio.create_task(run([*COMMAND, "drain", "-c", gateway.file, "--backend", echo.address]))
    assert await read_frame(clients[0]) == (CLOSE, close(1012))
    await clients[0].close()

    gateway.tolerate("reload failed")
    gateway.write({**config, "access_log": {"path": "/nowhere/at/all/access.log"}})
    await gateway.reload()
    assert await read_frame(clients[1]) == (CLOSE, close(1012))
    await clients[1].close()

    gateway.write(config)
    await gateway.reload()
    status, _, stderr = await command
    assert status == 1
    assert "the drain was cut short: a reload has put the backend into service again" in stderr
    for client in clients[2:]:
        assert await client.is_quiet(1.5)
        await client.echoes(from_client(TEXT, b"still here"), frame(TEXT, b"still here"))


async def test_a_backend_that_a_reload_takes_out_keeps_its_tunnels_until_it_is_drained(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    one, two = await backends.echo(), await backends.echo()
    gateway = await start_gateway(to_one(one.address, drain={"period": "1s"}))
    clients = [await tunnel(gateway, open_connection) for _ in range(3)]
    gateway.write(to_one(two.address, drain={"period": "1s"}))
    await gateway.reload()
    for client in clients:
        await client.echoes(from_client(TEXT, b"still here"), frame(TEXT, b"still here"))
    command = asyncio.create_task(run([*COMMAND, "drain", "-c", gateway.file, "--backend", one.address]))
    assert await read_frame(clients[0]) == (CLOSE, close(1012))
    await gateway.reload()  # it is not in the configuration, so nothing puts it into service
    assert [each["address"] for each in (await gateway.api("status"))["drained_backends"]] == [one.address]
    await clients[0].close()
    for client in clients[1:]:
        assert await read_frame(client) == (CLOSE, close(1012))
        await client.close()
    assert (await command)[0] == 0
    new = await tunnel(gateway, open_connection)
    await new.echoes(from_client(TEXT, b"new"), frame(TEXT, b"new"))


@pytest.mark.either_build
async def test_a_backend_that_there_is_not(start_gateway: StartGateway, backends: Backends) -> None:
    gateway = await start_gateway(to_one("127.0.0.1:1"))
    status, _, stderr = await run([*COMMAND, "drain", "-c", gateway.file, "--backend", "127.0.0.1:2"])
    assert status == 2
    assert 'there is no backend "127.0.0.1:2" (did you mean 127.0.0.1:1?' in stderr


# --- the commands -----------------------------------------------------------------------------------------------------


@pytest.mark.either_build
async def test_the_drain_command_waits_for_the_gateways_end(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address, drain={"period": "2s"}))
    clients = await clients_of(gateway, 4)
    status, stdout, stderr = await run([*COMMAND, "drain", "-c", gateway.file])
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
    command = asyncio.create_task(run([*COMMAND, "drain", "-c", gateway.file]))
    await gateway.stderr.containing("draining 2 tunnels over 3600 s")
    gateway.process.signal(signal.SIGINT)
    status, _, stderr = await command
    assert status == 1
    assert "cut short" in stderr
    await gateway.exits(0)


@pytest.mark.either_build
async def test_the_stop_command(start_gateway: StartGateway, backends: Backends, open_connection: Open) -> None:
    echo = await backends.echo()
    gateway = await start_gateway({"workers": 2, **to_one(echo.address)})
    client = await tunnel(gateway, open_connection)
    assert await run([*COMMAND, "stop", "-c", gateway.file]) == (0, "stopped", "")
    assert await client.ends() == b""
    await gateway.exits(0)


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
