"""TLS tunnels live on when workers are killed, the program is upgraded, and the supervisor dies.

60 idle tunnels, 10 busy ones, three kills, two upgrades here; 500, 20, ten and five with
``GATEWAY_SOAK=1 pytest -m soak``. Half of them are of TLS 1.2, half of 1.3. Each byte is compared at both ends.
"""

from __future__ import annotations

import asyncio
import os
import resource
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.tunnels.table.layout import W_PID
from tests.conftest import StartGateway
from tests.support.certificates import Authority
from tests.support.deadline import SCALE, SOAK, eventually
from tests.support.gateway import NO_PINGS, Gateway, to_one
from tests.support.numbered import Play, Tunnel, all_complete, get_busy
from tests.support.ports import free_port
from tests.support.rest import table_of

from .services import MakeService
from .test_crash import kill, until_lost
from .test_resume import clean_and_dirty
from .upgrades import upgrade

pytestmark = pytest.mark.asyncio(loop_scope="module")

IDLE, BUSY, KILLS, UPGRADES = (500, 20, 10, 5) if SOAK else (60, 10, 3, 2)
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


class Clients:
    """Opens tunnels whose clients speak TLS, of both versions in turns."""

    def __init__(self, play: Play, authority: Authority) -> None:
        self._play = play
        self._contexts = []
        for version in VERSIONS:
            context = ssl.create_default_context(cafile=str(authority.ca))
            context.minimum_version = context.maximum_version = version
            self._contexts.append(context)

    async def open(self, address: str, count: int) -> list[Tunnel]:
        """Open ``count`` tunnels."""
        found = []
        for n, context in enumerate(self._contexts):
            found += await self._play.open_many(address, (count + n) // len(self._contexts), at_once=20, tls=context)
        return found


@pytest_asyncio.fixture(loop_scope="module")
async def tls_play(authority: Authority) -> AsyncIterator[Play]:
    """A backend that speaks TLS itself."""
    files = authority.issue("backend.test", file="play")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    play = await Play.start(context)
    yield play
    await play.close()


def over_tls(authority: Authority, **more: Any) -> dict[str, Any]:
    """A configuration's listener with TLS."""
    files = authority.issue("localhost", file="gateway")
    listener = {"address": f"127.0.0.1:{free_port()}", "tls": {"certificates": [files.section]}}
    return {"listen": [listener], **more}


async def traffic(busy: list[Tunnel]) -> None:
    """Wait until all of them have moved on."""
    marks = {tunnel: tunnel.progress for tunnel in busy}
    await eventually(lambda: all(tunnel.progress >= mark + 3 for tunnel, mark in marks.items()), "traffic")


async def ended(busy: list[Tunnel], count: int) -> None:
    """Wait until so many of them have ended. They rest from then on."""
    for tunnel in busy:
        tunnel.rest()  # a slow end would take its time to read what was sent before
    await eventually(lambda: sum(tunnel.gone for tunnel in busy) == count, "those lost to end")


async def check_idle(idle: list[Tunnel]) -> None:
    for tunnel in idle:
        assert tunnel.lives
        tunnel.say()
    await all_complete(idle)


async def kill_one(gateway: Gateway, n: int) -> tuple[set[str], set[str]]:
    """Kill one of the workers. :returns: as :func:`kill`"""
    table = table_of(gateway.process.pid)
    try:
        pids = await gateway.worker_pids()
        pid = pids[n % len(pids)]
        (slot,) = (each for each in range(table.slots) if table.cells[table.worker(each) + W_PID] == pid)
        return await kill(gateway, table, slot)
    finally:
        table.close()


@pytest.mark.soak
@pytest.mark.timeout(900 if SOAK else 300)
@pytest.mark.parametrize("backend", [pytest.param("plain", marks=pytest.mark.either_build), "tls"])
async def test_kills_and_upgrades(
    start_gateway: StartGateway, play: Play, tls_play: Play, authority: Authority, backend: str
) -> None:
    the_play = play if backend == "plain" else tls_play
    clients = Clients(the_play, authority)
    config = over_tls(authority, workers=2, **NO_PINGS, **to_one(the_play.address))  # idle, so that none may be lost
    if backend == "tls":
        config["upstreams"]["one"]["tls"] = {"ca": str(authority.ca), "server_name": "backend.test"}
    gateway = await start_gateway(config)
    idle = await clients.open(gateway.address, IDLE)
    busy = await clients.open(gateway.address, BUSY)
    get_busy(busy)
    lost: set[str] = set()
    for n in range(KILLS + UPGRADES):
        await traffic(busy)
        if n % 3 == 2 and n // 3 < UPGRADES:
            await upgrade(gateway)
        else:
            clean, dirty = await kill_one(gateway, n)
            assert clean
            lost |= dirty
            await until_lost(gateway, lost)
            await ended(busy, len(dirty))
        for tunnel in (*busy, *idle):
            tunnel.check()
        busy = [tunnel for tunnel in busy if tunnel.lives]
        busy += await clients.open(gateway.address, BUSY - len(busy))
        get_busy(busy)
    for tunnel in busy:
        tunnel.rest()
    await check_idle(idle)
    await all_complete(busy)
    scrape = await gateway.tunnels(IDLE + BUSY)
    assert scrape.value("gateway_tunnels_closed_total", cause="worker_lost") == len(lost)


@pytest.mark.either_build
@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_a_certificate_is_replaced_under_them(
    start_gateway: StartGateway, play: Play, authority: Authority
) -> None:
    """1,000 tunnels with ``GATEWAY_SOAK=1``; new connections get the new certificate, and no tunnel notices."""
    clients = Clients(play, authority)
    config = over_tls(authority, workers=2, **NO_PINGS, **to_one(play.address))
    gateway = await start_gateway(config)
    idle = await clients.open(gateway.address, 2 * IDLE)
    section = config["listen"][0]["tls"]["certificates"][0]
    renewed = authority.issue("localhost", file="renewed")
    expected = der(renewed.cert)
    for kind in ("cert", "key"):
        os.replace(getattr(renewed, kind), section[kind])

    async def used() -> bool:
        return await shown(gateway.address, authority) == expected

    await eventually(used, "the new certificate", 5 * SCALE)
    await check_idle(idle)


def der(file: Path) -> bytes:
    """The certificate in a file."""
    return ssl.PEM_cert_to_DER_cert(file.read_text())


async def shown(address: str, authority: Authority) -> bytes:
    """The certificate that a new connection is shown."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=str(authority.ca))
    _, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname="localhost")
    found: bytes = writer.get_extra_info("ssl_object").getpeercert(True)
    writer.close()
    await writer.wait_closed()
    return found


@pytest.mark.either_build
async def test_no_process_dumps_core(start_gateway: StartGateway, play: Play, authority: Authority) -> None:
    """Keys may be in its heap. Those of tunnels are in no dump anyway (``tests/tunnels/test_tls_moves.py``)."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    most = before[1]
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))
    try:
        plain = await start_gateway(to_one(play.address), fresh=True)
        sealed = await start_gateway(over_tls(authority, **to_one(play.address)), fresh=True)
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    for gateway, soft in ((plain, most), (sealed, 0)):
        for pid in (gateway.process.pid, *await gateway.worker_pids()):
            assert resource.prlimit(pid, resource.RLIMIT_CORE) == (soft, most)


@pytest.mark.soak
@pytest.mark.timeout(900 if SOAK else 300)
async def test_the_supervisor_dies(make_service: MakeService, play: Play, authority: Authority) -> None:
    service = make_service()
    clients = Clients(play, authority)
    gateway = await service.start(over_tls(authority, workers=2, **NO_PINGS, **to_one(play.address)))
    idle = await clients.open(gateway.address, IDLE)
    busy = await clients.open(gateway.address, BUSY)
    get_busy(busy, stalling=False)
    await traffic(busy)
    await service.stored(IDLE + BUSY)
    await service.die()
    table = service.table()
    clean, dirty = clean_and_dirty(table)
    table.close()
    assert len(clean) >= IDLE
    gateway = await service.start()
    await ended(busy, len(dirty))
    busy = [tunnel for tunnel in busy if tunnel.lives]
    for tunnel in (*busy, *idle):
        tunnel.check()
        tunnel.rest()
    await check_idle(idle)
    await all_complete(busy)
    await asyncio.gather(*(clients.open(gateway.address, 2) for _ in range(2)))
