"""Descriptors run out: those who come too many are told so, the others notice nothing."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.support.deadline import eventually, quiet_for
from tests.support.frames import TEXT, frame, from_client
from tests.support.gateway import Gateway, to_one
from tests.support.memory import open_descriptors
from tests.support.raw import Connection, handshake, request

from .upgrades import fails, upgrade

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT = 160
SHORT = "short of descriptors|cannot accept connections"


async def echoes(client: Connection) -> None:
    await client.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))


async def fill(gateway: Gateway, open_connection: Open) -> tuple[list[Connection], int]:
    """Open tunnels until one is refused: those that are open, and how many they are.

    The one that is refused has to be told why.
    """
    gateway.tolerate(SHORT)
    found: list[Connection] = []
    while True:
        client = await open_connection(gateway)
        await client.send(handshake("/"))
        head = await client.head()
        if head.status != 101:
            assert head.status == 503
            assert b"short of descriptors" in await client.rest()
            await client.close()
            return found, len(found)
        found.append(client)


async def exhaust(gateway: Gateway, open_connection: Open) -> tuple[int, list[Connection]]:
    """Take all of the only worker's descriptors with connections that say nothing; its pid, and the connections."""
    (pid,) = await gateway.worker_pids()
    gateway.tolerate(SHORT)
    silent = [await open_connection(gateway) for _ in range(LIMIT)]
    await eventually(lambda: open_descriptors(pid) >= LIMIT, "the worker to have no descriptor left")
    return pid, silent


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_tunnels_beyond_the_limit_are_refused(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address), descriptors=LIMIT)
    await gateway.stderr.containing("room for 70 tunnels: descriptors are limited to 160 per process")
    assert not any("WARNING" in line for line in gateway.stderr.lines)
    assert (await gateway.api("status"))["max_tunnels"] == 70
    before = await gateway.scrape()
    clients, count = await fill(gateway, open_connection)
    assert 50 <= count <= 70
    for _ in range(20):
        more, number = await fill(gateway, open_connection)
        clients += more
        count += number
    assert count <= 75
    await gateway.counts(before, "gateway_handshakes_total", 21, result="unavailable")
    record = await gateway.logged(event="handshake", result="unavailable")
    assert (record["status"], record["reason"]) == (503, "this gateway is short of descriptors")
    assert sum("short of descriptors" in line for line in gateway.stderr.lines) <= 3
    for client in clients:
        await echoes(client)
    for client in clients[:10]:
        await client.close()
    await gateway.tunnels(count - 10)
    again, count = await fill(gateway, open_connection)
    assert 8 <= count <= 12
    for client in again:
        await echoes(client)


@pytest.mark.either_build
async def test_a_number_that_does_not_fit_is_warned_of(start_gateway: StartGateway, backends: Backends) -> None:
    echo = await backends.echo()
    gateway = await start_gateway({"max_tunnels": 71, **to_one(echo.address)}, descriptors=LIMIT)
    await gateway.stderr.containing("limited to 160 per process, but max_tunnels is 71: 70 tunnels can be open")
    assert (await gateway.api("status"))["max_tunnels"] == 71


@pytest.mark.either_build
async def test_auto_stays_what_it_was_at_the_start(start_gateway: StartGateway, backends: Backends) -> None:
    """A reload may write the number that auto came to; an upgrade keeps it, though the limit has changed meanwhile."""
    echo = await backends.echo()
    config = to_one(echo.address)
    gateway = await start_gateway(config, descriptors=LIMIT)

    async def room() -> int:
        found: int = (await gateway.api("status"))["max_tunnels"]
        return found

    for written in (70, "auto"):
        gateway.write({"max_tunnels": written, **config})
        await gateway.reload()
        assert "reloaded" in gateway.stderr.lines[-1]
    gateway.tolerate("reload failed")
    gateway.write({"max_tunnels": 71, **config})
    await gateway.reload()
    await gateway.stderr.containing("max_tunnels cannot change while the gateway runs: restart it")
    await fails(gateway, "max_tunnels cannot change in an upgrade")
    gateway.write({"max_tunnels": "auto", **config})
    resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (LIMIT - 20, LIMIT - 20))
    await upgrade(gateway)
    assert await room() == 70
    gateway.write({"max_tunnels": 70, **config})
    await upgrade(gateway)
    assert await room() == 70


