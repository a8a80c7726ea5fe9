"""Limits for each client address: exact over all workers, and through kills, reloads and upgrades."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import Backends, StartGateway
from tests.support.backends import Echo
from tests.support.deadline import eventually, within
from tests.support.frames import CLOSE, TEXT, frame, from_client
from tests.support.gateway import NO_PINGS, Gateway, route
from tests.support.ports import free_port
from tests.support.process import gone
from tests.support.raw import Connection, Head, connect, handshake, request, switching

from .services import MakeService
from .upgrades import upgrade

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]

BURST, MOST = 20, 12
RATE = {"handshakes_per_second": {"per_client": 0.01, "burst": BURST}}
TUNNELS = {"tunnels_per_client": MOST}
DIALLED = "gateway_backend_connections_total"


def config(backend: str, workers: int = 2, **more: Any) -> dict[str, Any]:
    return {
        "workers": workers,
        "trusted_proxies": ["127.0.0.1"],
        "upstreams": {"one": {"backends": [backend]}},
        "routes": [
            route("rate", "one", limits=RATE),
            route("tunnels", "one", limits=TUNNELS),
            route("rest", "one", "/"),
        ],
        **NO_PINGS,
        **more,
    }


class Clients:
    """Connections of clients behind a trusted proxy, by their addresses."""

    def __init__(self) -> None:
        self.open: list[Connection] = []

    async def ask(self, gateway: Gateway | str, path: str, client: str, times: int = 1) -> list[Head]:
        """Ask for upgrades at once; those that are let in stay open. :returns: the answers"""
        return list(await asyncio.gather(*(self._ask(gateway, path, client) for _ in range(times))))

    async def _ask(self, gateway: Gateway | str, path: str, client: str) -> Head:
        connection = await (connect(gateway) if isinstance(gateway, str) else gateway.connect())
        await connection.send(handshake(path, f"X-Forwarded-For: {client}"))
        head = await connection.head()
        if head.status == 101:
            self.open.append(connection)
        else:
            await connection.rest()
            await connection.close()
        return head

    async def statuses(self, gateway: Gateway | str, path: str, client: str, times: int = 1) -> Counter[int]:
        return Counter(head.status for head in await self.ask(gateway, path, client, times))

    async def leave(self, count: int | None = None) -> None:
        """Close tunnels, the oldest first."""
        leaving = self.open[: len(self.open) if count is None else count]
        del self.open[: len(leaving)]
        for connection in leaving:
            await connection.close()


@pytest_asyncio.fixture(loop_scope="module")
async def clients() -> AsyncIterator[Clients]:
    made = Clients()
    yield made
    await made.leave()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def echo(shared_backends: Backends) -> Echo:
    return await shared_backends.echo()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(start_shared_gateway: StartGateway, echo: Echo) -> Gateway:
    return await start_shared_gateway(config(echo.address))


@pytest.mark.parametrize("workers", [2, 4])
async def test_limits_are_exact_over_all_workers(
    start_gateway: StartGateway, echo: Echo, clients: Clients, workers: int
) -> None:
    gateway = await start_gateway(config(echo.address, workers))
    before = await gateway.scrape()
    assert await clients.statuses(gateway, "/rate", "192.0.2.1", 60) == {101: BURST, 429: 60 - BURST}
    assert await clients.statuses(gateway, "/tunnels", "192.0.2.1", 60) == {101: MOST, 429: 60 - MOST}
    assert await clients.statuses(gateway, "/rate", "192.0.2.2") == {101: 1}
    per_worker = [worker["tunnels"] for worker in (await gateway.api("status"))["workers"]]
    assert len([tunnels for tunnels in per_worker if tunnels]) > 1, per_worker
    for name, limit, count in (
        ("rate", "handshakes_per_second", 60 - BURST),
        ("tunnels", "tunnels_per_client", 60 - MOST),
    ):
        await gateway.counts(before, "gateway_limited_total", count, route=name, limit=limit)
        await gateway.counts(before, "gateway_handshakes_total", count, route=name, result="limited")
    await clients.leave()
    await gateway.tunnels(0)
    assert await clients.statuses(gateway, "/tunnels", "192.0.2.1", MOST + 1) == {101: MOST, 429: 1}


async def test_what_a_client_over_its_limit_hears(gateway: Gateway, echo: Echo, clients: Clients) -> None:
    before = await gateway.scrape()
    await clients.ask(gateway, "/rate", "198.51.100.1", BURST)
    await clients.ask(gateway, "/tunnels", "198.51.100.1", MOST)
    connections = echo.open
    for path, reason, seconds in (
        ("/rate", "too many handshakes from this address (handshakes_per_second)", range(1, 101)),
        ("/tunnels", "too many tunnels from this address (tunnels_per_client)", range(5, 6)),
    ):
        client = await gateway.connect()
        await client.send(handshake(path, "X-Forwarded-For: 198.51.100.1"))
        answer = await client.answer()
        assert answer.status == 429
        assert answer.text == f"429 Too Many Requests: {reason}\n"
        assert int(answer.head.value("retry-after") or "") in seconds
        line = await gateway.logged(event="handshake", client="198.51.100.1", reason=reason)
        assert (line["status"], line["result"], line["route"]) == (429, "limited", path[1:])
        assert line.get("backend") is None
        await client.close()
    found = {(each["address"], each["route"], each["limit"]) for each in (await gateway.api("limited"))["limited"]}
    assert {
        ("198.51.100.1", "rate", "handshakes_per_second"),
        ("198.51.100.1", "tunnels", "tunnels_per_client"),
    } <= found
    assert echo.open == connections
    await gateway.counts(before, "gateway_limited_total", 2)
    assert (await gateway.scrape()).value(DIALLED) - before.value(DIALLED) == BURST + MOST


@pytest.mark.parametrize(
    ("number", "first", "second", "is_one_client"),
    [
        (1, "2001:db8:1:1::1", "2001:db8:1:1:ffff::2", True),
        (2, "2001:db8:1:2::1", "2001:db8:1:3::1", False),
        (3, "192.0.2.33", "::ffff:192.0.2.33", True),
        (4, "192.0.2.34", "192.0.2.35", False),
    ],
)
async def test_who_is_one_client(
    gateway: Gateway, clients: Clients, number: int, first: str, second: str, is_one_client: bool
) -> None:
    assert await clients.statuses(gateway, "/tunnels", first, MOST) == {101: MOST}
    assert await clients.statuses(gateway, "/tunnels", second) == ({429: 1} if is_one_client else {101: 1})


async def test_only_upgrades_of_that_route_count(gateway: Gateway, clients: Clients) -> None:
    connection = await gateway.connect()
    for _ in range(BURST + 5):
        await connection.send(request("/rate", "X-Forwarded-For: 198.51.100.7"))
        assert (await connection.answer()).status != 429
    await connection.close()
    assert await clients.statuses(gateway, "/rest", "198.51.100.7", BURST + 5) == {101: BURST + 5}
    assert await clients.statuses(gateway, "/rate", "198.51.100.7", BURST + 1) == {101: BURST, 429: 1}


async def test_a_client_on_a_unix_socket_is_not_limited(
    start_gateway: StartGateway, echo: Echo, clients: Clients, tmp_path: Any
) -> None:
    path = f"unix:{tmp_path}/gateway.sock"
    gateway = await start_gateway(config(echo.address, 1, listen=[{"address": path}]))

    async def anonymous() -> int:
        connection = await gateway.connect()
        await connection.send(handshake("/tunnels"))
        clients.open.append(connection)
        return (await connection.head()).status

    assert {await anonymous() for _ in range(MOST + 3)} == {101}
    assert await clients.statuses(gateway, "/tunnels", "192.0.2.1", MOST + 1) == {101: MOST, 429: 1}


# --- every way in which an upgrade or a tunnel ends -------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "fin", "reset"])
async def test_every_end_of_a_tunnel_gives_it_back(gateway: Gateway, clients: Clients, end: str) -> None:
    for _ in range(MOST + 3):
        (head,) = await clients.ask(gateway, "/tunnels", "198.51.100.20")
        assert head.status == 101
        tunnel = clients.open.pop()
        if end == "close":
            await tunnel.send(from_client(CLOSE, b"\x03\xe8"))
            await tunnel.ends()
        elif end == "fin":
            tunnel.half_close()
            await tunnel.ends()
        else:
            tunnel.reset()
        await tunnel.close()
        await gateway.tunnels(0, route="tunnels")


async def test_an_upgrade_that_fails_gives_back_what_it_took(
    start_gateway: StartGateway, backends: Backends, clients: Clients
) -> None:
    """All orders of all ends of upgrades are in ``tests/edge/orders``."""
    web, silent = await backends.web(), await backends.scripted()
    upstreams = {
        "gone": {"backends": [f"127.0.0.1:{free_port()}"]},
        "web": {"backends": [web.address]},
        "silent": {"backends": [silent.address]},
    }
    routes = [route(name, name, limits=TUNNELS) for name in upstreams]
    gateway = await start_gateway(config("", 1, upstreams=upstreams, routes=routes))
    for _ in range(MOST + 3):
        assert await clients.statuses(gateway, "/gone", "198.51.100.21") == {502: 1}
        assert await clients.statuses(gateway, "/web", "198.51.100.21") == {200: 1}

    async def silence(connection: Connection) -> None:
        await silent.request(connection)
        await connection.ends()

    silent.plays(silence)
    asking = [await gateway.connect() for _ in range(MOST)]
    for connection in asking:
        await connection.send(handshake("/silent", "X-Forwarded-For: 198.51.100.21"))
    for _ in asking:
        await within(silent.heads.get(), "the backend to be asked")
    assert await clients.statuses(gateway, "/silent", "198.51.100.21") == {429: 1}
    for connection in asking:
        connection.reset()
    await eventually(lambda: len(gateway.log_records(result="client_gone")) == MOST, "the clients to be gone")
    silent.answers(switching(), hold=True)
    assert await clients.statuses(gateway, "/silent", "198.51.100.21", MOST + 1) == {101: MOST, 429: 1}


# --- what happens to a gateway ----------------------------------------------------------------------------------------


async def is_exact(gateway: Gateway, clients: Clients, mine: int) -> None:
    """A client with so many tunnels gets just as many more as it may, and as it had handshakes left: none."""
    assert await clients.statuses(gateway, "/tunnels", "192.0.2.1", MOST) == {101: MOST - mine, 429: mine}
    assert await clients.statuses(gateway, "/rate", "192.0.2.1", 3) == {429: 3}


async def full(gateway: Gateway, clients: Clients) -> None:
    """A client uses up its handshakes on one route, and all of its tunnels but two on another one."""
    assert await clients.statuses(gateway, "/rate", "192.0.2.1", BURST) == {101: BURST}
    await clients.leave()
    await gateway.tunnels(0)
    assert await clients.statuses(gateway, "/tunnels", "192.0.2.1", MOST - 2) == {101: MOST - 2}


async def test_killed_workers_leave_no_count_behind(start_gateway: StartGateway, echo: Echo, clients: Clients) -> None:
    gateway = await start_gateway(config(echo.address))
    await full(gateway, clients)
    for index in (0, 1):
        pid = await gateway.kill_worker(index, in_store=True)
        await gone(pid)
        await gateway.replaced(pid, index)
    assert sum([worker["tunnels"] for worker in (await gateway.api("status"))["workers"]]) == MOST - 2
    await is_exact(gateway, clients, MOST - 2)
    for tunnel in clients.open:
        await tunnel.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))
    await clients.leave()
    await gateway.tunnels(0)
    assert await clients.statuses(gateway, "/tunnels", "192.0.2.1", MOST + 1) == {101: MOST, 429: 1}


async def test_a_stopped_worker_holds_nobody_up(start_gateway: StartGateway, echo: Echo, clients: Clients) -> None:
    """Whatever it was doing; the others go on, and count its tunnels."""
    gateway = await start_gateway(config(echo.address))
    await full(gateway, clients)
    pid = (await gateway.worker_pids())[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        heads: list[Head] = []
        while not heads:  # connections that the stopped worker gets wait for it
            connection = await gateway.connect()
            clients.open.append(connection)
            await connection.send(handshake("/rate", "X-Forwarded-For: 192.0.2.1"))
            try:
                heads.append(await connection.head(0.5))
            except (TimeoutError, AssertionError):
                continue
        assert heads[0].status == 429
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_limits_through_reloads(start_gateway: StartGateway, echo: Echo, clients: Clients) -> None:
    whole = config(echo.address)
    gateway = await start_gateway(whole)
    await full(gateway, clients)
    await gateway.reload()
    await is_exact(gateway, clients, MOST - 2)
    # A limit that comes with a reload counts the tunnels that are there; one that goes frees nothing by itself.
    assert await clients.statuses(gateway, "/rest", "192.0.2.1", 5) == {101: 5}
    *routes, rest = whole["routes"]
    limited = [*routes, {**rest, "limits": {"tunnels_per_client": 6}}]
    gateway.write({**whole, "routes": limited})
    await gateway.reload()
    assert await clients.statuses(gateway, "/rest", "192.0.2.1", 5) == {101: 1, 429: 4}
    gateway.write(whole)
    await gateway.reload()
    assert await clients.statuses(gateway, "/rest", "192.0.2.1", 5) == {101: 5}


async def test_limits_through_upgrades(start_gateway: StartGateway, echo: Echo, clients: Clients) -> None:
    gateway = await start_gateway(config(echo.address))
    await full(gateway, clients)
    for _ in range(2):
        await upgrade(gateway)
    await is_exact(gateway, clients, MOST - 2)
    await clients.leave()
    await gateway.tunnels(0)
    assert await clients.statuses(gateway, "/tunnels", "192.0.2.1", MOST + 1) == {101: MOST, 429: 1}


async def test_tunnels_are_counted_after_the_death_of_the_supervisor(
    make_service: MakeService, echo: Echo, clients: Clients
) -> None:
    service = make_service()
    gateway = await service.start(config(echo.address))
    assert await clients.statuses(gateway, "/tunnels", "192.0.2.1", MOST - 2) == {101: MOST - 2}
    await service.stored(MOST - 2)
    await service.die()
    again = await service.start()
    assert await clients.statuses(again, "/tunnels", "192.0.2.1", MOST) == {101: 2, 429: MOST - 2}
    await clients.leave()
    await again.tunnels(0)
    assert await clients.statuses(again, "/tunnels", "192.0.2.1", MOST + 1) == {101: MOST, 429: 1}
