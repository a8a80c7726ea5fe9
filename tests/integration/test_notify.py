"""A gateway as a service of systemd's: what it tells the service manager, and when."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conftest import Backends, Open, StartGateway
from tests.support.deadline import SCALE
from tests.support.frames import CLOSE, TEXT, close, frame, from_client, read_frame
from tests.support.gateway import to_one
from tests.support.notify import Manager
from tests.support.pace import Pace
from tests.support.process import gone
from tests.support.raw import handshake

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]


@pytest_asyncio.fixture(loop_scope="module")
async def manager(tmp_path: Path) -> AsyncIterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.close()


async def test_a_life(start_gateway: StartGateway, backends: Backends, open_connection: Open, manager: Manager) -> None:
    echo = await backends.echo()
    watchdog_seconds = 0.4 * SCALE
    config = to_one(echo.address, workers=2, drain={"period": "1s"}, timeouts={"close": "7s"})
    environ = {**manager.environ, "WATCHDOG_USEC": str(round(watchdog_seconds * 1e6))}
    gateway = await start_gateway(config, env=environ, ready=False)

    *starting, ready = await manager.until("READY")
    assert all(message.keys() == {"WATCHDOG", "STATUS"} for message in starting)
    assert ready == {"READY": "1", "STATUS": "workers: 2 of 2; tunnels: 0"}
    client = await open_connection(gateway)  # at once: READY makes the service manager send clients
    await client.send(handshake("/"))
    assert (await client.head()).status == 101

    (alive,) = await manager.until("WATCHDOG")
    pauses = [0.0]
    async with Pace() as pace:
        told = time.monotonic()
        while "tunnels: 1" not in alive["STATUS"]:
            (alive,) = await manager.until("WATCHDOG")
            pauses.append(time.monotonic() - told)
            told = time.monotonic()
    assert max(pauses) < watchdog_seconds * pace.slowdown
    assert alive == {"WATCHDOG": "1", "STATUS": "workers: 2 of 2; tunnels: 1"}

    before = time.monotonic()
    await gateway.reload()
    *_, reloading = await manager.until("RELOADING")
    assert before <= int(reloading["MONOTONIC_USEC"]) / 1e6 <= time.monotonic()
    assert (await manager.until("READY"))[-1]["STATUS"] == "workers: 2 of 2; tunnels: 1"

    gateway.write("listen: nowhere")
    gateway.tolerate("reload failed")
    await gateway.reload()
    await manager.until("RELOADING")
    failed = (await manager.until("READY"))[-1]
    assert failed["STATUS"] == "workers: 2 of 2; tunnels: 1; the last reload failed"

    gateway.term()
    stopping = (await manager.until("STOPPING"))[-1]
    assert stopping["STATUS"] == "draining; tunnels: 1 of 1 left"
    assert 1 + 7 < int(stopping["EXTEND_TIMEOUT_USEC"]) / 1e6 < 60
    assert await read_frame(client) == (CLOSE, close(1012))
    assert await manager.until("WATCHDOG")  # it goes on while the gateway drains
    await client.send(from_client(CLOSE, close(1012)))
    assert await client.ends() == b""
    await gateway.exits(0)
    assert all(message.keys() == {"WATCHDOG", "STATUS"} for message in manager.messages())


async def test_who_ends_at_once_says_so(start_gateway: StartGateway, backends: Backends, manager: Manager) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address), env=manager.environ)
    gateway.process.signal(signal.SIGINT)
    await gateway.exits(0)
    messages = manager.messages()
    assert [message.keys() for message in messages if len(message) > 1] == [{"READY", "STATUS"}, {"STOPPING", "STATUS"}]


async def test_a_gateway_that_cannot_start_is_never_ready(start_gateway: StartGateway, manager: Manager) -> None:
    config = to_one("127.0.0.1:1", access_log={"path": "/nowhere/at/all/access.log"})
    gateway = await start_gateway(config, env=manager.environ, ready=False)
    gateway.tolerate("No such file or directory|was killed by SIGKILL")
    await gateway.exits(1)
    assert not any("READY" in message for message in manager.messages())


async def test_a_supervisor_that_hangs_says_nothing_and_its_end_drains(
    start_gateway: StartGateway, backends: Backends, open_connection: Open, manager: Manager
) -> None:
    echo = await backends.echo()
    environ = {**manager.environ, "WATCHDOG_USEC": "100000"}
    gateway = await start_gateway(to_one(echo.address), env=environ)
    (worker,) = await gateway.worker_pids()
    client = await open_connection(gateway)
    await client.send(handshake("/"))
    assert (await client.head()).status == 101
    gateway.process.signal(signal.SIGSTOP)
    await client.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))
    manager.messages()
    await client.echoes(from_client(TEXT, b"y"), frame(TEXT, b"y"))
    assert await client.is_quiet(0.3)
    assert manager.messages() == []
    # What systemd's watchdog does then: ABRT for all processes of the service.
    os.killpg(gateway.process.pid, signal.SIGABRT)
    gateway.process.signal(signal.SIGCONT)
    assert await read_frame(client) == (CLOSE, close(1012))
    await client.send(from_client(CLOSE, close(1012)))
    assert await client.ends() == b""
    await gateway.exits(-signal.SIGABRT)
    await gone(worker)
