"""A site as it is in production, under load: files and a proxied application of nginx's, and an application behind.

``wrk`` GETs, and checks every body; clients of ours POST on kept connections, and check every answer. Through ten
reloads and ten upgrades nothing fails. A worker that is killed takes with it what it had in hand, and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from tests.conftest import Backends, StartGateway
from tests.integration.upgrades import upgrade
from tests.peers.proxies import start_nginx
from tests.peers.servers import HERE, Servers, program
from tests.support.backends import Web
from tests.support.deadline import within
from tests.support.gateway import Gateway, route
from tests.support.posting import Posting
from tests.support.process import Process
from tests.support.sockets import client_ports

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

TIMES = 10
CONNECTIONS = 32
"""of ``wrk``"""

POSTING_CLIENTS = 10
FILES = {"small.txt": 50, "page.html": 20_000, "picture": 300_000}
"""Sizes in bytes: less than a packet, and more than sockets take at once."""


class Site:
    """A gateway, and what is behind it."""

    def __init__(self, gateway: Gateway, web: Web, files: Path) -> None:
        self.gateway = gateway
        self.web = web
        self.files = files


async def start_site(start_gateway: StartGateway, backends: Backends, servers: Servers, directory: Path) -> Site:
    files = directory / "files"
    files.mkdir()
    for name, size in FILES.items():
        (files / name).write_bytes(os.urandom(size))
    web = await backends.web()
    nginx = await start_nginx(
        servers,
        directory,
        f"""
        location /files/ {{ alias {files}/; }}
        location /app/ {{ proxy_pass http://{web.address}; }}
        """,
        connections=1024,
    )
    gateway = await start_gateway(
        {
            "workers": 2,
            "upstreams": {"nginx": {"backends": [nginx]}, "web": {"backends": [web.address]}},
            "routes": [route("files", "nginx"), route("app", "nginx"), route("api", "web")],
        }
    )
    return Site(gateway, web, files)


class Wrk:
    """``wrk``, which GETs every file in turn, on all connections at once, until it is told to stop."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, servers: Servers, site: Site) -> Wrk:
        paths = [argument for name in FILES for argument in (f"/files/{name}", site.files / name)]
        process = await servers.start(
            program("wrk"),
            *("--threads", "1", "--connections", f"{CONNECTIONS}", "--duration", "10m", "--timeout", "10s"),
            *("--script", HERE / "wrk" / "checked.lua", site.gateway.http(), "--", *paths),
        )
        await site.gateway.until(
            lambda scrape: scrape.value("gateway_http_requests_total", route="files", code="200") > CONNECTIONS,
            "wrk's requests",
        )
        return cls(process)

    async def stop(self) -> dict[str, int]:
        """What it has counted: ``requests``, ``wrong`` answers and errors of each kind.

        ``leftover``: right answers behind a piece of one that its connection's end cut short.
        """
        self._process.signal(signal.SIGINT)
        line = await self._process.stdout.containing('{"requests"')
        found: dict[str, int] = json.loads(line)
        return found


def went_wrong(counted: dict[str, int]) -> dict[str, int]:
    """The kinds of errors that there were."""
    return {kind: count for kind, count in counted.items() if count and kind != "requests"}


async def test_reloads_and_upgrades_under_load(
    start_gateway: StartGateway, backends: Backends, servers: Servers, tmp_path: Path
) -> None:
    site = await start_site(start_gateway, backends, servers, tmp_path)
    gateway = site.gateway
    wrk = await Wrk.start(servers, site)
    async with (
        Posting(gateway.address, "/api/upload", POSTING_CLIENTS) as straight,
        Posting(gateway.address, "/app/upload", POSTING_CLIENTS) as through_nginx,
    ):
        for _ in range(TIMES):
            await gateway.reload()
            await straight.goes_on()
            await upgrade(gateway)
            await asyncio.gather(straight.goes_on(), through_nginx.goes_on())
    counted = await wrk.stop()
    assert went_wrong(counted) == {}, counted
    for posting in (straight, through_nginx):
        assert not posting.failures, posting.errors
    assert site.web.uploads == straight.answered + through_nginx.answered
    assert max(site.web.uploads.values()) == 1
    assert (await gateway.scrape()).value("gateway_worker_restarts_total") == 0


async def test_a_worker_is_killed_under_load(
    start_gateway: StartGateway, backends: Backends, servers: Servers, tmp_path: Path
) -> None:
    site = await start_site(start_gateway, backends, servers, tmp_path)
    gateway = site.gateway
    gateway.tolerate("worker .* was killed by SIGKILL")
    wrk = await Wrk.start(servers, site)
    async with Posting(gateway.address, "/api/upload", POSTING_CLIENTS) as posting:
        pid = (await gateway.worker_pids())[0]
        os.kill(pid, signal.SIGSTOP)  # it accepts nothing from now on
        its = client_ports(pid, gateway.address)
        os.kill(pid, signal.SIGKILL)
        await gateway.until(lambda scrape: scrape.value("gateway_worker_restarts_total") == 1, "the new worker")
        await within(posting.goes_on(), "requests behind it")
    counted = await wrk.stop()
    assert posting.failures.keys() <= its, posting.errors
    assert set(posting.failures.values()) <= {1}
    assert posting.answered.keys() <= site.web.uploads.keys() <= posting.answered.keys() | posting.unanswered
    assert max(site.web.uploads.values()) == 1
    # wrk tells of no connection in particular.
    assert went_wrong(counted).keys() <= {"read", "write", "leftover"}, counted
    failed = counted["read"] + counted["write"]
    assert 0 < failed <= min(len(its), CONNECTIONS), counted
    assert counted["leftover"] <= failed, counted
