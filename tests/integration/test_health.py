"""Backends that fail: found out by health checks and by failures, avoided, and used again. Users notice nothing."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.support.deadline import DEADLINE_SECONDS, within
from tests.support.frames import CLOSE, read_frame
from tests.support.gateway import NO_PINGS, Gateway, route
from tests.support.moody import CLOSES, ERRORS, GOOD, HANGS, RESETS, Moody
from tests.support.raw import Connection, handshake, request

from .clients import tunnel
from .upgrades import upgrade

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]

CHECK = {"path": "/healthz", "every": "100ms", "timeout": "1s", "healthy_after": 2, "unhealthy_after": 2}


async def moody(backends: Backends, count: int) -> list[Moody]:
    return [Moody(await backends.scripted()) for _ in range(count)]


def config_of(some: list[Moody], upstream: dict[str, Any], **keys: Any) -> dict[str, Any]:
    addresses = [each.address for each in some]
    return {
        "upstreams": {"chat": {"backends": addresses, "balance": "round_robin", "slow_start": "off", **upstream}},
        "routes": [route("all", "chat", "/")],
        **NO_PINGS,
        **keys,
    }


async def ask(gateway: Gateway, path: str = "/") -> tuple[int, str]:
    client = await gateway.connect()
    await client.send(request(path, "Connection: close"))
    answer = await client.answer()
    await client.close()
    return answer.status, answer.text


async def is_up(gateway: Gateway, backend: Moody, up: bool) -> None:
    await gateway.until(
        lambda scrape: scrape.value("gateway_backend_up", backend=backend.address) == up, f"the backend to be {up=}"
    )


async def state_of(gateway: Gateway, backend: Moody) -> dict[str, Any]:
    status = await gateway.api("status")
    (found,) = (each for each in status["upstreams"][0]["backends"] if each["address"] == backend.address)
    return dict(found)


@pytest.mark.parametrize("check", [CHECK, {**CHECK, "path": None, "websocket": "/ws"}], ids=["path", "websocket"])
async def test_one_that_is_down_gets_nothing(start_gateway: StartGateway, backends: Backends, check: Any) -> None:
    some = await moody(backends, 3)
    check = {key: value for key, value in check.items() if value is not None}
    gateway = await start_gateway(config_of(some, {"health_check": check}, workers=2))
    sick = some[1]
    for mood in (ERRORS, HANGS):
        sick.mood = mood
        await is_up(gateway, sick, False)
        state = await state_of(gateway, sick)
        assert (state["health"], state["up"]) == ("down", False)
        assert ("it answered 500" if mood == ERRORS else "no answer within 1 s") in state["reason"]
        assert abs(state["since"] - time.time()) < DEADLINE_SECONDS
        asked = Counter(sick.targets)["/x"]
        assert {await ask(gateway, "/x") for _ in range(8)} == {
            (200, f"ready {each.address}") for each in some if each is not sick
        }
        assert sick.targets["/x"] == asked
        sick.mood = GOOD
        await is_up(gateway, sick, True)
        assert len({text for _, text in [await ask(gateway, "/x") for _ in range(8)]}) == 3
    scrape = await gateway.scrape()
    assert scrape.value("gateway_backend_health_checks_total", backend=sick.address, result="failed") >= 2
    assert scrape.value("gateway_backend_health_checks_total", backend=sick.address, result="timeout") >= 2
    assert scrape.value("gateway_backend_health_checks_total", backend=some[0].address, result="passed") >= 2
    await gateway.stderr.containing(f"backend {sick.address} of chat is down: health check failed 2 times: ")
    await gateway.stderr.containing(f"backend {sick.address} of chat is up after ")


async def test_tunnels_of_one_that_is_down(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    """They are kept by default; with ``on_down: drain`` they are closed, until it is up again; a reload changes it."""
    some = await moody(backends, 1)
    (sick,) = some
    gateway = await start_gateway(config_of(some, {"health_check": CHECK}, drain={"period": "100ms"}))
    client = await tunnel(gateway, open_connection)
    sick.mood = ERRORS
    await is_up(gateway, sick, False)
    await stays_open(client)
    refused = await open_connection(gateway)
    await refused.send(handshake("/"))
    answer = await refused.answer()
    assert (answer.status, answer.text) == (503, "503 Service Unavailable: no backend is in service\n")

    gateway.write(config_of(some, {"health_check": {**CHECK, "on_down": "drain"}}, drain={"period": "100ms"}))
    await gateway.reload()
    opcode, payload = await within(read_frame(client), "the Close of a drained tunnel")
    assert (opcode, payload[:2]) == (CLOSE, (1012).to_bytes(2, "big"))
    assert (await state_of(gateway, sick))["drained"]
    sick.mood = GOOD
    await is_up(gateway, sick, True)
    assert not (await state_of(gateway, sick))["drained"]
    await stays_open(await tunnel(gateway, open_connection))


async def stays_open(client: Connection) -> None:
    assert await client.is_quiet()


async def test_states_outlive_reloads_and_workers(start_gateway: StartGateway, backends: Backends) -> None:
    some = await moody(backends, 2)
    slow = {**CHECK, "every": "100ms", "healthy_after": 100}
    gateway = await start_gateway(config_of(some, {"health_check": slow}))
    some[0].mood = CLOSES
    await is_up(gateway, some[0], False)
    some[0].mood = GOOD
    before = (await state_of(gateway, some[0]))["since"]
    await gateway.reload()
    gateway.tolerate(r"ERROR .* was killed by SIGKILL")
    await gateway.kill_worker()
    assert {await ask(gateway) for _ in range(4)} == {(200, f"ready {some[1].address}")}
    assert (await state_of(gateway, some[0]))["since"] == before
    # Without checks it counts as up; what is checked anew is unknown at first.
    gateway.write(config_of(some, {}))
    await gateway.reload()
    assert len({text for _, text in [await ask(gateway) for _ in range(4)]}) == 2
    assert (await state_of(gateway, some[0]))["health"] is None


@pytest.mark.parametrize("mood", [ERRORS, RESETS, CLOSES])
async def test_failures_eject(start_gateway: StartGateway, backends: Backends, mood: str) -> None:
    some = await moody(backends, 3)
    eject = {"failures": 2, "within": "10s", "for": "4s"}
    gateway = await start_gateway(config_of(some, {"eject": eject, "connect_retries": 0}, workers=2))
    sick = some[2]
    sick.mood = mood

    async def ejected() -> bool:
        await ask(gateway, "/x")
        return (await gateway.scrape()).value("gateway_backend_ejected", backend=sick.address) == 1

    await until(ejected)
    start = time.monotonic()
    state = await state_of(gateway, sick)
    assert state["reason"] == "2 failures within 10 s"
    assert 0 < state["ejected_until"] - time.time() <= 4
    asked = sick.targets["/x"]
    assert {status for status, _ in [await ask(gateway, "/x") for _ in range(10)]} == {200}
    assert sick.targets["/x"] == asked
    sick.mood = GOOD
    await gateway.until(lambda scrape: scrape.value("gateway_backend_ejected", backend=sick.address) == 0, "its return")
    assert time.monotonic() - start < DEADLINE_SECONDS
    assert len({text for _, text in [await ask(gateway) for _ in range(9)]}) == 3
    scrape = await gateway.scrape()
    assert scrape.value("gateway_backend_ejections_total", backend=sick.address, result="ejected") == 1
    await gateway.stderr.containing(f"ejected backend {sick.address} of chat for 4 s: 2 failures within 10 s")
    await gateway.stderr.containing(f"backend {sick.address} of chat is back: its ejection is over")


async def until(true: Any) -> None:
    async def looking() -> None:
        while not await true():
            pass

    await within(looking(), "a backend to be ejected")


async def test_failed_handshakes_eject_and_closed_tunnels_do_not(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    some = await moody(backends, 2)
    eject = {"failures": 2, "within": "10s", "for": "30s"}
    gateway = await start_gateway(config_of(some, {"eject": eject}))
    for _ in range(8):
        client = await tunnel(gateway, open_connection)
        await client.close()
    await gateway.tunnels(0)
    some[0].mood = RESETS

    async def ejected() -> bool:
        client = await open_connection(gateway)
        await client.send(handshake("/"))
        await client.head()
        return (await gateway.scrape()).value("gateway_backend_ejected", backend=some[0].address) == 1

    await until(ejected)
    scrape = await gateway.scrape()
    assert scrape.value("gateway_backend_ejected", backend=some[1].address) == 0
    for _ in range(4):
        await tunnel(gateway, open_connection)


async def test_the_last_half_is_never_ejected(start_gateway: StartGateway, backends: Backends) -> None:
    some = await moody(backends, 4)
    eject = {"failures": 1, "within": "10s", "for": "30s"}
    gateway = await start_gateway(config_of(some, {"eject": eject, "connect_retries": 0}))
    for each in some:
        each.mood = ERRORS

    async def prevented() -> bool:
        assert (await ask(gateway))[0] == 500
        scrape = await gateway.scrape()
        return sum(s.value for s in scrape.samples("gateway_backend_ejections_total", result="prevented")) >= 1

    await until(prevented)
    scrape = await gateway.scrape()
    assert sum(sample.value for sample in scrape.samples("gateway_backend_ejected")) == 2
    await gateway.stderr.containing("2 of 4 backends are out already, and half of them are never ejected")


async def test_one_that_comes_and_goes(start_gateway: StartGateway, backends: Backends) -> None:
    """It refuses connections every now and then; each request is answered by some backend."""
    some = await moody(backends, 2)
    flapping = await backends.scripted()
    some.append(Moody(flapping))
    check = {"tcp": True, **{key: value for key, value in CHECK.items() if key != "path"}}
    gateway = await start_gateway(config_of(some, {"health_check": check}))
    host, _, port = flapping.address.rpartition(":")
    server = flapping._server
    assert server is not None
    for _ in range(2):
        server.close()
        await is_up(gateway, some[2], False)
        assert {status for status, _ in [await ask(gateway) for _ in range(6)]} == {200}
        server = flapping._server = await asyncio.start_server(flapping._accepted, host, int(port))
        await is_up(gateway, some[2], True)
        assert {status for status, _ in [await ask(gateway) for _ in range(6)]} == {200}


async def test_an_upgrade_keeps_states(start_gateway: StartGateway, backends: Backends) -> None:
    """Health, ejections that run on, and drains that end when the backend is up again."""
    some = await moody(backends, 2)
    check = {**CHECK, "on_down": "drain"}
    eject = {"failures": 1, "within": "10s", "for": "1h"}
    config = config_of(some, {"health_check": check})
    other = Moody(await backends.scripted())
    config["upstreams"]["other"] = {"backends": [some[1].address, other.address], "eject": eject, "connect_retries": 0}
    config["routes"].insert(0, route("other", "other"))
    gateway = await start_gateway(config)
    some[0].mood = other.mood = ERRORS
    await is_up(gateway, some[0], False)

    async def ejected() -> bool:
        await ask(gateway, "/other")
        return (await gateway.scrape()).value("gateway_backend_ejected", backend=other.address) == 1

    await until(ejected)
    before = (await state_of(gateway, some[0]))["since"]
    await upgrade(gateway)
    state = await state_of(gateway, some[0])
    assert (state["health"], state["since"], state["drained"]) == ("down", before, True)
    assert (await gateway.scrape()).value("gateway_backend_ejected", backend=other.address) == 1
    assert {await ask(gateway, path) for path in ("/", "/other") for _ in range(4)} == {
        (200, f"ready {some[1].address}")
    }
    some[0].mood = GOOD
    await is_up(gateway, some[0], True)
    assert not (await state_of(gateway, some[0]))["drained"]
    assert len({text for _, text in [await ask(gateway) for _ in range(4)]}) == 2
