"""Signals at bad moments: a reload that cannot be put in force, and whatever comes while the gateway drains."""

from __future__ import annotations

import signal

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.support.frames import CLOSE, TEXT, close, frame, from_client, read_frame
from tests.support.gateway import to_one
from tests.support.raw import handshake, switching

from .clients import asked_backends

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]


async def test_a_reload_that_workers_cannot_put_in_force_changes_nothing(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    config = to_one(echo.address)
    gateway = await start_gateway(config)
    routes = (await gateway.api("status"))["routes"]
    renamed = {**config, "routes": [{**config["routes"][0], "name": "renamed"}]}
    gateway.write({**renamed, "access_log": {"path": "/nowhere/at/all/access.log"}})
    gateway.tolerate("reload failed; restoring the previous configuration: .*No such file or directory")
    await gateway.reload()
    assert (await gateway.scrape()).value("gateway_config_last_reload_successful") == 0
    assert (await gateway.api("status"))["routes"] == routes
    # A worker that comes now gets the configuration that is in force, too.
    await gateway.kill_worker()
    await gateway.until(lambda scrape: scrape.value("gateway_worker_restarts_total") == 1, "the new worker")
    client = await open_connection(gateway)
    await client.send(handshake("/"))
    assert (await client.head()).status == 101


async def test_other_signals_do_not_cut_a_drain_short(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address))
    client = await open_connection(gateway)
    await client.send(handshake("/"))
    assert (await client.head()).status == 101
    gateway.process.signal(signal.SIGTERM)
    assert await read_frame(client) == (CLOSE, close(1012))
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP):
        gateway.process.signal(number)
    await gateway.stderr.containing("signal HUP: ignored, the gateway is already shutting down")
    assert gateway.process.status is None
    await client.send(from_client(CLOSE, close(1012)))
    assert await client.ends() == b""
    await gateway.exits(0)


async def test_a_handshake_in_flight_when_the_drain_begins_gets_its_tunnel_and_a_turn(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    scripted = await backends.scripted()
    asked = asked_backends(scripted)
    gateway = await start_gateway({"workers": 1, **to_one(scripted.address, timeouts={"close": "1s"})})
    open_one = await open_connection(gateway)
    await open_one.send(handshake("/"))
    await (await asked.get()).send(switching())
    assert (await open_one.head()).status == 101
    client = await open_connection(gateway)
    await client.send(handshake("/"))
    backend = await asked.get()
    gateway.term()
    assert await read_frame(open_one) == (CLOSE, close(1012))  # the worker drains
    await backend.send(switching() + frame(TEXT, b"in time"))
    assert (await client.head()).status == 101
    assert await read_frame(client) == (TEXT, b"in time")
    assert await read_frame(client) == (CLOSE, close(1012))
    await open_one.close()
    await gateway.exits(0)
