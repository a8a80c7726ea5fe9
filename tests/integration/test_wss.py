"""Tunnels of clients that speak TLS: from the handshake to the end, through reloads, crashes and upgrades."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import Backends, StartGateway
from tests.support.certificates import Authority
from tests.support.deadline import eventually, quiet_for
from tests.support.frames import TEXT, frame
from tests.support.gateway import NO_PINGS
from tests.support.numbered import Play, all_complete, get_busy
from tests.support.raw import Connection, handshake, request, switching
from tests.support.sockets import has_been_read
from tests.support.tls import trusting

from .conftest import Secure
from .test_https import tls_to
from .upgrades import upgrade

pytestmark = pytest.mark.asyncio(loop_scope="module")
KEY = b"mask"
VERSIONS = pytest.mark.parametrize("version", ["1.2", "1.3"])


@pytest.mark.either_build
async def test_many_tunnels_with_everything_on_the_way(
    start_gateway: StartGateway, authority: Authority, play: Play
) -> None:
    """Busy ones and idle ones, through a reload, an upgrade, and the death of a worker that has none in its hands."""
    gateway = await start_gateway({"workers": 2, **NO_PINGS, **tls_to(play.address, authority)})
    tunnels = []
    for version in ("1.2", "1.3"):
        tunnels += await play.open_many(gateway.address, 10, tls=trusting(authority.ca, version))
    get_busy(tunnels)
    await quiet_for(0.5)
    await gateway.reload()
    await upgrade(gateway)
    for tunnel in tunnels:
        tunnel.rest()
    await all_complete(tunnels)
    await gateway.kill_worker(0, in_store=True)
    await gateway.until(lambda scrape: scrape.value("gateway_worker_restarts_total") == 1, "the new worker")
    get_busy(tunnels)
    await quiet_for(0.5)
    for tunnel in tunnels:
        tunnel.rest()
    await all_complete(tunnels)


@pytest.mark.either_build
@VERSIONS
async def test_a_tunnel_after_requests_on_the_same_connection(
    start_gateway: StartGateway, backends: Backends, secure: Secure, authority: Authority, version: str
) -> None:
    web = await backends.web()
    gateway = await start_gateway(tls_to(web.address, authority))
    client = await secure(gateway, version)
    for _ in range(2):
        await client.send(request("/plain"))
        assert (await client.answer()).status == 200
    # The first message goes along with the handshake, as some clients do it.
    await client.send(handshake("/a/ws") + frame(TEXT, b"early", mask=KEY))
    assert (await client.head()).status == 101
    assert await client.read(7) == frame(TEXT, b"early")
    for size in (1, 70_000, 200_000):
        await client.echoes(frame(TEXT, b"x" * size, mask=KEY), frame(TEXT, b"x" * size))
    await gateway.tunnels(1)
    client.reset()
    await gateway.tunnels(0)
    record = await gateway.logged(event="tunnel_end", client=client.name)
    assert record["initiator"] == "client"


@VERSIONS
async def test_half_a_record_waits_while_the_tunnel_opens(
    start_gateway: StartGateway, backends: Backends, secure: Secure, authority: Authority, version: str
) -> None:
    scripted = await backends.scripted()
    accept, heard = asyncio.Event(), asyncio.Event()

    async def script(backend: Connection) -> None:
        await backend.head()
        heard.set()
        await accept.wait()
        await backend.send(switching())
        message = frame(TEXT, b"in two pieces", mask=KEY)
        assert await backend.read(len(message)) == message
        await backend.send(frame(TEXT, b"back"))
        assert await backend.rest() == b""

    scripted.plays(script)
    gateway = await start_gateway({**NO_PINGS, **tls_to(scripted.address, authority)})
    client = await secure(gateway, version)
    await client.send(handshake())
    await heard.wait()
    client.tls.write(frame(TEXT, b"in two pieces", mask=KEY))
    record = client.outgoing.read()
    client.raw.writer.write(record[:20])
    await eventually(lambda: has_been_read(client.raw.name), "the gateway to read it")
    accept.set()
    assert (await client.head()).status == 101
    client.raw.writer.write(record[20:])
    assert await client.read(6) == frame(TEXT, b"back")
    client.close_notify()
    assert await client.rest() == b""
    assert client.end == "close_notify"
