"""The program is upgraded under traffic: every tunnel goes on, and every byte of it comes once and in order.

400 idle tunnels, 30 busy ones and two upgrades here; 4,000, 100 and five with ``GATEWAY_SOAK=1 pytest -m soak``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time

import aiohttp
import pytest

from gateway.tunnels.table.layout import DIRTY, PENDING, SIDE_0, SIDE_CELLS
from tests.conftest import Backends, Open, StartGateway
from tests.support.deadline import SOAK, eventually, quiet_for, within
from tests.support.frames import BINARY, PING, PONG, TEXT, frame, from_client
from tests.support.gateway import NO_PINGS, command, to_one
from tests.support.memory import open_descriptors
from tests.support.numbered import Play, Tunnel, get_busy
from tests.support.pace import Pace
from tests.support.process import children, gone, is_alive
from tests.support.raw import handshake, switching
from tests.support.rest import table_of

from .upgrades import UPGRADE_SECONDS, status_of_upgrade, upgrade

pytestmark = pytest.mark.asyncio(loop_scope="module")

IDLE, BUSY, UPGRADES = (4000, 100, 5) if SOAK else (250, 20, 2)
PAUSE_SECONDS = 0.1


class Gaps:
    """The longest time that each tunnel has heard nothing, while it had something to hear all the time."""

    def __init__(self, tunnels: list[Tunnel]) -> None:
        self.longest = dict.fromkeys(tunnels, 0.0)
        self._task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        seen = {tunnel: (0, loop.time()) for tunnel in self.longest}
        looked = loop.time()
        while True:
            await quiet_for(0.005)
            now = loop.time()
            own = now - looked  # this process was busy itself
            looked = now
            for tunnel, (before, at) in seen.items():
                count = tunnel.ends[0].received_bytes + tunnel.ends[1].received_bytes
                if count != before:
                    seen[tunnel] = (count, now)
                else:
                    self.longest[tunnel] = max(self.longest[tunnel], now - at - own)

    def p99(self) -> float:
        """Of all tunnels; ends the looking."""
        self._task.cancel()
        return sorted(self.longest.values())[int(len(self.longest) * 0.99)]


@pytest.mark.soak
@pytest.mark.timeout(900 if SOAK else 300)
async def test_tunnels_go_on_through_upgrades(start_gateway: StartGateway, play: Play) -> None:
    gateway = await start_gateway({"workers": 2, **NO_PINGS, **to_one(play.address)})
    pid = gateway.process.pid
    idle = await play.open_many(gateway.address, IDLE)
    busy = await play.open_many(gateway.address, BUSY)
    get_busy(busy)
    pauses = []
    descriptors, memory = [], []
    for _ in range(UPGRADES):
        marks = {tunnel: tunnel.progress for tunnel in busy}
        await eventually(lambda marks=marks: all(t.progress >= mark + 5 for t, mark in marks.items()), "traffic")
        async with Pace() as pace:
            took = await upgrade(gateway)
        pauses.append(took / pace.slowdown)
        assert all(tunnel.lives for tunnel in (*idle, *busy))
        await eventually(lambda: len(children(pid)) == 2, "the old workers to be waited for")
        descriptors.append(open_descriptors(pid))
        memory.append(await gateway.memory())
    for tunnel in busy:
        tunnel.rest()
    for tunnel in idle:
        tunnel.say()
    await eventually(lambda: all(tunnel.complete for tunnel in (*idle, *busy)), "everything to arrive")
    for tunnel in (*idle, *busy):
        assert tunnel.lives
        tunnel.check()
    print(f"tunnels paused for {', '.join(f'{pause * 1000:.0f}' for pause in pauses)} ms at most")
    assert max(pauses) < PAUSE_SECONDS, pauses
    assert max(descriptors) - min(descriptors) <= 4, descriptors
    assert memory[-1] < 1.15 * memory[0], memory
    scrape = await gateway.tunnels(IDLE + BUSY)
    assert scrape.value("gateway_tunnels_adopted_total") == UPGRADES * (IDLE + BUSY)
    assert scrape.value("gateway_handshakes_total", result="upgraded") == IDLE + BUSY
    assert scrape.value("gateway_worker_restarts_total") == 0
    assert scrape.value("gateway_workers") == 2
    frames = sum(end.sent for tunnel in (*idle, *busy) for end in tunnel.ends)
    assert scrape.value("gateway_relayed_frames_total") == frames
    assert not gateway.log_records(event="tunnel_end")
    for tunnel in (*idle, *busy):
        tunnel.ends[0].transport.close()
    await gateway.tunnels(0)
    await eventually(lambda: len(gateway.log_records(event="tunnel_end")) == IDLE + BUSY, "a line about each end")
    assert {record["cause"] for record in gateway.log_records(event="tunnel_end")} == {"fin"}
    for worker in children(pid):
        await eventually(lambda worker=worker: open_descriptors(int(worker)) < 60, "connections to be closed")
    await eventually(lambda: open_descriptors(pid) < 60, "the supervisor to let go of all connections")


@pytest.mark.either_build
@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_a_busy_tunnel_pauses_for_a_moment_only(start_gateway: StartGateway, play: Play) -> None:
    gateway = await start_gateway({"workers": 2, **NO_PINGS, **to_one(play.address)})
    await play.open_many(gateway.address, IDLE)
    busy = await play.open_many(gateway.address, 2 * BUSY)
    for tunnel in busy:
        tunnel.be_busy(0.005)
    await eventually(lambda: all(tunnel.progress > 10 for tunnel in busy), "traffic")
    before = Gaps(busy)
    await quiet_for(3 if SOAK else 1)  # what the machine does to them anyway
    usual = before.p99()
    async with Pace() as pace:
        gaps = Gaps(busy)
        await upgrade(gateway)
        longest = gaps.p99()
    assert longest < usual + PAUSE_SECONDS * pace.slowdown
    for tunnel in busy:
        tunnel.rest()
    await eventually(lambda: all(tunnel.complete for tunnel in busy), "everything to arrive")


# --- what is under way ------------------------------------------------------------------------------------------------


async def test_a_message_that_is_half_relayed(start_gateway: StartGateway) -> None:
    """A header is cut in the middle, and a message of 32 MiB is under way; the client reads only afterwards."""
    large = frame(BINARY, os.urandom(32 * 1024 * 1024))
    play = await Play.start()
    try:
        gateway = await start_gateway({**NO_PINGS, **to_one(play.address)})
        table = table_of(gateway.process.pid)
        tunnel, cut = await play.open_many(gateway.address, 2)
        client, backend = tunnel.ends
        client.transport.pause_reading()
        backend.transport.write(large)
        await eventually(
            lambda: any(table.cells[row + SIDE_0 + PENDING] for row in table.rows()), "bytes to be pending"
        )
        assert any(table.cells[row + DIRTY] for row in table.rows())
        header = from_client(TEXT, b"x" * 300)
        received = bytearray()
        client.data_received = received.extend  # type: ignore[method-assign]
        got = bytearray()
        cut.ends[1].data_received = got.extend  # type: ignore[method-assign]
        cut.ends[0].transport.write(header[:3])
        await eventually(lambda: len(got) == 3, "a piece of a header")
        await upgrade(gateway)
        cut.ends[0].transport.write(header[3:])
        client.transport.resume_reading()
        await eventually(lambda: bytes(got) == header, "the rest of it")
        await eventually(lambda: len(received) == len(large), "the large message", UPGRADE_SECONDS)
        assert received == large
        scrape = await gateway.scrape()
        assert scrape.value("gateway_relayed_frames_total", opcode="text") == 1
        assert scrape.value("gateway_relayed_frames_total", opcode="binary") == 1
        for row in list(table.rows()):
            for side in range(2):
                assert table.cells[row + SIDE_0 + side * SIDE_CELLS + PENDING] == 0
        table.close()
    finally:
        await play.close()


async def test_pings_that_are_out(start_gateway: StartGateway, backends: Backends, open_connection: Open) -> None:
    """Their Pongs come to the new worker, and are not relayed."""
    echo = await backends.echo()
    keepalive = {"client": {"ping_after": "1s", "pong_timeout": "60s"}, "backend": "off"}
    gateway = await start_gateway({**to_one(echo.address), "keepalive": keepalive})
    clients = [await open_connection(gateway) for _ in range(20)]
    for client in clients:
        await client.send(handshake("/"))
        assert (await client.head()).status == 101
    pings = [await client.read(2) for client in clients]
    bodies = [await client.read(ping[1]) for client, ping in zip(clients, pings, strict=True)]
    assert {ping[0] for ping in pings} == {0x80 | PING}
    await upgrade(gateway)
    before = await gateway.scrape()
    for n, (client, body) in enumerate(zip(clients, bodies, strict=True)):
        await client.send(from_client(PONG, body) + from_client(TEXT, b"%d" % n))
    for n, client in enumerate(clients):
        text = frame(TEXT, b"%d" % n)
        assert await client.read(len(text)) == text
    await gateway.until(
        lambda now: now.value("gateway_keepalive_pongs_received_total", side="client") >= 20, "the Pongs to be counted"
    )
    assert before.value("gateway_keepalive_pings_sent_total", side="client") >= 20


@pytest.mark.either_build
async def test_requests_and_handshakes_in_flight(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    """The old worker finishes them, and hands over the tunnel that comes of a handshake."""
    slow = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await slow.wait()
        if b"upgrade" in head.lower():
            writer.write(switching())
            while data := await reader.read(1000):
                writer.write(frame(TEXT, b"%d" % len(data)))
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        writer.close()

    asked = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    gateway = await start_gateway({**NO_PINGS, **to_one(address)})
    (old,) = children(gateway.process.pid)
    plain = await open_connection(gateway)
    await plain.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await within(asked.wait(), "the request")
    asked.clear()
    tunnel = await open_connection(gateway)
    await tunnel.send(handshake("/"))
    await within(asked.wait(), "the handshake")
    since = time.time()
    gateway.process.signal(signal.SIGUSR2)
    assert (await status_of_upgrade(gateway, since))["ok"]
    assert is_alive(int(old))
    assert len((await gateway.api("status"))["workers"]) == 2
    slow.set()
    head = await plain.head()
    assert head.status == 200
    assert await plain.read(5) == b"hello"
    assert (await tunnel.head()).status == 101
    await gone(int(old))
    await tunnel.send(from_client(TEXT, b"still here"))
    answer = frame(TEXT, b"%d" % len(from_client(TEXT, b"still here")))
    assert await tunnel.read(len(answer)) == answer

    async def one_worker() -> bool:
        return len((await gateway.api("status"))["workers"]) == 1

    await eventually(one_worker, "the supervisor to have waited for it")
    server.close()
    await server.wait_closed()


# --- how it is asked for ----------------------------------------------------------------------------------------------


@pytest.mark.either_build
async def test_the_command_and_the_api(start_gateway: StartGateway, play: Play) -> None:
    gateway = await start_gateway({**NO_PINGS, **to_one(play.address)})
    (tunnel,) = await play.open_many(gateway.address, 1)
    old = children(gateway.process.pid)
    status, out, err = await command("upgrade", "-c", gateway.file, seconds=UPGRADE_SECONDS)
    assert (status, out, err) == (0, "upgraded", "")
    assert children(gateway.process.pid) != old
    async with aiohttp.ClientSession() as session, session.post(f"http://{gateway.admin}/api/v1/upgrade") as answer:
        assert answer.status == 200
        assert json.loads(await answer.text())["upgraded"] is True
    gateway.write(gateway.file.read_text() + "nonsense: 1\n")
    gateway.tolerate("upgrade failed")
    status, out, err = await command("upgrade", "-c", gateway.file, seconds=UPGRADE_SECONDS)
    assert (status, out) == (1, "")
    assert "nonsense" in err
    assert err.endswith("\nnot upgraded")
    tunnel.say()
    await eventually(lambda: tunnel.complete, "a message")


@pytest.mark.either_build
async def test_what_was_drained_and_learned_is_kept(start_gateway: StartGateway, play: Play) -> None:
    """A backend that was drained gets nothing new from the new program, too."""
    gateway = await start_gateway({**NO_PINGS, **to_one(play.address)})
    status, _, err = await command("drain", "--backend", play.address, "-c", gateway.file)
    assert status == 0, err
    await upgrade(gateway)
    connection = await gateway.connect()
    await connection.send(handshake("/"))
    assert (await connection.head()).status == 503
    await connection.close()


@pytest.mark.either_build
async def test_signals_that_come_meanwhile(start_gateway: StartGateway, play: Play) -> None:
    """They are served when the new program can; none of them ends it."""
    gateway = await start_gateway({**NO_PINGS, **to_one(play.address)})
    (tunnel,) = await play.open_many(gateway.address, 1)
    start, since = len(gateway.stderr.lines), time.time()
    gateway.process.signal(signal.SIGUSR2)
    upgrade_is_over = asyncio.create_task(status_of_upgrade(gateway, since))
    signals = 0
    while not upgrade_is_over.done():
        gateway.process.signal(signal.SIGHUP)
        gateway.process.signal(signal.SIGUSR1)
        signals += 1
        await quiet_for(0.05)
    assert (await upgrade_is_over)["ok"]
    assert signals >= 3
    await gateway.stderr.first(lambda line: line if "reloaded" in line else None, "a reload", start)
    assert tunnel.lives
