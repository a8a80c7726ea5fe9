"""Backends that are given by name, and a name server that does not answer: nothing waits for it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conftest import Backends, Open, StartGateway
from tests.support.deadline import within
from tests.support.frames import TEXT, frame, from_client
from tests.support.gateway import Config, route
from tests.support.names import NameServer, name_server
from tests.support.pace import Pace
from tests.support.raw import Connection, handshake

from .upgrades import upgrade

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]

HANGING = 24
START_SECONDS = 3.0
RELOAD_SECONDS = 1.0
SUCCESSOR_SECONDS = 1.0
AT_ONCE_SECONDS = 0.5


@pytest_asyncio.fixture(loop_scope="module")
async def names(tmp_path: Path) -> AsyncIterator[NameServer]:
    async with name_server(tmp_path) as made:
        yield made


def config_of(echo: str, *named: str, **keys: object) -> Config:
    """A route to an echo backend by its address, and one for each backend that is given by name."""
    port = echo.rpartition(":")[2]
    upstreams = {f"named{n}": {"backends": [f"{name}:{port}"], "connect_retries": 0} for n, name in enumerate(named)}
    return {
        "upstreams": {"echo": {"backends": [echo]}, **upstreams},
        "routes": [*(route(name, name) for name in upstreams), route("echo", "echo")],
        **keys,
    }


async def opened(client: Connection, path: str) -> int:
    """Try to open a tunnel. :returns: the answer's status"""
    await client.send(handshake(path))
    head = await client.head()
    if head.status == 101:
        await echoes(client)
    return head.status


async def echoes(client: Connection) -> None:
    await client.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))


async def test_a_name_server_that_does_not_answer(
    names: NameServer, start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    """Start, handshakes, a reload and a successor's start: each of them waited for every name, and a tunnel ended."""
    names.silent = True
    echo = await backends.echo()
    config = config_of(echo.address, *(f"chat{n}.internal" for n in range(HANGING)))
    async with Pace() as pace:
        began = time.monotonic()
        gateway = await start_gateway(config, under=names.command())
        started = time.monotonic()
        assert {f"chat{n}.internal" for n in range(HANGING)} <= set(names.asked), "it asks for all side by side"
        tunnel = await open_connection(gateway)
        assert await opened(tunnel, "/echo") == 101
        asking = time.monotonic()
        client = await open_connection(gateway)
        assert await opened(client, f"/named{HANGING - 1}") == 502
        refused = time.monotonic()
        assert (await gateway.logged(event="handshake", route=f"named{HANGING - 1}"))["reason"] == (
            "the backend's name does not resolve"
        )
        gateway.write({**config, "upstreams": {**config["upstreams"], "new": {"backends": ["new.internal:1"]}}})
        reloading = time.monotonic()
        await gateway.reload()
        reloaded = time.monotonic()
        assert "reloaded" in gateway.stderr.lines[-1]
        await echoes(tunnel)
        pid = await gateway.kill_worker(in_store=True)
        killed = time.monotonic()
        await gateway.replaced(pid)
        back = time.monotonic()
        await echoes(tunnel)
    assert started - began < START_SECONDS * pace.slowdown
    assert refused - asking < AT_ONCE_SECONDS * pace.slowdown
    assert reloaded - reloading < RELOAD_SECONDS * pace.slowdown
    assert back - killed < SUCCESSOR_SECONDS * pace.slowdown
    assert "new.internal" in names.asked
    await gateway.stderr.containing("(no answer yet after 2 s)")


async def test_answers_are_kept_while_the_name_server_is_silent(
    names: NameServer, start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    """By the gateway, by a worker that replaces another, and by the program that it becomes."""
    echo = await backends.echo()
    names.known["chat.internal"] = "127.0.0.1"
    gateway = await start_gateway(config_of(echo.address, "chat.internal"), under=names.command())
    assert await opened(await open_connection(gateway), "/named0") == 101, "the first request has somewhere to go"
    names.silent = True
    await gateway.replaced(await gateway.kill_worker(in_store=True))
    assert await opened(await open_connection(gateway), "/named0") == 101
    await gateway.reload()
    assert await opened(await open_connection(gateway), "/named0") == 101
    await upgrade(gateway)
    assert await opened(await open_connection(gateway), "/named0") == 101


async def test_a_name_that_a_reload_brings_has_an_answer_at_once(
    names: NameServer, start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    names.known["chat.internal"] = "127.0.0.1"
    gateway = await start_gateway(config_of(echo.address), under=names.command())
    gateway.write(config_of(echo.address, "chat.internal"))
    await gateway.reload()
    assert await opened(await open_connection(gateway), "/named0") == 101


async def test_a_name_server_that_comes_late(
    names: NameServer, start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    """What does not resolve yet is tried again; tunnels and every worker get the answer."""
    echo = await backends.echo()
    gateway = await start_gateway(config_of(echo.address, "chat.internal", workers=2), under=names.command())
    assert await opened(await open_connection(gateway), "/named0") == 502
    assert "chat.internal (Name or service not known)" in await gateway.stderr.containing("do not resolve")
    names.known["chat.internal"] = "127.0.0.1"
    await gateway.stderr.containing("backend name chat.internal resolves again: 127.0.0.1")

    async def all_open() -> bool:
        return {await opened(await open_connection(gateway), "/named0") for _ in range(20)} == {101}

    async def every_worker_knows() -> None:
        while not await all_open():  # a worker may serve clients before it reads what the supervisor has just sent it
            pass

    await within(every_worker_knows(), "every worker to know the address")
    assert await all_open(), "and keeps it"
