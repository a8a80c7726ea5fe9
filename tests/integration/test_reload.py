"""HUP: a right configuration takes effect for the next request, a wrong one changes nothing; tunnels never notice."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.support.deadline import SOAK
from tests.support.frames import TEXT, frame, from_client
from tests.support.gateway import route
from tests.support.raw import Connection, handshake, request

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.soak]

TUNNELS = 1000 if SOAK else 200


async def test_a_changed_route_takes_effect_and_busy_tunnels_go_on(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    old, new = await backends.echo(), await backends.echo()
    upstreams = {"old": {"backends": [old.address]}, "new": {"backends": [new.address]}}
    config = {"upstreams": upstreams, "routes": [route("chat", "old", "/")]}
    gateway = await start_gateway({"workers": 2, **config})

    async def handshaken() -> Connection:
        client = await open_connection(gateway)
        await client.send(handshake("/"))
        assert (await client.head()).status == 101
        return client

    clients = [await handshaken() for _ in range(TUNNELS)]
    stop = asyncio.Event()
    rounds = [0] * TUNNELS

    async def keep_busy(index: int) -> None:
        while not stop.is_set():
            text = f"{index} {rounds[index]}".encode()
            await clients[index].echoes(from_client(TEXT, text), frame(TEXT, text))
            rounds[index] += 1

    busy = [asyncio.create_task(keep_busy(index)) for index in range(TUNNELS)]
    before = await gateway.scrape()
    gateway.write({**config, "routes": [route("chat", "new", "/"), route("more", "old")]})
    await gateway.reload()
    at_reload = list(rounds)
    client = await handshaken()
    assert (await gateway.logged(event="handshake", client=client.name))["backend"] == new.address
    await client.echoes(from_client(TEXT, b"new"), frame(TEXT, b"new"))
    while any(now < then + 2 for now, then in zip(rounds, at_reload, strict=True)):
        await asyncio.sleep(0)
        assert not any(task.done() for task in busy), "a tunnel was touched"
    stop.set()
    await asyncio.gather(*busy)

    scrape = await gateway.tunnels(TUNNELS, backend=old.address)
    assert scrape.value("gateway_tunnels", backend=new.address) == 1
    assert scrape.value("gateway_tunnels_closed_total") == 0
    assert scrape.value("gateway_config_last_reload_successful") == 1
    stamp = "gateway_config_last_reload_success_timestamp_seconds"
    assert scrape.value(stamp) > before.value(stamp)
    status = await gateway.api("status")
    assert [route["name"] for route in status["routes"]] == ["chat", "more"]
    assert all(worker["pid"] for worker in status["workers"])


async def test_a_broken_file_changes_nothing(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    web = await backends.web()
    config = {"upstreams": {"web": {"backends": [web.address]}}, "routes": [route("first", "web", "/")]}
    gateway = await start_gateway(config)
    gateway.tolerate("reload failed")
    stamp = "gateway_config_last_reload_success_timestamp_seconds"
    before = await gateway.scrape()
    assert before.value("gateway_config_last_reload_successful") == 1

    async def route_in_force() -> str:
        client = await open_connection(gateway)
        await client.send(request("/"))
        assert (await client.answer()).status == 200
        found: str = (await gateway.logged(event="http", client=client.name))["route"]
        return found

    breakages = {
        "routes: [": "YAML",
        "listen: []\nnonsense: 1\n": "nonsense",
        "": "listen",
    }
    for text, says in breakages.items():
        start = len(gateway.stderr.lines)
        gateway.write(text)
        await gateway.reload()
        await gateway.stderr.containing("reload failed", start)
        await gateway.stderr.containing(says, start)
        assert await route_in_force() == "first"
        scrape = await gateway.scrape()
        assert scrape.value("gateway_config_last_reload_successful") == 0
        assert scrape.value(stamp) == before.value(stamp)
        assert (await gateway.api("status"))["configuration"]["last_reload"]["ok"] is False

    gateway.write({**config, "routes": [route("second", "web", "/")]})
    await gateway.reload()
    assert await route_in_force() == "second"
    scrape = await gateway.scrape()
    assert scrape.value("gateway_config_last_reload_successful") == 1
    assert scrape.value(stamp) > before.value(stamp)


async def test_what_needs_a_restart_is_refused(start_gateway: StartGateway, backends: Backends) -> None:
    web = await backends.web()
    config = {"upstreams": {"web": {"backends": [web.address]}}, "routes": [route("first", "web", "/")]}
    gateway = await start_gateway(config)
    gateway.tolerate("reload failed")
    gateway.file.write_text(gateway.file.read_text().replace("workers: 1", "workers: 2"))
    await gateway.reload()
    await gateway.stderr.containing("workers cannot change while the gateway runs: restart it")
    assert (await gateway.scrape()).value("gateway_config_last_reload_successful") == 0


async def test_a_worker_that_comes_after_a_reload_has_the_new_configuration(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    web = await backends.web()
    config = {"upstreams": {"web": {"backends": [web.address]}}, "routes": [route("first", "web", "/")]}
    gateway = await start_gateway(config)
    gateway.write({**config, "routes": [route("second", "web", "/")]})
    await gateway.reload()
    await gateway.kill_worker()
    client = await open_connection(gateway)
    await client.send(request("/"))
    assert (await client.answer()).status == 200
    assert (await gateway.logged(event="http", client=client.name))["route"] == "second"


async def test_time_outs_of_a_reload_are_for_new_tunnels(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    config = {"upstreams": {"echo": {"backends": [echo.address]}}, "routes": [route("all", "echo", "/")]}
    gateway = await start_gateway(config)
    old = await open_connection(gateway)
    await old.send(handshake("/old"))
    assert (await old.head()).status == 101
    gateway.write({**config, "timeouts": {"max_lifetime": "500ms", "close": "200ms"}})
    await gateway.reload()
    new = await open_connection(gateway)
    await new.send(handshake("/new"))
    assert (await new.head()).status == 101
    assert (await gateway.logged(event="tunnel_end", path="/new"))["cause"] == "max_lifetime"
    await old.echoes(from_client(TEXT, b"still here"), frame(TEXT, b"still here"))
