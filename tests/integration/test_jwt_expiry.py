"""A tunnel does not outlive its token."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import Backends, Open, StartGateway
from tests.support.backends import Echo, Scripted
from tests.support.deadline import SCALE
from tests.support.frames import CLOSE, TEXT, close, frame, from_client, read_frame
from tests.support.gateway import Gateway, route
from tests.support.pace import Pace
from tests.support.raw import Connection, handshake, switching
from tests.support.tokens import SECRET, hs256

pytestmark = pytest.mark.asyncio(loop_scope="module")

TUNNELS = 200
SPREAD = 2

LIFETIME_SECONDS = 4
"""Of a token that a tunnel is opened with: long enough for a machine that does much else."""

LATE_SECONDS = 5 * SCALE
"""That such a machine may be late."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def echo(shared_backends: Backends) -> Echo:
    return await shared_backends.echo()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scripted(shared_backends: Backends) -> Scripted:
    return await shared_backends.scripted()


def config(echo: Echo, scripted: Scripted) -> dict[str, Any]:
    jwt = {"secret": SECRET, "algorithms": ["HS256"], "leeway": "0s"}
    spread = {"close_code": 4001, "spread": f"{SPREAD}s"}
    return {
        "upstreams": {"echo": {"backends": [echo.address]}, "scripted": {"backends": [scripted.address]}},
        "routes": [
            route("echo", "echo", auth={"jwt": jwt}),
            route("scripted", "scripted", auth={"jwt": jwt}),
            route("many", "echo", auth={"jwt": {**jwt, "at_expiry": spread}}),
            route("off", "echo", auth={"jwt": {**jwt, "at_expiry": "off"}}),
            route("lenient", "echo", auth={"jwt": {**jwt, "leeway": f"{LIFETIME_SECONDS}s"}}),
        ],
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(start_shared_gateway: StartGateway, echo: Echo, scripted: Scripted) -> Gateway:
    return await start_shared_gateway(config(echo, scripted))


async def tunnel(client: Connection, name: str, expires: float) -> Connection:
    await client.send(handshake(f"/{name}/x", f"Authorization: Bearer {hs256(exp=expires)}"))
    assert (await client.head()).status == 101
    return client


async def closed_with(client: Connection) -> tuple[int, float]:
    """The code of the Close frame that comes next, and when."""
    opcode, payload = await read_frame(client)
    assert opcode == CLOSE
    await client.send(from_client(CLOSE, payload[:2]))
    return int.from_bytes(payload[:2], "big"), time.time()


async def test_a_tunnel_ends_with_its_token(gateway: Gateway, open_connection: Open) -> None:
    expires = time.time() + LIFETIME_SECONDS
    client = await tunnel(await open_connection(gateway), "echo", expires)
    forever = await tunnel(await open_connection(gateway), "off", expires)
    await client.echoes(from_client(TEXT, b"hello"), frame(TEXT, b"hello"))
    code, at = await closed_with(client)
    assert code == 4401
    assert expires - 0.1 < at < expires + LATE_SECONDS
    record = await gateway.logged(event="tunnel_end", client=client.name)
    assert (record["initiator"], record["cause"], record["gateway_close_code"]) == ("gateway", "max_lifetime", 4401)
    await forever.echoes(from_client(TEXT, b"still"), frame(TEXT, b"still"))


async def test_what_the_backend_is_sent(gateway: Gateway, scripted: Scripted, open_connection: Open) -> None:
    seen: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

    async def script(connection: Connection) -> None:
        await scripted.request(connection)
        await connection.send(switching())
        opcode, payload = await read_frame(connection)
        seen.set_result((opcode, payload[:2]))

    scripted.plays(script)
    client = await tunnel(await open_connection(gateway), "scripted", time.time() + LIFETIME_SECONDS)
    assert (await closed_with(client))[0] == 4401
    assert await seen == (CLOSE, close(1001))


async def test_the_time_that_clocks_may_differ(gateway: Gateway, open_connection: Open) -> None:
    """A token that has expired a moment ago is let in, and so is its tunnel for as long."""
    expires = time.time() - 0.1
    client = await tunnel(await open_connection(gateway), "lenient", expires)
    code, at = await closed_with(client)
    assert code == 4401
    assert expires + LIFETIME_SECONDS - 0.1 < at < expires + LIFETIME_SECONDS + LATE_SECONDS


@pytest.mark.either_build
async def test_many_tunnels_end_evenly(gateway: Gateway, open_connection: Open) -> None:
    connections = [await open_connection(gateway) for _ in range(TUNNELS)]
    expires = int(time.time()) + 2 * LIFETIME_SECONDS
    clients = [await tunnel(connection, "many", expires) for connection in connections]
    async with Pace() as pace:
        ends = await asyncio.gather(*map(closed_with, clients))
    assert {code for code, _ in ends} == {4001}
    each = Counter(int(at - expires) for _, at in ends)
    least = TUNNELS / SPREAD * (1 - 0.3 * pace.slowdown)
    assert all(each[second] > least for second in range(SPREAD)), each
    assert min(each) >= 0
    assert max(each) <= SPREAD + LATE_SECONDS, each


@pytest.mark.either_build
async def test_a_tunnel_whose_worker_died(
    start_gateway: StartGateway, echo: Echo, scripted: Scripted, open_connection: Open
) -> None:
    gateway = await start_gateway(config(echo, scripted))
    expires = time.time() + 2 * LIFETIME_SECONDS
    client = await tunnel(await open_connection(gateway), "echo", expires)
    await client.echoes(from_client(TEXT, b"hello"), frame(TEXT, b"hello"))
    await gateway.kill_worker(in_store=True)
    code, at = await closed_with(client)
    assert code == 4401
    assert expires - 0.1 < at < expires + LATE_SECONDS
