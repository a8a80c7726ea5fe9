"""Limits on what is said in a tunnel: ``frame_size`` and ``messages_per_second``, and that they live through moves."""

from __future__ import annotations

import asyncio
import struct
import time

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.support.frames import BINARY, CLOSE, close, frame, from_client, read_frame
from tests.support.gateway import NO_PINGS, Gateway, route
from tests.support.raw import Connection, switching

from .clients import tunnel
from .upgrades import upgrade

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]

RATE, BURST = 40, 10
FRAME_BYTES = 1 << 20
HUGE = struct.pack("!BBQ", 0x82, 0x80 | 127, 1 << 30) + b"mask"
"""The header of a frame of 1 GiB."""


async def limited(start_gateway: StartGateway, backend: str) -> Gateway:
    return await start_gateway(
        {
            "workers": 1,
            "upstreams": {"one": {"backends": [backend]}},
            "routes": [
                route("frames", "one", limits={"frame_size": "1MiB"}),
                route("rate", "one", limits={"messages_per_second": {"per_tunnel": RATE, "burst": BURST}}),
            ],
            **NO_PINGS,
        }
    )


async def test_a_frame_of_a_gibibyte_gets_no_further(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    first = from_client(BINARY, b"before")
    backend = await backends.scripted()
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(connection: Connection) -> None:
        await backend.request(connection)
        await connection.send(switching())
        received.put_nowait(await connection.read(len(first) + 8))
        await connection.send(frame(CLOSE, close(1001)))
        assert await connection.rest() == b""

    backend.plays(script)
    gateway = await limited(start_gateway, backend.address)
    before = await gateway.scrape()
    client = await tunnel(gateway, open_connection, "/frames")
    await client.send(first)
    for n in range(len(HUGE)):
        await client.send(HUGE[n : n + 1])
    assert await read_frame(client) == (CLOSE, close(1009))
    found = await received.get()
    assert found[: len(first)] == first
    assert found[len(first)] == 0x80 | CLOSE
    client.half_close()
    assert await client.rest() == b""
    await gateway.counts(before, "gateway_tunnels_closed_total", route="frames", initiator="gateway", cause="limit")
    await gateway.counts(before, "gateway_limited_total", route="frames", limit="frame_size")
    line = await gateway.logged(event="tunnel_end", route="frames")
    assert (line["initiator"], line["cause"]) == ("gateway", "limit")


async def test_a_flood_comes_at_the_permitted_rate_through_a_kill_and_an_upgrade(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    """Every message arrives, in order."""
    gateway = await limited(start_gateway, (await backends.echo()).address)
    client = await tunnel(gateway, open_connection, "/rate")
    count = BURST + 3 * RATE
    start = time.monotonic()
    await client.send(b"".join(from_client(BINARY, b"%d" % n) for n in range(count)))
    for n in range(count):
        if n == BURST + RATE:
            await gateway.kill_worker(in_store=True)
        elif n == BURST + 2 * RATE:
            await upgrade(gateway)
        assert await read_frame(client) == (BINARY, b"%d" % n)
        late = BURST + RATE * (time.monotonic() - start + 0.2)  # two workers may have woken it late
        assert n < late, f"message {n} came after {time.monotonic() - start:.2f} s"
    await client.close()
    await gateway.tunnels(0)
