"""Workers are killed under traffic: tunnels live on, but for those of which the worker had bytes in its hands.

400 idle tunnels, 30 busy ones and three kills here; 4,000, 100 and ten with ``GATEWAY_SOAK=1 pytest -m soak``.
"""

from __future__ import annotations

import os
import signal

import pytest

from gateway.observe.ends import tunnel_id
from gateway.tunnels.table.layout import DIRTY, ID, PENDING, SIDE_0, SIDE_CELLS, W_PID
from gateway.tunnels.table.table import Table
from tests.conftest import Backends, Open, StartGateway
from tests.support.deadline import DEADLINE_SECONDS, SOAK, eventually
from tests.support.frames import CLOSE, close, from_client, read_frame
from tests.support.gateway import Gateway, to_one
from tests.support.memory import open_descriptors
from tests.support.numbered import Play, Tunnel, get_busy
from tests.support.process import children, gone
from tests.support.raw import handshake
from tests.support.rest import stop_at_rest, table_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

IDLE, BUSY, KILLS = (4000, 100, 10) if SOAK else (250, 20, 3)
PING_AFTER = "10s" if SOAK else "1s"


async def kill(gateway: Gateway, table: Table, slot: int) -> tuple[set[str], set[str]]:
    """Kill a worker, and see it replaced: ids of tunnels that were clean when it died, and of those that were not."""
    gateway.process.signal(signal.SIGSTOP)  # so that the rows are not touched by a successor before they are read
    try:
        pid = table.cells[table.worker(slot) + W_PID]
        gateway.tolerate("worker .* was killed by SIGKILL")
        os.kill(pid, signal.SIGKILL)
        await gone(pid)
        dirty = {tunnel_id(table.cells[row + ID]) for row in table.rows(slot) if table.cells[row + DIRTY]}
        clean = {tunnel_id(table.cells[row + ID]) for row in table.rows(slot)} - dirty
    finally:
        gateway.process.signal(signal.SIGCONT)
    await gateway.replaced(pid, table.index_of(slot))
    return clean, dirty


def stalled(table: Table) -> bool:
    """Whether the worker of a tunnel holds bytes that an end does not take yet."""
    sides = (SIDE_0 + PENDING, SIDE_0 + SIDE_CELLS + PENDING)
    return any(table.cells[row + side] for row in table.rows() for side in sides)


@pytest.mark.soak
@pytest.mark.timeout(600 if SOAK else 300)
async def test_tunnels_outlive_their_worker(start_gateway: StartGateway, play: Play) -> None:
    keepalive = {side: {"ping_after": PING_AFTER} for side in ("client", "backend")}
    gateway = await start_gateway({"workers": 2, **to_one(play.address, keepalive=keepalive)})
    table = table_of(gateway.process.pid)
    await gateway.api("status")  # over a connection that is kept alive
    descriptors = open_descriptors(gateway.process.pid)
    idle = await play.open_many(gateway.address, IDLE)
    busy = await play.open_many(gateway.address, BUSY)
    get_busy(busy)
    adopted = 0
    lost: set[str] = set()
    for n in range(KILLS):  # a worker of each slot, so that one of them has a stalled tunnel
        marks = {tunnel: tunnel.progress for tunnel in busy}
        await eventually(lambda marks=marks: all(t.progress >= mark + 5 for t, mark in marks.items()), "traffic")
        await eventually(lambda: stalled(table), "a tunnel to be stalled")
        clean, dirty = await kill(gateway, table, n % 2)
        adopted += len(clean)
        lost |= dirty
        await gateway.stderr.containing(f"took over {len(clean)} tunnels; lost {len(dirty)} ")
        records = await until_lost(gateway, lost)
        assert {record["id"] for record in records} == lost
        # Those may be idle ones, too, if the worker had just read their Pongs.
        paths = {record["path"] for record in records}
        ended = {tunnel for tunnel in (*idle, *busy) if f"/{tunnel.ends[0].tunnel}" in paths}
        assert len(ended) == len(dirty)
        for tunnel in ended:
            tunnel.rest()  # a slow end would take its time to read what was sent before
        await eventually(lambda those=ended: all(tunnel.gone for tunnel in those), "those lost to end")
        assert {tunnel for tunnel in (*idle, *busy) if not tunnel.lives} == ended
        for tunnel in (*busy, *idle):
            tunnel.check()
        idle = [tunnel for tunnel in idle if tunnel.lives]
        busy = [tunnel for tunnel in busy if tunnel.lives]
        idle += await play.open_many(gateway.address, IDLE - len(idle))
        fresh = await play.open_many(gateway.address, BUSY - len(busy))
        get_busy(fresh)
        busy += fresh
    assert lost, "no tunnel was ever stalled"
    for tunnel in busy:
        tunnel.rest()
    for tunnel in idle:
        assert tunnel.lives
        tunnel.say()
    await eventually(lambda: all(tunnel.complete for tunnel in (*idle, *busy)), "everything to arrive")
    for tunnel in (*idle, *busy):
        assert tunnel.lives
        tunnel.check()
    for side in range(2):
        await eventually(lambda side=side: sum(tunnel.ends[side].pings for tunnel in idle) > 0, "Pings")
    scrape = await gateway.tunnels(IDLE + BUSY)
    assert scrape.value("gateway_tunnels_adopted_total") == adopted >= KILLS * IDLE / 4
    assert scrape.value("gateway_tunnels_closed_total", cause="worker_lost") == len(lost)
    assert scrape.value("gateway_worker_restarts_total") == KILLS
    for tunnel in (*idle, *busy):
        tunnel.ends[0].transport.close()
    await gateway.tunnels(0)
    pid = gateway.process.pid
    await eventually(lambda: open_descriptors(pid) <= descriptors, "the supervisor to let go of all connections")
    table.close()


