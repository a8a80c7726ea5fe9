"""``gateway rebalance``: tunnels move to the backends that ought to have them, and no other tunnel is touched."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections import Counter
from typing import Any

import pytest
import websockets

from gateway.processes import record
from tests.conftest import Backends, StartGateway
from tests.routing.tables import routes_of
from tests.support.backends import Echo
from tests.support.deadline import DEADLINE_SECONDS, SOAK, eventually, quiet_for
from tests.support.gateway import Gateway, command, route
from tests.support.pace import Pace
from tests.support.process import gone

from .services import MakeService, Service
from .upgrades import upgrade

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]


AGAIN_SECONDS = 0.05
"""Between attempts to connect to a service that has died."""


class Client:
    """Has a tunnel all the time: it connects again when that is closed."""

    def __init__(self, gateway: Gateway, path: str = "/") -> None:
        self._url = gateway.ws() + path.lstrip("/")
        self._task = asyncio.create_task(self._run())
        self.closes: list[tuple[float, int | None]] = []
        """when the tunnel was closed, and the close code"""
        self.connected = asyncio.Event()
        self.socket: websockets.ClientConnection | None = None

    async def _run(self) -> None:
        """Connect again and again; where a service has just died, until the next one is there."""
        while True:
            with contextlib.suppress(OSError, websockets.exceptions.InvalidHandshake):
                await self._connect()
            await quiet_for(AGAIN_SECONDS)

    async def _connect(self) -> None:
        headers: dict[str, str] = {}
        while True:
            async with websockets.connect(
                self._url, additional_headers=headers, ping_interval=None, compression=None, open_timeout=30
            ) as socket:
                self.socket = socket
                assert socket.response is not None
                if cookie := socket.response.headers.get("Set-Cookie"):
                    headers["Cookie"] = cookie.partition(";")[0]
                self.connected.set()
                await socket.wait_closed()
                self.closes.append((time.monotonic(), socket.close_code))
                self.connected.clear()

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


class Clients:
    """Many of them."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.all: list[Client] = []

    async def add(self, number: int, path: str = "/") -> None:
        for at in range(0, number, 20):
            some = [Client(self._gateway, path.format(at + i)) for i in range(min(20, number - at))]
            self.all += some
            await asyncio.gather(*(client.connected.wait() for client in some))

    async def back(self) -> None:
        """Wait until all have a tunnel: also those that have not seen yet that theirs was closed."""

        async def all_are() -> bool:
            scrape = await self._gateway.scrape()
            return (
                all(client.connected.is_set() for client in self.all)
                and len(self.closes()) >= scrape.value("gateway_tunnels_closed_total", cause="drain")
                and scrape.value("gateway_tunnels") == len(self.all)
            )

        await eventually(all_are, "all clients to have a tunnel again", 2 * DEADLINE_SECONDS)

    def closes(self) -> list[tuple[float, int | None]]:
        return sorted(close for client in self.all for close in client.closes)

    async def __aenter__(self) -> Clients:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(client.close() for client in self.all))


def config_of(backends: list[Echo], **upstream: Any) -> dict[str, Any]:
    listed = [backend.address for backend in backends]
    return {
        "workers": 2,
        "upstreams": {"chat": {"backends": listed, **upstream}},
        "routes": [route("chat", "chat", "/")],
    }


async def rebalance(gateway: Gateway, *options: str) -> tuple[int, str, str]:
    return await command("rebalance", "-c", gateway.file, *options, seconds=60)


async def rebalances(gateway: Gateway) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((await gateway.get("/api/v1/status"))[1])["rebalances"]
    return found


async def spread(gateway: Gateway, backends: list[Echo]) -> list[int]:
    scrape = await gateway.scrape()
    return [int(scrape.value("gateway_tunnels", backend=backend.address)) for backend in backends]


async def scaled_out(
    start: StartGateway, backends: Backends, clients: int, path: str = "/", **upstream: Any
) -> tuple[Gateway, list[Echo], Clients]:
    """A gateway with clients on two backends, and then two more backends."""
    four = [await backends.echo() for _ in range(4)]
    gateway = await start(config_of(four[:2], **upstream))
    found = Clients(gateway)
    await found.add(clients, path)
    gateway.write(config_of(four, **upstream))
    await gateway.reload()
    return gateway, four, found


