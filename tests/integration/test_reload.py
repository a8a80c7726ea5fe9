"""HUP: a right configuration takes effect for the next request, a wrong one changes nothing; tunnels never notice."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.support.deadline import SOAK, eventually, quiet_for, turn
from tests.support.frames import TEXT, frame, from_client
from tests.support.gateway import Gateway, command, route, to_one
from tests.support.memory import open_descriptors
from tests.support.ports import free_port
from tests.support.raw import Connection, connect, eventually_refuses, handshake, refuses, request

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.soak]

TUNNELS = 1000 if SOAK else 200
RELOADS, PAUSE_SECONDS = (200, 0.6) if SOAK else (12, 0.05)


async def test_a_changed_route_takes_effect_and_busy_tunnels_go_on(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    old, new = await backends.echo(), await backends.echo()
    upstreams = {"old": {"backends": [old.address]}, "new": {"backends": [new.address]}}
    config = {"upstreams": upstreams, "routes": [route("chat", "old", "/")]}
    gateway = await start_gateway({"workers": 2, **config})

    async def handshaken() -> Connection:
        client = await open_connection(gateway)
        await client.send(handshake("/"))
        assert (await client.head()).status == 101
        return client

    clients = [await handshaken() for _ in range(TUNNELS)]
    stop = asyncio.Event()
    rounds = [0] * TUNNELS

    async def keep_busy(index: int) -> None:
        while not stop.is_set():
            text = f"{index} {rounds[index]}".encode()
            await clients[index].echoes(from_client(TEXT, text), frame(TEXT, text))
            rounds[index] += 1

    busy = [asyncio.create_task(keep_busy(index)) for index in range(TUNNELS)]
    before = await gateway.scrape()
    gateway.write({**config, "routes": [route("chat", "new", "/"), route("more", "old")]})
    await gateway.reload()
    at_reload = list(rounds)
    client = await handshaken()
    assert (await gateway.logged(event="handshake", client=client.name))["backend"] == new.address
    await client.echoes(from_client(TEXT, b"new"), frame(TEXT, b"new"))
    while any(now < then + 2 for now, then in zip(rounds, at_reload, strict=True)):
        await turn()
        assert not any(task.done() for task in busy), "a tunnel was touched"
    stop.set()
    await asyncio.gather(*busy)

    scrape = await gateway.tunnels(TUNNELS, backend=old.address)
    assert scrape.value("gateway_tunnels", backend=new.address) == 1
    assert scrape.value("gateway_tunnels_closed_total") == 0
    assert scrape.value("gateway_config_last_reload_successful") == 1
    stamp = "gateway_config_last_reload_success_timestamp_seconds"
    assert scrape.value(stamp) > before.value(stamp)
    status = await gateway.api("status")
    assert [route["name"] for route in status["routes"]] == ["chat", "more"]
    assert all(worker["pid"] for worker in status["workers"])


@pytest.mark.either_build
async def test_a_broken_file_changes_nothing(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    web = await backends.web()
    config = {"upstreams": {"web": {"backends": [web.address]}}, "routes": [route("first", "web", "/")]}
    gateway = await start_gateway(config)
    gateway.tolerate("reload failed")
    stamp = "gateway_config_last_reload_success_timestamp_seconds"
    before = await gateway.scrape()
    assert before.value("gateway_config_last_reload_successful") == 1

    async def route_in_force() -> str:
        client = await open_connection(gateway)
        await client.send(request("/"))
        assert (await client.answer()).status == 200
        found: str = (await gateway.logged(event="http", client=client.name))["route"]
        return found

    breakages = {
        "routes: [": "YAML",
        "listen: []\nnonsense: 1\n": "nonsense",
        "": "listen",
    }
    for text, says in breakages.items():
        start = len(gateway.stderr.lines)
        gateway.write(text)
        await gateway.reload()
        await gateway.stderr.containing("reload failed", start)
        await gateway.stderr.containing(says, start)
        assert await route_in_force() == "first"
        scrape = await gateway.scrape()
        assert scrape.value("gateway_config_last_reload_successful") == 0
        assert scrape.value(stamp) == before.value(stamp)
        assert (await gateway.api("status"))["configuration"]["last_reload"]["ok"] is False

    gateway.write({**config, "routes": [route("second", "web", "/")]})
    await gateway.reload()
    assert await route_in_force() == "second"
    scrape = await gateway.scrape()
    assert scrape.value("gateway_config_last_reload_successful") == 1
    assert scrape.value(stamp) > before.value(stamp)


@pytest.mark.either_build
async def test_what_needs_a_restart_is_refused(start_gateway: StartGateway, backends: Backends) -> None:
    web = await backends.web()
    config = {"upstreams": {"web": {"backends": [web.address]}}, "routes": [route("first", "web", "/")]}
    gateway = await start_gateway(config)
    gateway.tolerate("reload failed")
    gateway.file.write_text(gateway.file.read_text().replace("workers: 1", "workers: 2"))
    await gateway.reload()
    await gateway.stderr.containing("workers cannot change while the gateway runs: restart it")
    assert (await gateway.scrape()).value("gateway_config_last_reload_successful") == 0


@pytest.mark.either_build
async def test_names_of_the_admin_address_change_and_its_address_does_not(
    start_gateway: StartGateway, backends: Backends
) -> None:
    web = await backends.web()
    config = to_one(web.address)
    gateway = await start_gateway(config)
    gateway.tolerate("admin: refused a request for host")
    name = {"Host": "gw.example.com:9100"}
    assert (await gateway.get("/metrics", name))[0] == 421
    gateway.write({**config, "admin": {"address": gateway.admin, "hosts": ["gw.example.com"]}})
    await gateway.reload()
    assert (await gateway.get("/metrics", name))[0] == 200
    gateway.write({**config, "admin": {"address": f"127.0.0.1:{free_port()}", "hosts": ["gw.example.com"]}})
    gateway.tolerate("reload failed")
    await gateway.reload()
    await gateway.stderr.containing("admin.address cannot change while the gateway runs: restart it")


@pytest.mark.either_build
async def test_a_worker_that_comes_after_a_reload_has_the_new_configuration(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    web = await backends.web()
    config = {"upstreams": {"web": {"backends": [web.address]}}, "routes": [route("first", "web", "/")]}
    gateway = await start_gateway(config)
    gateway.write({**config, "routes": [route("second", "web", "/")]})
    await gateway.reload()
    await gateway.kill_worker()
    client = await open_connection(gateway)
    await client.send(request("/"))
    assert (await client.answer()).status == 200
    assert (await gateway.logged(event="http", client=client.name))["route"] == "second"


@pytest.mark.either_build
async def test_time_outs_of_a_reload_are_for_new_tunnels(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    config = {"upstreams": {"echo": {"backends": [echo.address]}}, "routes": [route("all", "echo", "/")]}
    gateway = await start_gateway(config)
    old = await open_connection(gateway)
    await old.send(handshake("/old"))
    assert (await old.head()).status == 101
    gateway.write({**config, "timeouts": {"max_lifetime": "500ms", "close": "200ms"}})
    await gateway.reload()
    new = await open_connection(gateway)
    await new.send(handshake("/new"))
    assert (await new.head()).status == 101
    assert (await gateway.logged(event="tunnel_end", path="/new"))["cause"] == "max_lifetime"
    await old.echoes(from_client(TEXT, b"still here"), frame(TEXT, b"still here"))


# --- listeners --------------------------------------------------------------------------------------------------------


def listening(gateway: Gateway, *addresses: str, **more: object) -> None:
    """Put the gateway's configuration into its file, with other listeners."""
    gateway.write({**gateway.config, "listen": [{"address": address} for address in addresses], **more})