async def until_lost(gateway: Gateway, lost: set[str]) -> list[dict[str, object]]:
    """Wait until the log tells of so many lost tunnels; its records."""
    await eventually(
        lambda: len(gateway.log_records(event="tunnel_end", cause="worker_lost")) >= len(lost),
        f"{len(lost)} lines about tunnels that were lost",
    )
    return gateway.log_records(event="tunnel_end", cause="worker_lost")


# --- one at a time ----------------------------------------------------------------------------------------------------


async def test_what_is_lost_is_told_of(start_gateway: StartGateway, play: Play) -> None:
    """A client does not read, so the worker has bytes for it when it dies."""
    gateway = await start_gateway(to_one(play.address))
    table = table_of(gateway.process.pid)
    tunnel = await play.open(gateway.address)
    client, backend = tunnel.ends
    client.say()
    await eventually(lambda: backend.received, "a message")
    client.transport.pause_reading()
    backend.be_busy(0)
    await eventually(lambda: any(table.cells[row + DIRTY] for row in table.rows()), "the tunnel to be stalled")
    before = await gateway.scrape()
    clean, dirty = await kill(gateway, table, 0)
    assert (len(clean), len(dirty)) == (0, 1)
    client.transport.resume_reading()
    await eventually(lambda: tunnel.gone, "both ends")
    tunnel.check()
    assert 0 < client.received_bytes < backend.sent_bytes
    labels = {"route": "all", "initiator": "gateway", "cause": "worker_lost"}
    await gateway.counts(before, "gateway_tunnels_closed_total", **labels)
    await gateway.tunnels(0)
    record = await gateway.logged(event="tunnel_end")
    assert {record["id"]} == dirty
    assert (record["initiator"], record["cause"], record["client_frames"]) == ("gateway", "worker_lost", 1)
    table.close()


@pytest.mark.parametrize("side", [0, 1], ids=["client", "backend"])
async def test_an_end_that_went_away_meanwhile_is_noticed(start_gateway: StartGateway, play: Play, side: int) -> None:
    gateway = await start_gateway(to_one(play.address))
    tunnels = await open_and_store(gateway, play, 20)
    gateway.process.signal(signal.SIGSTOP)
    try:
        await gone_for_good(gateway)
        for tunnel in tunnels[:10]:
            tunnel.ends[side].transport.abort()
        for tunnel in tunnels[10:]:
            tunnel.ends[side].say()
    finally:
        gateway.process.signal(signal.SIGCONT)
    await eventually(lambda: all(tunnel.gone for tunnel in tunnels[:10]), "the other ends")
    await eventually(lambda: all(tunnel.complete for tunnel in tunnels[10:]), "the messages")
    await gateway.tunnels(10)
    initiator = ("client", "backend")[side]
    await eventually(lambda: len(gateway.log_records(event="tunnel_end")) == 10, "lines about their ends")
    assert {record["initiator"] for record in gateway.log_records(event="tunnel_end")} == {initiator}


@pytest.mark.either_build
async def test_a_worker_that_hangs_is_replaced(start_gateway: StartGateway, play: Play) -> None:
    gateway = await start_gateway({"workers": 2, **to_one(play.address)})
    tunnels = await open_and_store(gateway, play, 40)
    pids = await gateway.worker_pids()
    gateway.tolerate("worker 0 .* (hangs; killing it|was killed by SIGKILL)")
    await stop_at_rest(gateway.process.pid, pids[0])
    for tunnel in tunnels:
        tunnel.say()
    await gateway.stderr.containing("hangs; killing it", seconds=4 * DEADLINE_SECONDS)
    await eventually(lambda: all(tunnel.complete for tunnel in tunnels), "the messages")
    assert all(tunnel.lives for tunnel in tunnels)
    assert pids[0] not in await gateway.worker_pids()
    assert pids[1] in await gateway.worker_pids()


async def open_and_store(gateway: Gateway, play: Play, count: int) -> list[Tunnel]:
    """Open tunnels, and wait until the supervisor has their connections too."""
    before = open_descriptors(gateway.process.pid)
    tunnels = await play.open_many(gateway.address, count)
    await eventually(lambda: open_descriptors(gateway.process.pid) >= before + 2 * count, "all of them to be in store")
    return tunnels


async def gone_for_good(gateway: Gateway) -> None:
    """Kill the only worker of a gateway whose supervisor is stopped."""
    (pid,) = (int(child) for child in children(gateway.process.pid))
    gateway.tolerate("worker .* was killed by SIGKILL")
    await stop_at_rest(gateway.process.pid, pid)
    os.kill(pid, signal.SIGKILL)
    await gone(pid)


@pytest.mark.either_build
async def test_a_drain_goes_on_with_the_next_worker(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address, drain={"period": "3s"}))
    before = open_descriptors(gateway.process.pid)
    clients = [await open_connection(gateway) for _ in range(30)]
    for client in clients:
        await client.send(handshake("/"))
        assert (await client.head()).status == 101
    await eventually(lambda: open_descriptors(gateway.process.pid) >= before + 60, "all of them to be in store")
    gateway.term()
    assert await read_frame(clients[0]) == (CLOSE, close(1012))
    await gateway.kill_worker(in_store=True)
    for client in clients[1:]:
        assert await read_frame(client) == (CLOSE, close(1012))
    for client in clients:
        await client.send(from_client(CLOSE, close(1012)))
        assert await client.ends() == b""
    await gateway.exits(0)
    ends = gateway.log_records(event="tunnel_end")
    assert {(record["initiator"], record["cause"]) for record in ends} == {("gateway", "drain")}
    assert len(ends) == 30