def assert_even(has: list[int], share: int) -> None:
    """Workers that decide in the same moment may be off by one."""
    assert all(abs(each - share) <= 1 for each in has), has


def is_even(times: list[float], period: float, slowdown: float, parts: int = 4) -> bool:
    """Whether each part of a period has its share of what happened, within 40 %.

    :param slowdown: of the machine (:mod:`tests.support.pace`)
    """
    first = times[0]
    counts = Counter(min(int((each - first) / period * parts), parts - 1) for each in times)
    return all(abs(counts[part] - len(times) / parts) <= 0.4 * slowdown * len(times) / parts for part in range(parts))


@pytest.mark.parametrize("number", [100, pytest.param(2000 if SOAK else 400, marks=pytest.mark.soak)])
async def test_after_a_scale_out_each_backend_gets_its_share(
    start_gateway: StartGateway, backends: Backends, number: int
) -> None:
    period = {100: 2, 400: 5, 2000: 20}[number]
    gateway, four, clients = await scaled_out(start_gateway, backends, number)
    async with clients:
        assert await spread(gateway, four) == [number // 2, number // 2, 0, 0]

        status, stdout, stderr = await rebalance(gateway, "--dry-run")
        assert (status, stderr) == (0, f"{number // 2} tunnels would be closed")
        assert [line.split()[3:] for line in stdout.splitlines()[1:]] == [
            [str(number // 2), str(number // 4), str(number // 4)],
            [str(number // 2), str(number // 4), str(number // 4)],
            ["0", str(number // 4), "0"],
            ["0", str(number // 4), "0"],
        ]
        assert clients.closes() == []

        async with Pace() as pace:
            status, stdout, stderr = await rebalance(gateway, "--upstream", "chat", "--period", f"{period}s")
        assert (status, stderr) == (0, "")
        assert stdout.startswith(
            f"chat: closing {number // 2} tunnels over {period}s: {number // 4} of {number // 2} to "
        )
        assert f"\nchat: closed {number // 2} tunnels in " in stdout
        await clients.back()
        closes = clients.closes()
        assert {code for _, code in closes} == {1012}
        assert abs(len(closes) - number // 2) <= 0.05 * number // 2
        assert all(len(client.closes) <= 1 for client in clients.all)
        assert is_even([when for when, _ in closes], period, pace.slowdown)
        assert all(abs(has - number // 4) <= max(1, 0.05 * number // 4) for has in await spread(gateway, four))

        scrape = await gateway.scrape()
        assert scrape.value("gateway_rebalanced_tunnels_total", upstream="chat", result="closed") == len(closes)
        assert scrape.value("gateway_tunnels_closed_total", cause="drain") == len(closes)
        [state] = await rebalances(gateway)
        assert (state["done"], state["error"], state["closed"], state["left"]) == (True, None, len(closes), 0)
        status, stdout, _ = await rebalance(gateway)
        assert (status, stdout) == (0, "chat: every tunnel is where it belongs")


@pytest.mark.parametrize("balance", ["round_robin", "random_two", "sticky"])
async def test_clients_come_back_to_where_the_fewest_are(
    start_gateway: StartGateway, backends: Backends, balance: str
) -> None:
    gateway, four, clients = await scaled_out(start_gateway, backends, 40, balance=balance)
    async with clients:
        before = await spread(gateway, four)
        status, _, stderr = await rebalance(gateway, "--period", "500ms")
        assert (status, stderr) == (0, "")
        await clients.back()
        assert abs(len(clients.closes()) - sum(max(0, has - 10) for has in before)) <= 2
        assert_even(await spread(gateway, four), 10)
        if balance == "sticky":  # those that were moved have a cookie for where they are now
            for client in clients.all:
                assert client.socket is not None
                await client.socket.close()
            await eventually(lambda: all(len(client.closes) >= 1 for client in clients.all), "all to be closed")
            await clients.back()
            assert_even(await spread(gateway, four), 10)


async def test_with_a_hash_just_the_keys_that_belong_elsewhere_move(
    start_gateway: StartGateway, backends: Backends
) -> None:
    hashed = {"balance": "consistent_hash", "hash_on": "path"}
    gateway, four, clients = await scaled_out(start_gateway, backends, 80, "/room/{}", **hashed)
    addresses = [backend.address for backend in four]
    new = routes_of({}, upstreams={"chat": {"backends": addresses, **hashed}}).upstreams["chat"]
    async with clients:
        before = {each["path"]: each["backend"] for each in (await gateway.api("tunnels"))["tunnels"]}
        homes = {path: target.label for path in before if (target := new.pick(path.encode())) is not None}
        elsewhere = {path for path in before if before[path] != homes[path]}
        assert 20 < len(elsewhere) < 60
        status, stdout, stderr = await rebalance(gateway, "--period", "1s")
        assert (status, stderr) == (0, "")
        assert f"closed {len(elsewhere)} tunnels in" in stdout
        await clients.back()
        closed = {f"/room/{at}" for at, client in enumerate(clients.all) if client.closes}
        assert closed == elsewhere
        assert {each["path"]: each["backend"] for each in (await gateway.api("tunnels"))["tunnels"]} == homes
        # Something else is hashed from now on: nobody knows those keys.
        gateway.write(config_of(four[:3], balance="consistent_hash", hash_on="header:X-Room"))
        await gateway.reload()
        status, stdout, stderr = await rebalance(gateway)
        stays = sum(homes[path] != addresses[3] for path in homes)
        assert (status, stdout) == (0, "chat: every tunnel is where it belongs")
        assert stderr == f"chat: {stays} tunnels opened before what is hashed now was known of them, so they stay"


async def test_it_begins_by_itself_after_a_scale_out(start_gateway: StartGateway, backends: Backends) -> None:
    by_itself = {"rebalance": {"settle": "500ms", "period": "1s"}}
    four = [await backends.echo() for _ in range(4)]
    gateway = await start_gateway(config_of(four[:2], **by_itself))
    async with Clients(gateway) as clients:
        await clients.add(40)
        await quiet_for(2.5)  # nothing has come into service yet, and that takes some looks to be sure of
        assert clients.closes() == []
        gateway.write(config_of(four, **by_itself))
        await gateway.reload()
        await gateway.stderr.containing("came into service; rebalancing in 0.5 s")
        await gateway.stderr.containing("rebalanced chat in")
        await clients.back()
        assert_even(await spread(gateway, four), 10)
        [state] = await rebalances(gateway)
        assert (state["automatic"], state["closed"], state["error"]) == (True, 20, None)


def saved(service: Service) -> bytes:
    """The state that the next supervisor would find."""
    (fd,) = service.keeper.of_kind("record")
    return record.read(fd)


async def test_one_that_waits_for_backends_to_settle_outlives_supervisors(
    make_service: MakeService, backends: Backends
) -> None:
    """Through an upgrade and the supervisor's death; it begins when it was due at first, or the next time it can."""
    by_itself = {"rebalance": {"settle": "12s", "period": "1s"}}
    four = [await backends.echo() for _ in range(4)]
    service = make_service()
    gateway = await service.start(config_of(four[:2], **by_itself))
    async with Clients(gateway) as clients:
        await clients.add(20)
        await service.stored(20)
        await eventually(lambda: b'"in_service": [["chat"' in saved(service), "the backends in service to be saved")
        gateway.write(config_of(four, **by_itself))
        await gateway.reload()
        await gateway.stderr.containing("came into service; rebalancing in 12 s")
        begun = time.monotonic()
        await upgrade(gateway)
        await service.stored(20)
        await service.die()
        gateway = await service.start({**gateway.config, **config_of(four, **by_itself)})
        await gateway.stderr.containing("rebalanced chat in", seconds=30)
        assert time.monotonic() - begun >= 11
        await clients.back()
        assert_even(await spread(gateway, four), 5)
        [state] = await rebalances(gateway)
        assert (state["automatic"], state["closed"], state["error"]) == (True, 10, None)
        assert {code for _, code in clients.closes()} == {1012}


async def test_it_goes_on_through_deaths_upgrades_and_reloads(start_gateway: StartGateway, backends: Backends) -> None:
    gateway, four, clients = await scaled_out(start_gateway, backends, 100)
    five = [*four, await backends.echo()]
    async with clients:
        assert (await gateway.post("rebalance?period=60s"))[0] == 202
        await eventually(lambda: len(clients.closes()) >= 2, "it to begin")
        [begun] = await rebalances(gateway)
        worker = (await gateway.api("status"))["workers"][0]["pid"]
        gateway.tolerate("worker .* was killed by SIGKILL")
        os.kill(worker, signal.SIGKILL)
        await gone(worker)
        await upgrade(gateway)
        gateway.write(config_of(five))
        await gateway.reload()
        [now] = await rebalances(gateway)
        assert (now["started"], now["done"], now["error"]) == (begun["started"], False, None)
        before = len(clients.closes())
        await eventually(lambda: len(clients.closes()) > before, "it to go on")
        await clients.back()
        moved = [sum(code == 1012 for _, code in client.closes) for client in clients.all]
        assert max(moved) == 1
        status, _, stderr = await rebalance(gateway, "--period", "1s")
        assert (status, stderr) == (0, "")
        await clients.back()
        assert_even(await spread(gateway, five), 20)
        # What was opened in the very moment of the kill may be lost.
        assert {code for _, code in clients.closes()} <= {1012, 1006}


async def test_tunnels_that_end_by_themselves_count(start_gateway: StartGateway, backends: Backends) -> None:
    gateway, four, clients = await scaled_out(start_gateway, backends, 40)
    async with clients:
        moving = asyncio.create_task(rebalance(gateway, "--period", "8s"))
        await eventually(lambda: len(clients.closes()) >= 2, "it to begin")
        gone_home = [client for client in clients.all if not client.closes][:30]
        await asyncio.gather(*(client.close() for client in gone_home))
        status, _, stderr = await moving
        assert (status, stderr) == (0, "")
        clients.all = [client for client in clients.all if client not in gone_home]
        await clients.back()
        assert len(clients.closes()) < 15
        assert max(await spread(gateway, four)) <= 10


async def test_a_second_one_takes_its_place_and_a_drain_ends_it(
    start_gateway: StartGateway, backends: Backends
) -> None:
    gateway, four, clients = await scaled_out(start_gateway, backends, 20)
    async with clients:
        first = asyncio.create_task(rebalance(gateway, "--period", "10m"))
        await gateway.stderr.containing("rebalancing chat: closing 10 tunnels over 600 s")
        status, _, _ = await rebalance(gateway, "--period", "200ms")
        assert status == 0
        assert (await first)[0] == 1
        assert "chat was cut short: another rebalance took its place" in (await first)[2]
        await clients.back()
        assert_even(await spread(gateway, four), 5)


async def test_what_cannot_be_asked_for(start_gateway: StartGateway, backends: Backends) -> None:
    gateway = await start_gateway(config_of([await backends.echo()]))
    for options, complaint in (
        (["--upstream", "chta"], 'there is no upstream "chta" (did you mean chat? there are: chat)'),
        (["--period", "soon"], 'period is "soon" (seconds or a duration, such as 60, 90s or 5m)'),
    ):
        status, stdout, stderr = await rebalance(gateway, *options)
        assert (status, stdout) == (2, "")
        assert complaint in stderr
    status, stdout, _ = await rebalance(gateway, "--json")
    assert status == 0
    [each] = json.loads(stdout)["upstreams"]
    assert (each["done"], each["tunnels"]) == (True, 0)


async def test_the_next_supervisor_goes_on(make_service: MakeService, backends: Backends) -> None:
    four = [await backends.echo() for _ in range(4)]
    service = make_service()
    gateway = await service.start(config_of(four[:2]))
    async with Clients(gateway) as clients:
        await clients.add(60)
        gateway.write(config_of(four))
        await gateway.reload()
        await service.stored(60)
        status, _ = await gateway.post("rebalance?period=6s")
        assert status == 202
        await eventually(lambda: len(clients.closes()) >= 5, "it to begin")
        await service.die()
        gateway = await service.start({**gateway.config, **config_of(four)})
        over = gateway.stderr.containing("rebalanced chat in", seconds=30)
        assert ", 0 ended by themselves; " in await over
        await clients.back()
        assert_even(await spread(gateway, four), 15)
        assert max(sum(code == 1012 for _, code in client.closes) for client in clients.all) == 1