def local(port: int | None = None) -> str:
    return f"127.0.0.1:{port or free_port()}"


async def tunnel(open_connection: Open, address: str) -> Connection:
    client = await open_connection(address)
    await client.send(handshake("/"))
    assert (await client.head()).status == 101
    return client


@pytest.mark.either_build
async def test_trusted_proxies_of_a_reload_hold_for_kept_connections(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    scripted = await backends.scripted()
    scripted.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    gateway = await start_gateway(to_one(scripted.address))
    client = await open_connection(gateway)
    for trusted, forwarded in (([], "127.0.0.1"), (["127.0.0.0/8"], "203.0.113.7, 127.0.0.1"), ([], "127.0.0.1")):
        gateway.write({**to_one(scripted.address), "trusted_proxies": trusted})
        await gateway.reload()
        await client.send(request("/", "X-Forwarded-For: 203.0.113.7"))
        assert (await client.answer()).status == 200
        assert (await scripted.next_head()).value("X-Forwarded-For") == forwarded


@pytest.mark.either_build
async def test_listeners_come_and_go_and_their_tunnels_stay(
    start_gateway: StartGateway, backends: Backends, open_connection: Open, tmp_path: Path
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway({"workers": 2, **to_one(echo.address)})
    front = tmp_path / "front.sock"
    first, second, third = gateway.address, local(), f"unix:{front}"
    pids = await gateway.worker_pids()
    clients = [await tunnel(open_connection, first) for _ in range(6)]
    for addresses in ((first, second, third), (second,), (third,), (first,)):
        listening(gateway, *addresses)
        await gateway.reload()
        status = await gateway.api("status")
        assert (status["listen"], status["configuration"]["last_reload"]["ok"]) == (list(addresses), True)
        for address in (first, second, third):
            if address in addresses:
                clients += [await tunnel(open_connection, address) for _ in range(6)]
            else:
                await eventually_refuses(address)
        for number, client in enumerate(clients):
            text = str(number).encode()
            await client.echoes(from_client(TEXT, text), frame(TEXT, text))
    assert not front.exists()
    assert await gateway.worker_pids() == pids
    assert (await gateway.scrape()).value("gateway_tunnels_closed_total") == 0


@pytest.mark.either_build
async def test_an_address_that_is_part_of_the_one_before(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway({"workers": 2, **to_one(echo.address)})
    local_one = gateway.address
    port = local_one.rpartition(":")[2]
    for address in (f"0.0.0.0:{port}", local_one):
        listening(gateway, address)
        await gateway.reload()
        assert (await gateway.api("status"))["listen"] == [address]
        for _ in range(4):
            await tunnel(open_connection, local_one)


@pytest.mark.either_build
async def test_a_listener_that_cannot_be_opened_changes_nothing(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address))
    gateway.tolerate("reload failed")
    before, possible = gateway.address, local()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        impossible = local(taken.getsockname()[1])
        listening(gateway, possible, impossible)
        status, _, stderr = await command("reload", "-c", gateway.file)
    assert status == 1
    assert f"cannot listen on {impossible}: Address already in use" in stderr
    assert (await gateway.api("status"))["listen"] == [before]
    assert (await gateway.scrape()).value("gateway_config_last_reload_successful") == 0
    assert await refuses(possible)
    await tunnel(open_connection, before)

    status, stdout, _ = await command("reload", "-c", gateway.file)
    assert (status, stdout) == (0, "reloaded")
    await tunnel(open_connection, impossible)
    await tunnel(open_connection, possible)


@pytest.mark.either_build
async def test_a_reload_that_workers_cannot_put_in_force_leaves_the_listeners(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway({"workers": 2, **to_one(echo.address)})
    gateway.tolerate("reload failed")
    before, new = gateway.address, local()
    listening(gateway, new, access_log={"path": "/nowhere/at/all/access.log"})
    await gateway.reload()
    await eventually_refuses(new)
    assert (await gateway.api("status"))["listen"] == [before]
    await tunnel(open_connection, before)


@pytest.mark.either_build
async def test_a_worker_that_comes_after_a_reload_listens_where_the_others_do(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address))
    before, new = gateway.address, local()
    listening(gateway, new)
    await gateway.reload()
    await gateway.kill_worker()
    await tunnel(open_connection, new)
    await eventually_refuses(before)


@pytest.mark.either_build
async def test_nobody_who_waits_to_be_accepted_is_refused(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    """Connections to a listener go on being made while it is taken away: each that is made is served."""
    web = await backends.web()
    gateway = await start_gateway({"workers": 2, **to_one(web.address)})
    old, new = gateway.address, local()
    served = 0
    stop = asyncio.Event()

    async def keep_asking() -> None:
        nonlocal served
        while not stop.is_set():
            try:
                client = await connect(old)
            except (ConnectionRefusedError, ConnectionResetError):
                return  # it was not made: the socket is closed, or was while TCP shook hands
            await client.send(request("/"))
            assert (await client.answer()).status == 200
            await client.close()
            served += 1

    asking = [asyncio.create_task(keep_asking()) for _ in range(20)]
    await eventually(lambda: served >= 50, "connections")
    listening(gateway, new)
    await gateway.reload()
    await asyncio.gather(*asking)
    stop.set()
    assert served >= 50


# --- over and over ----------------------------------------------------------------------------------------------------


@pytest.mark.either_build
@pytest.mark.timeout(300 + 4 * RELOADS * PAUSE_SECONDS)
async def test_reload_after_reload_under_traffic(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    """A hundred a minute: no tunnel is lost, no connection refused, and memory is flat."""
    echo, other = await backends.echo(), await backends.echo()
    gateway = await start_gateway({"workers": 2, **to_one(echo.address)}, fresh=True)
    first, second = gateway.address, local()
    configs = [
        {
            "listen": [{"address": first}, *({"address": second} for _ in range(number % 2))],
            "upstreams": {"one": {"backends": [echo.address, other.address][: 1 + number % 2]}},
            "routes": [route(f"r{n}", "one", f"/{n}") for n in range(1 + number % 3)] + [route("all", "one", "/")],
            "timeouts": {"idle": f"{number % 3 + 1}h"},
        }
        for number in range(6)
    ]
    clients = [await tunnel(open_connection, first) for _ in range(40)]
    stop = asyncio.Event()
    rounds = [0] * len(clients)
    made = 0

    async def keep_busy(index: int) -> None:
        while not stop.is_set():
            text = f"{index} {rounds[index]}".encode() * 100
            await clients[index].echoes(from_client(TEXT, text), frame(TEXT, text))
            rounds[index] += 1
            await quiet_for(0.01)

    async def keep_coming() -> None:
        nonlocal made
        while not stop.is_set():
            client = await connect(first)
            await client.send(handshake("/1"))
            assert (await client.head()).status == 101
            await client.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))
            client.reset()
            await client.close()
            made += 1
            await quiet_for(0.01)

    busy = [asyncio.create_task(keep_busy(index)) for index in range(len(clients))]
    busy += [asyncio.create_task(keep_coming()) for _ in range(2)]
    memory = 0
    descriptors = 0
    for number in range(RELOADS):
        gateway.write({**configs[number % len(configs)], "access_log": "off"})
        await gateway.reload()
        assert not any(task.done() for task in busy), "a tunnel was touched"
        if number == RELOADS // 4:
            memory = await gateway.memory()
            descriptors = await descriptors_of(gateway)
        await quiet_for(PAUSE_SECONDS)
    at_the_end = list(rounds)
    await eventually(lambda: all(now > then for now, then in zip(rounds, at_the_end, strict=True)), "more rounds")
    stop.set()
    await asyncio.gather(*busy)
    assert made > RELOADS // 4
    await gateway.tunnels(len(clients))
    scrape = await gateway.until(lambda scrape: scrape.value("gateway_tunnels_closed_total") >= made, "every end")
    assert scrape.value("gateway_config_last_reload_successful") == 1
    assert scrape.value("gateway_handshakes_total", result="upgraded") == made + len(clients)
    assert scrape.value("gateway_tunnels_closed_total") == made
    assert scrape.value("gateway_tunnels_closed_total", initiator="client") == made
    grown = await gateway.memory() - memory
    assert grown < 3 * 2**20, f"{grown / 2**20:.1f} MiB more"
    assert await descriptors_of(gateway) <= descriptors + 8


async def descriptors_of(gateway: Gateway) -> int:
    """Of all its processes."""
    return sum(open_descriptors(pid) for pid in (gateway.process.pid, *await gateway.worker_pids()))
