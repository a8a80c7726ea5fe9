"""One backend is drained: it gets nothing new, its tunnels are closed one after another, and those of others go on."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.support.deadline import eventually, within
from tests.support.frames import CLOSE, TEXT, close, frame, from_client, read_frame
from tests.support.gateway import command, route, to_one
from tests.support.raw import handshake, request, switching

from .clients import asked_backends, clients_of, tunnel, until_refused

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.soak, pytest.mark.either_build]


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
    status, stdout, stderr = await command("drain", "-c", gateway.file, "--backend", one.address)
    assert (status, stderr) == (0, "")
    assert stdout.startswith(f"drained {on_one:g} tunnels in ")
    assert time.monotonic() - start > 1
    await eventually(lambda: sum(each.close_code is not None for each in clients) == on_one, "clients to see their end")
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
    assert (await command("drain", "-c", gateway.file, "--backend", web.address))[0] == 0
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
    assert (await command("drain", "-c", gateway.file, "--backend", web.address))[0] == 0
    web.events["/a/poll"].put_nowait("in time")
    assert (await poll.answer()).body == b"in time"


async def test_a_handshake_on_its_way_to_a_drained_backend_gets_its_tunnel_which_is_drained(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    scripted = await backends.scripted()
    asked = asked_backends(scripted)
    gateway = await start_gateway(to_one(scripted.address, drain={"period": "1s"}))
    client = await open_connection(gateway)
    await client.send(handshake("/"))
    backend = await asked.get()
    status, _ = await gateway.post(f"drain?backend={scripted.address}")
    assert status == 202
    await gateway.until(lambda scrape: scrape.value("gateway_backend_drained") == 1, "the drain to show")
    await until_refused(gateway, open_connection, asked)
    await backend.send(switching())
    assert (await client.head()).status == 101
    for end in (client, backend):
        assert await read_frame(end) == (CLOSE, close(1012))
        await end.send(from_client(CLOSE, close(1012)) if end is client else frame(CLOSE, close(1012)))
    await gateway.logged(event="tunnel_end", cause="drain")
    assert (await gateway.api("status"))["drained_backends"][0]["tunnels_left"] == 0


async def test_a_reload_ends_a_backends_drain_and_one_that_fails_does_not(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    config = to_one(echo.address, drain={"period": "4s"})
    gateway = await start_gateway(config)
    clients = [await tunnel(gateway, open_connection) for _ in range(4)]
    asked = asyncio.create_task(command("drain", "-c", gateway.file, "--backend", echo.address))
    assert await read_frame(clients[0]) == (CLOSE, close(1012))
    await clients[0].close()

    gateway.tolerate("reload failed")
    gateway.write({**config, "access_log": {"path": "/nowhere/at/all/access.log"}})
    await gateway.reload()
    assert await read_frame(clients[1]) == (CLOSE, close(1012))
    await clients[1].close()

    gateway.write(config)
    await gateway.reload()
    status, _, stderr = await asked
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
    asked = asyncio.create_task(command("drain", "-c", gateway.file, "--backend", one.address))
    assert await read_frame(clients[0]) == (CLOSE, close(1012))
    await gateway.reload()  # it is not in the configuration, so nothing puts it into service
    assert [each["address"] for each in (await gateway.api("status"))["drained_backends"]] == [one.address]
    await clients[0].close()
    for client in clients[1:]:
        assert await read_frame(client) == (CLOSE, close(1012))
        await client.close()
    assert (await asked)[0] == 0
    new = await tunnel(gateway, open_connection)
    await new.echoes(from_client(TEXT, b"new"), frame(TEXT, b"new"))


async def test_a_backend_that_there_is_not(start_gateway: StartGateway, backends: Backends) -> None:
    gateway = await start_gateway(to_one("127.0.0.1:1"))
    status, _, stderr = await command("drain", "-c", gateway.file, "--backend", "127.0.0.1:2")
    assert status == 2
    assert 'there is no backend "127.0.0.1:2" (did you mean 127.0.0.1:1?' in stderr
