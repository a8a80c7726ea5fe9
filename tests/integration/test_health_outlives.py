"""What health checks have found, and do about it, goes on through upgrades and the supervisor's death."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conftest import Backends, Open
from tests.support.deadline import eventually
from tests.support.frames import CLOSE
from tests.support.gateway import NO_PINGS, Gateway, route
from tests.support.moody import ERRORS, GOOD, Moody
from tests.support.raw import Connection

from .clients import tunnel
from .services import MakeService
from .upgrades import upgrade

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHECK = {"path": "/healthz", "every": "100ms", "timeout": "2s", "healthy_after": 2, "unhealthy_after": 2}
TUNNELS = 60
"""Half of them at each backend."""


async def closed(client: Connection) -> bytes:
    """Wait for a Close frame, however long that takes. :returns: its code"""
    frame = await client.reader.readexactly(4)
    assert frame[0] == 0x80 | CLOSE
    await client.close()
    return frame[2:]


def count(ends: dict[str, list[asyncio.Task[bytes]]], backend: Moody) -> int:
    """How many tunnels of a backend were closed."""
    return sum(end.done() for end in ends[backend.address])


@pytest.mark.either_build
@pytest.mark.parametrize("how", ["upgrade", "death"])
async def test_a_drain_of_one_that_is_down(
    make_service: MakeService, backends: Backends, open_connection: Open, how: str
) -> None:
    """``on_down: drain`` goes on at its pace, touches no other tunnel, and ends when the backend is up again."""
    some = [Moody(await backends.scripted()) for _ in range(2)]
    upstream: dict[str, Any] = {
        "backends": [each.address for each in some],
        "balance": "round_robin",
        "slow_start": "off",
        "health_check": {**CHECK, "on_down": "drain"},
    }
    config = {
        "workers": 2,
        "upstreams": {"chat": upstream},
        "routes": [route("all", "chat", "/")],
        "drain": {"period": "60s"},
        **NO_PINGS,
    }
    service = make_service()
    gateway = await service.start(config)
    clients = [await tunnel(gateway, open_connection) for _ in range(TUNNELS)]
    ends: dict[str, list[asyncio.Task[bytes]]] = {each.address: [] for each in some}
    at = {each["client_address"]: each["backend"] for each in (await gateway.api("tunnels"))["tunnels"]}
    for client in clients:
        ends[at[client.name]].append(asyncio.create_task(closed(client)))
    await service.stored(TUNNELS)
    sick, other = some
    sick.mood = ERRORS
    await eventually(lambda: count(ends, sick) >= 2, "the drain to begin")

    if how == "upgrade":
        await upgrade(gateway, wait=False)
    else:
        await service.die()
        gateway = await service.start({**gateway.config, **config})
    assert (await state_of(gateway, sick))["drained"]
    before = count(ends, sick)
    assert before < len(ends[sick.address])
    await eventually(lambda: count(ends, sick) > before, "the drain to go on")

    sick.mood = GOOD
    await gateway.until(lambda scrape: scrape.value("gateway_backend_up", backend=sick.address) == 1, "its return")
    assert not (await state_of(gateway, sick))["drained"]
    await gateway.until(lambda scrape: scrape.value("gateway_drain_tunnels_left") == 0, "the end of the drain")
    left = (await state_of(gateway, sick))["tunnels"]
    assert 0 < left == len(ends[sick.address]) - count(ends, sick)
    assert (count(ends, other), (await state_of(gateway, other))["tunnels"]) == (0, len(ends[other.address]))
    assert {end.result() for end in ends[sick.address] if end.done()} == {(1012).to_bytes(2, "big")}
    client = await tunnel(gateway, open_connection)
    await client.close()
    for each in (*ends[sick.address], *ends[other.address]):
        each.cancel()


async def state_of(gateway: Gateway, backend: Moody) -> dict[str, Any]:
    (upstream,) = (await gateway.api("status"))["upstreams"]
    return dict(next(each for each in upstream["backends"] if each["address"] == backend.address))