async def test_connections_that_say_nothing_take_the_last_descriptor(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    """Nobody is refused: connections wait for those that are late to be closed. Nothing spins meanwhile."""
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address, timeouts={"request_head": "5s"}), descriptors=LIMIT)
    client = await open_connection(gateway)
    await client.send(handshake("/"))
    assert (await client.head()).status == 101
    pid, _ = await exhaust(gateway, open_connection)
    before = cpu_seconds(pid)
    await quiet_for(1)  # the time in which it must not spin
    assert cpu_seconds(pid) - before < 0.3
    await echoes(client)
    late = await open_connection(gateway)
    await late.send(handshake("/"))
    assert (await late.head(20)).status == 101
    await echoes(late)
    await echoes(client)
    assert sum("cannot accept" in line for line in gateway.stderr.lines) <= 3


async def test_a_request_that_comes_before_plain_http_is_imported(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    """Modules are files."""
    web = await backends.web()
    gateway = await start_gateway(to_one(web.address, timeouts={"request_head": "5m"}), descriptors=LIMIT)
    tunnel = await open_connection(gateway)  # what is counted is in files, too: they are open from now on
    await tunnel.send(handshake("/tunnel/ws"))
    assert (await tunnel.head()).status == 101
    early = await open_connection(gateway)
    await early.send(request("/")[:-2])
    _, silent = await exhaust(gateway, open_connection)
    await early.send(b"\r\n")
    answer = await early.answer()
    assert (answer.status, answer.text) == (503, "503 Service Unavailable: this gateway is short of descriptors\n")
    for connection in silent:
        await connection.close()
    later = await open_connection(gateway)
    await later.send(request("/"))
    assert (await later.answer()).status == 200


async def test_requests_that_need_one_more_descriptor(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    """Plain HTTP, and an upgrade behind it on the same connection."""
    scripted = await backends.scripted()
    scripted.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
    gateway = await start_gateway(to_one(scripted.address), descriptors=LIMIT)
    clients = [await open_connection(gateway) for _ in range(2)]
    for client in clients:
        await client.send(request("/"))
        assert (await client.answer()).body == b"ok"
    _, silent = await exhaust(gateway, open_connection)
    await clients[0].send(request("/"))
    answer = await clients[0].answer()
    assert (answer.status, answer.text) == (503, "503 Service Unavailable: this gateway is short of descriptors\n")
    await clients[1].send(handshake("/"))
    answer = await clients[1].answer()
    assert (answer.status, answer.text) == (503, "503 Service Unavailable: this gateway is short of descriptors\n")
    for connection in silent:
        await connection.close()

    async def is_served() -> bool:
        await clients[0].send(request("/"))
        return (await clients[0].answer()).body == b"ok"

    await eventually(is_served, "the gateway to see that they are closed")


async def test_a_supervisor_that_cannot_keep_them_all(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    """Two workers have more tunnels than it has descriptors for: some of a dead one's are lost, and it is replaced."""
    echo = await backends.echo()
    gateway = await start_gateway({"workers": 2, "max_tunnels": 1000, **to_one(echo.address)}, descriptors=LIMIT)
    clients, count = await fill(gateway, open_connection)
    await gateway.stderr.containing("the supervisor is short of descriptors")
    assert open_descriptors(gateway.process.pid) < LIMIT
    tunnels = {worker["index"]: worker["tunnels"] for worker in (await gateway.api("status"))["workers"]}
    assert sum(tunnels.values()) == count > 80
    adopted = lost = 0
    for index in range(2):
        start = len(gateway.stderr.lines)
        await gateway.kill_worker(index)
        line = await gateway.stderr.containing("took over ", start)
        words = line.split()
        adopted += int(words[words.index("over") + 1])
        lost += int(words[words.index("lost") + 1])
    assert adopted + lost == count
    assert 30 < adopted < LIMIT / 2
    await gateway.tunnels(adopted)
    alive = 0
    for client in clients:
        try:
            await echoes(client)
            alive += 1
        except (AssertionError, ConnectionError):
            assert await client.ends() == b""
    assert alive == adopted
    _, more = await fill(gateway, open_connection)
    assert more > 0
