"""Backends that are found while the gateway runs: by DNS and in files, under tunnels that live on."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection

from tests.conftest import Backends, StartGateway
from tests.support.backends import Echo, Script
from tests.support.deadline import SCALE, eventually, quiet_for, within
from tests.support.dns_server import DnsServer
from tests.support.files import rewrite
from tests.support.gateway import Gateway, route
from tests.support.memory import open_descriptors
from tests.support.ports import free_port
from tests.support.raw import Connection, handshake, request

from .clients import clients_of
from .upgrades import upgrade

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]

SOAK = os.environ.get("GATEWAY_SOAK") == "1"
TUNNELS = 500 if SOAK else 30
WORKERS_SECONDS = 0.5 * SCALE
"""Workers hear of a change a little later than the API shows it, and nothing says when."""

SPARE_SECONDS = 10.0 * SCALE
"""That this machine may be late."""


@pytest_asyncio.fixture(loop_scope="module")
async def names() -> AsyncIterator[DnsServer]:
    server = await DnsServer.start()
    yield server
    server.down()


async def echoes(backends: Backends, count: int) -> list[Echo]:
    """Echo backends at the same port of different addresses of this machine."""
    at = free_port("127.0.0.1")
    return [await backends.echo(host=f"127.0.0.{number}", port=at) for number in range(1, count + 1)]


def port(echo: Echo) -> str:
    return echo.address.rpartition(":")[2]


def host(echo: Echo) -> str:
    return echo.address.rpartition(":")[0]


def config_of(discover: dict[str, Any], balance: str = "round_robin", **keys: Any) -> dict[str, Any]:
    return {
        "upstreams": {"chat": {"discover": discover, "balance": balance, "pool": "off", "slow_start": "off"}},
        "routes": [route("all", "chat", "/")],
        **keys,
    }


async def found(gateway: Gateway, *expected: str) -> list[dict[str, Any]]:
    """Wait until just these backends are in force."""

    async def asked() -> list[dict[str, Any]] | None:
        backends: list[dict[str, Any]] = (await gateway.api("status"))["upstreams"][0]["backends"]
        return backends if {each["address"] for each in backends} == set(expected) else None

    backends = await eventually(asked, f"backends {expected}")
    await quiet_for(WORKERS_SECONDS)
    return backends


def write_targets(path: Path, addresses: Sequence[str], **labels: object) -> None:
    rewrite(path, json.dumps([{"targets": list(addresses), "labels": labels}]))


async def lives(client: ClientConnection) -> None:
    await client.send("still here")
    assert await client.recv() == "still here"


def of(clients: list[ClientConnection]) -> tuple[list[ClientConnection], list[ClientConnection]]:
    """Those that are open, and those that were closed."""
    return [c for c in clients if c.close_code is None], [c for c in clients if c.close_code is not None]


async def test_dns_that_changes_under_live_tunnels(
    start_gateway: StartGateway, backends: Backends, names: DnsServer
) -> None:
    one, two, three = await echoes(backends, 3)
    names.records["chat.internal", "A"] = [host(one), host(two)]
    discover = {"dns": f"chat.internal:{port(one)}", "every": "1m", "server": names.address}
    gateway = await start_gateway({"workers": 2, **config_of(discover, drain={"period": "1s"})})
    old = await clients_of(gateway, TUNNELS)
    assert one.open + two.open == TUNNELS
    assert min(one.open, two.open) > TUNNELS // 4

    names.records["chat.internal", "A"] = [host(two), host(three)]
    changed = time.monotonic()
    await gateway.stderr.containing(f"found {three.address}; gone {one.address}")
    assert time.monotonic() - changed < names.ttl + 1 + SPARE_SECONDS
    await found(gateway, two.address, three.address)
    fresh = await clients_of(gateway, 10)
    while three.open < 3:  # workers hear of it a little later than the API
        fresh += await clients_of(gateway, 2)
    # Tunnels of the backend that is gone are closed over the drain period; others live.
    await eventually(lambda: one.open == 0, "the tunnels to be closed")
    await gateway.tunnels(two.open + three.open)
    ended = len(old + fresh) - two.open - three.open
    await gateway.until(lambda scrape: scrape.value("gateway_tunnels_closed_total") == ended, "the ends to be counted")
    await eventually(lambda: len(of(old + fresh)[1]) == ended, "clients to see the ends")
    await eventually(lambda: len(gateway.log_records(event="tunnel_end")) == ended, "the lines")
    living, closed = of(old + fresh)
    assert {(r["backend"], r["cause"]) for r in gateway.log_records(event="tunnel_end")} == {(one.address, "drain")}
    assert {client.close_code for client in closed} == {1012}
    for client in living:
        await lives(client)
    assert len(living) == two.open + three.open

    # It comes back, and the others go.
    names.records["chat.internal", "A"] = [host(one)]
    await found(gateway, one.address)
    (client,) = await clients_of(gateway, 1)
    await lives(client)
    scrape = await gateway.scrape()
    assert scrape.value("gateway_tunnels", backend=one.address) == 1
    assert scrape.value("gateway_backend_drained", backend=one.address) == 0


async def test_a_name_server_that_is_gone_and_back(
    start_gateway: StartGateway, backends: Backends, names: DnsServer
) -> None:
    """Nothing is lost: not in a reload, not in an upgrade, not when a worker dies meanwhile."""
    one, two = await echoes(backends, 2)
    names.records["chat.internal", "A"] = [host(one)]
    config = config_of({"dns": f"chat.internal:{port(one)}", "every": "1s", "server": names.address})
    gateway = await start_gateway(config)
    (client,) = await clients_of(gateway, 1)
    names.down()
    await gateway.stderr.containing("its last answer stays in use: 1 backend")
    await gateway.until(lambda s: s.value("gateway_discovery_errors_total", upstream="chat") > 1, "errors")
    (shown,) = (await gateway.api("status"))["upstreams"]
    assert shown["discovery"]["source"] == f"dns chat.internal:{port(one)}"
    assert shown["discovery"]["error"]

    assert "reloaded" in await gateway.reload()
    await lives(client)
    await lives((await clients_of(gateway, 1))[0])
    await upgrade(gateway)
    await lives(client)
    await lives((await clients_of(gateway, 1))[0])
    await gateway.kill_worker()
    await gateway.until(lambda scrape: scrape.value("gateway_worker_restarts_total") == 1, "the new worker")
    await lives(client)
    await lives((await clients_of(gateway, 1))[0])
    for answer in ("failing", "nothing"):
        names.failing = answer == "failing"
        names.records["chat.internal", "A"] = []
        before = await gateway.scrape()
        if answer == "failing":
            await names.up()
        await gateway.until(
            lambda now, before=before: (  # type: ignore[misc]  # mypy infers no type for it
                now.value("gateway_discovery_errors_total") > before.value("gateway_discovery_errors_total") + 1
            ),
            "errors",
        )
        await lives((await clients_of(gateway, 1))[0])
    names.records["chat.internal", "A"] = [host(two)]
    await found(gateway, two.address)
    await gateway.stderr.containing("can be used again: 1 backend")
    await lives((await clients_of(gateway, 1))[0])
    assert two.open == 1


async def test_a_start_without_a_name_server(start_gateway: StartGateway, backends: Backends, names: DnsServer) -> None:
    (one,) = await echoes(backends, 1)
    names.silent = True
    begun = time.monotonic()
    gateway = await start_gateway(
        config_of({"dns": f"chat.internal:{port(one)}", "every": "1s", "server": names.address})
    )
    assert time.monotonic() - begun < 4 + SPARE_SECONDS
    client = await gateway.connect()
    await client.send(handshake())
    assert (await client.answer()).status == 503
    await client.close()
    names.records["chat.internal", "A"] = [host(one)]
    names.silent = False
    await found(gateway, one.address)
    await lives((await clients_of(gateway, 1))[0])


async def test_srv_priorities_and_weights(start_gateway: StartGateway, backends: Backends, names: DnsServer) -> None:
    one, two, three = await echoes(backends, 3)
    for number, echo in enumerate((one, two, three), 1):
        names.records[f"b{number}.internal", "A"] = [host(echo)]
    names.records["_chat._tcp.internal", "SRV"] = [
        f"10 30 {port(one)} b1.internal.",
        f"10 10 {port(two)} b2.internal.",
        f"20 10 {port(three)} b3.internal.",
    ]
    gateway = await start_gateway(config_of({"srv": "_chat._tcp.internal", "server": names.address}))
    shown = {each["address"]: each for each in await found(gateway, one.address, two.address, three.address)}
    assert [(shown[e.address]["weight"], shown[e.address]["backup"]) for e in (one, two, three)] == [
        (30, False),
        (10, False),
        (10, True),
    ]
    await clients_of(gateway, 40)
    assert (one.open, two.open, three.open) == (30, 10, 0)
    # Without records of the first priority, the next one is in use. One target has no address any more.
    names.records["_chat._tcp.internal", "SRV"] = [f"20 0 {port(three)} b3.internal.", "20 0 99 none.internal."]
    await found(gateway, three.address)

    async def leads_there() -> bool:
        await clients_of(gateway, 1)
        return three.open >= 1

    await eventually(leads_there, "workers to hear of it")


async def test_a_file_that_is_rewritten_again_and_again(
    start_gateway: StartGateway, backends: Backends, tmp_path: Path
) -> None:
    """No tunnel is lost of those whose backend stays; no descriptor and no number leaks."""
    echo, other = await backends.echo(), await backends.echo()
    targets = tmp_path / "targets.json"
    write_targets(targets, [echo.address], weight="2")
    config = config_of({"file": str(targets)}, drain={"period": "1s"})
    gateway = await start_gateway(config)
    clients = await clients_of(gateway, 20)
    (backend,) = await found(gateway, echo.address)
    assert (backend["weight"], backend["tunnels"]) == (2, 20)
    pids = (gateway.process.pid, *await gateway.worker_pids())
    await eventually(lambda: open_descriptors(gateway.process.pid) > 40, "the supervisor to have those of all tunnels")
    descriptors = [open_descriptors(pid) for pid in pids]
    for number in range(1, 100 if SOAK else 6):
        write_targets(targets, [echo.address, f"127.9.9.{number}:{9000 + number}"])
        await found(gateway, echo.address, f"127.9.9.{number}:{9000 + number}")
        if number == 3:
            await gateway.reload()
    for client in clients:
        await lives(client)
    targets.write_text('[{"targets": ["127.0')
    await gateway.stderr.containing("is neither JSON nor YAML")
    assert len(await found(gateway, echo.address, f"127.9.9.{number}:{9000 + number}")) == 2
    write_targets(targets, [other.address])
    await found(gateway, other.address)
    await gateway.stderr.containing("can be used again")
    await eventually(lambda: echo.open == 0, "the tunnels to be closed")
    await lives((await clients_of(gateway, 1))[0])
    assert other.open == 1
    scrape = await gateway.until(lambda s: s.value("gateway_tunnels") == 1, "one tunnel")
    assert scrape.value("gateway_discovery_errors_total", upstream="chat") == 1
    await eventually(
        lambda: [open_descriptors(pid) <= count for pid, count in zip(pids, descriptors, strict=True)] == [True, True],
        "descriptors to be closed",
    )


async def test_idle_connections_to_a_backend_that_is_gone_are_closed(
    start_gateway: StartGateway, backends: Backends, tmp_path: Path
) -> None:
    """And a request in flight to it is answered, when nothing else is there to answer."""
    one, two = await backends.scripted(), await backends.scripted()
    ended: asyncio.Queue[str] = asyncio.Queue()
    slow = asyncio.Event()

    def answering(name: str) -> Script:
        async def script(connection: Connection) -> None:
            while await connection.reader.read(65536):
                if slow.is_set():
                    await within(gone.wait(), "the backend to be gone")
                await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + name.encode())
            ended.put_nowait(name)

        return script

    gone = asyncio.Event()
    for name, backend in (("one", one), ("two", two)):
        backend.plays(answering(name))
    targets = tmp_path / "targets.json"
    write_targets(targets, [one.address])
    config = config_of({"file": str(targets)}, drain={"period": "1s"})
    del config["upstreams"]["chat"]["pool"]
    gateway = await start_gateway(config)
    client, waiting = await gateway.connect(), await gateway.connect()
    await client.send(request())
    assert (await client.answer()).text == "one"
    slow.set()
    await waiting.send(request())
    await gateway.until(lambda s: s.value("gateway_http_requests", route="all") == 1, "the request in flight")
    await client.send(request())  # takes a connection of its own
    await gateway.until(lambda s: s.value("gateway_http_requests", route="all") == 2, "both")
    write_targets(targets, [two.address])
    await found(gateway, two.address)
    slow.clear()
    gone.set()
    for each in (waiting, client):
        assert (await each.answer()).text == "one"
    assert [await within(ended.get(), "the end of an idle connection") for _ in range(2)] == ["one", "one"]
    for each in (waiting, client):
        await each.send(request())
        assert (await each.answer()).text == "two"
        await each.close()


async def test_tunnels_that_are_kept_and_backends_that_are_listed_too(
    start_gateway: StartGateway, backends: Backends, tmp_path: Path
) -> None:
    static, one, two = await backends.echo(), await backends.echo(), await backends.echo()
    targets = tmp_path / "targets.yaml"
    targets.write_text(f"- targets: ['{one.address}', '{static.address}']\n")
    config = config_of({"file": str(targets), "on_gone": "keep"}, drain={"period": "1s"})
    config["upstreams"]["chat"]["backends"] = [static.address]
    gateway = await start_gateway(config)
    await found(gateway, static.address, one.address)
    clients = await clients_of(gateway, 10)
    assert (static.open, one.open) == (5, 5)
    rewrite(targets, f"- targets: ['localhost:{port(two)}']\n")  # a name, looked up before it is used
    await found(gateway, static.address, f"localhost:{port(two)}")
    more = await clients_of(gateway, 4)
    assert (static.open, one.open, two.open) == (7, 5, 2)
    for client in (*clients, *more):
        await lives(client)
    # A reload that takes the source away closes no tunnels.
    config["upstreams"]["chat"] = {"backends": [static.address]}
    gateway.write(config)
    await gateway.reload()
    await found(gateway, static.address)
    await clients_of(gateway, 2)
    assert (static.open, one.open, two.open) == (9, 5, 2)
    for client in (*clients, *more):
        await lives(client)


async def test_health_checks_and_slow_start_of_backends_that_are_found(
    start_gateway: StartGateway, backends: Backends, tmp_path: Path
) -> None:
    """One that is there at the start gets its share at once, one that comes later grows into it."""
    static, one, two = await backends.echo(), await backends.echo(), await backends.echo()
    targets = tmp_path / "targets.json"
    write_targets(targets, [one.address])
    config = config_of({"file": str(targets)})
    config["upstreams"]["chat"] |= {
        "backends": [static.address],
        "slow_start": "10m",
        "health_check": {"tcp": True, "every": "200ms", "unhealthy_after": 1},
    }
    gateway = await start_gateway(config)
    await clients_of(gateway, 10)
    assert (static.open, one.open) == (5, 5)
    dead = f"127.0.0.1:{free_port()}"
    gateway.tolerate("is down")
    write_targets(targets, [one.address, two.address, dead])
    await found(gateway, static.address, one.address, two.address, dead)
    await gateway.until(
        lambda s: (
            s.value("gateway_backend_up", backend=dead) == 0 and s.value("gateway_backend_up", backend=two.address) == 1
        ),
        "the checks",
    )
    await clients_of(gateway, 10)
    assert two.open <= 1
    await gateway.until(lambda s: s.value("gateway_backend_connect_errors_total") == 0, "no request for what is down")
