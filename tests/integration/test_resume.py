"""The supervisor is killed, and a service manager that kept descriptors starts it again: every clean tunnel goes on.

400 idle tunnels, 30 busy ones and three kills here; 4,000, 100 and ten with ``GATEWAY_SOAK=1 pytest -m soak``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from pathlib import Path

import pytest

from gateway.observe.ends import tunnel_id
from gateway.tunnels.table.layout import DIRTY, ID
from gateway.tunnels.table.table import Table
from tests.support.deadline import DEADLINE_SECONDS, SOAK, eventually, quiet_for, turn
from tests.support.gateway import NO_PINGS, to_one
from tests.support.numbered import Play, Tunnel, all_complete, get_busy

from .services import Counters, MakeService
from .upgrades import UPGRADE_SECONDS, of, upgrade

pytestmark = pytest.mark.asyncio(loop_scope="module")

IDLE, BUSY, KILLS = (4000, 100, 10) if SOAK else (250, 20, 2)


def clean_and_dirty(table: Table) -> tuple[set[str], set[str]]:
    """Ids of tunnels that are clean, and of those that are not."""
    cells = table.cells
    dirty = {tunnel_id(cells[row + ID]) for row in table.rows() if cells[row + DIRTY]}
    return {tunnel_id(cells[row + ID]) for row in table.rows()} - dirty, dirty


class Visitors:
    """Open one tunnel after another as long as they are there; who connects is never refused."""

    def __init__(self, play: Play, address: str) -> None:
        self._play = play
        self._address = address
        self.opened: list[Tunnel] = []
        self.cut = 0
        self.refused: list[OSError] = []
        self._task = asyncio.create_task(self._visit())

    async def _visit(self) -> None:
        while True:
            try:
                self.opened.append(await self._play.open(self._address, seconds=4 * DEADLINE_SECONDS))
            except ConnectionRefusedError as error:
                self.refused.append(error)
            except ConnectionError:
                self.cut += 1  # in a handshake when the supervisor died
            await quiet_for(0.01)

    async def leave(self) -> list[Tunnel]:
        """End the visits; tunnels that were opened."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        assert not self.refused
        return self.opened


@pytest.mark.soak
@pytest.mark.timeout(900 if SOAK else 300)
async def test_tunnels_outlive_the_supervisor(make_service: MakeService, play: Play) -> None:
    service = make_service()
    gateway = await service.start({"workers": 2, **NO_PINGS, **to_one(play.address)})
    counters = Counters()
    idle = await play.open_many(gateway.address, IDLE)
    busy = await play.open_many(gateway.address, BUSY)
    # An end that waits for room would not notice the end of its tunnel while the service manager has the connection.
    get_busy(busy, stalling=False)
    adopted = 0
    lost: set[str] = set()
    for _ in range(KILLS):
        marks = {tunnel: tunnel.progress for tunnel in busy}
        await eventually(lambda marks=marks: all(t.progress >= mark + 5 for t, mark in marks.items()), "traffic")
        await service.stored(IDLE + len(busy))
        await counters.look(gateway)
        await service.die()
        table = service.table()
        clean, dirty = clean_and_dirty(table)
        table.close()
        assert len(clean) >= IDLE
        adopted += len(clean)
        lost |= dirty
        gateway = await service.start()
        for tunnel in busy:
            tunnel.rest()  # a slow end would take its time to read what was sent before
        await eventually(lambda those=busy, dirty=dirty: sum(t.gone for t in those) == len(dirty), "those lost to end")
        assert sum(not tunnel.lives for tunnel in busy) == len(dirty)
        busy = [tunnel for tunnel in busy if tunnel.lives]
        get_busy(busy, stalling=False)
        scrape = await counters.look(gateway)
        assert scrape.value("gateway_tunnels_adopted_total") == adopted
        assert scrape.value("gateway_tunnels") == len(clean)
        for tunnel in (*busy, *idle):
            tunnel.check()
    for tunnel in busy:
        tunnel.rest()
    for tunnel in idle:
        tunnel.say()
    await all_complete((*idle, *busy))
    scrape = await gateway.until(
        lambda now: now.value("gateway_tunnels_closed_total", cause="worker_lost") == len(lost), "losses to be counted"
    )
    assert scrape.value("gateway_handshakes_total", result="upgraded") == IDLE + BUSY
    assert scrape.value("gateway_worker_restarts_total") == 0
    for tunnel in (*idle, *busy):
        tunnel.ends[0].transport.close()
    await gateway.tunnels(0)
    await counters.look(gateway)


@pytest.mark.either_build
@pytest.mark.timeout(300)
async def test_who_connects_meanwhile_waits(make_service: MakeService, play: Play) -> None:
    """Supervisor and workers are gone for as long as the test likes, and nobody is refused."""
    service = make_service()
    gateway = await service.start({"workers": 2, **NO_PINGS, **to_one(play.address)})
    visitors = Visitors(play, gateway.address)
    for _ in range(2):
        count = len(visitors.opened) + 5
        await eventually(lambda count=count: len(visitors.opened) >= count, "visitors")
        await service.die()
        waiting = [asyncio.create_task(play.open(gateway.address, seconds=4 * DEADLINE_SECONDS)) for _ in range(10)]
        await turn()
        gateway = await service.start()
        for tunnel in await asyncio.gather(*waiting):
            tunnel.say()
            await all_complete([tunnel])
    await visitors.leave()


@pytest.mark.either_build
async def test_a_kill_right_after(make_service: MakeService, play: Play) -> None:
    """The next supervisor is killed as soon as it runs, at whatever it is about; the one after it has all tunnels."""
    service = make_service()
    gateway = await service.start({"workers": 2, **NO_PINGS, **to_one(play.address)})
    tunnels = await play.open_many(gateway.address, 200)
    await service.stored(200)
    await service.die()
    for said in ("resumed after", "gateway .* configuration", "took over ", "ready: "):
        gateway = await service.start(ready=False)
        await gateway.stderr.first(
            lambda line, said=said: line if re.search(said, line) else None, f"a line with {said}"
        )
        await service.die()
        assert all(tunnel.lives for tunnel in tunnels)
    gateway = await service.start()
    for tunnel in tunnels:
        tunnel.say()
    await all_complete(tunnels)
    scrape = await gateway.tunnels(200)
    assert scrape.value("gateway_tunnels_closed_total") == 0


@pytest.mark.either_build
async def test_a_supervisor_waits_for_workers_that_are_still_there(make_service: MakeService, play: Play) -> None:
    """Started while a worker still runs, it does nothing before that has handed back its tunnels."""
    service = make_service()
    gateway = await service.start({**NO_PINGS, **to_one(play.address)})
    tunnels = await play.open_many(gateway.address, 50)
    await service.stored(50)
    (worker,) = service.processes
    os.kill(worker, signal.SIGSTOP)
    await service.kill()
    successor = await service.start(ready=False)
    for tunnel in tunnels:
        tunnel.say()
    with pytest.raises(AssertionError, match="waited"):
        await successor.stderr.containing("resumed after", seconds=1)
    os.kill(worker, signal.SIGCONT)
    await successor.stderr.containing("ready: ")
    await gateway.exits(-signal.SIGKILL)
    await all_complete(tunnels)


@pytest.mark.either_build
async def test_a_worker_that_does_not_go_is_killed(make_service: MakeService, play: Play, program: Path) -> None:
    file = program / "processes" / "resumption.py"
    file.write_text(re.sub(r"PATIENCE_SECONDS = [\d.]+", "PATIENCE_SECONDS = 0.5", file.read_text()))
    service = make_service(env=of(program))
    gateway = await service.start({**NO_PINGS, **to_one(play.address)})
    tunnels = await play.open_many(gateway.address, 50)
    await service.stored(50)
    (worker,) = service.processes
    os.kill(worker, signal.SIGSTOP)
    await service.kill()
    successor = await service.start(ready=False)
    successor.tolerate("killing .* of the previous supervisor, still running after 0.5 s")
    await successor.stderr.containing("ready: ")
    await gateway.exits(-signal.SIGKILL)
    for tunnel in tunnels:
        tunnel.say()
    await all_complete(tunnels)


@pytest.mark.timeout(300)
@pytest.mark.either_build
@pytest.mark.parametrize("when", ["switching to it now", "gateway .* configuration", "upgraded from"])
async def test_a_kill_in_an_upgrade(make_service: MakeService, play: Play, when: str) -> None:
    """Tunnels are in one worker, in the other, or between them; afterwards each is in one, and none is lost."""
    service = make_service()
    gateway = await service.start({"workers": 2, **NO_PINGS, **to_one(play.address)})
    tunnels = await play.open_many(gateway.address, 300)
    await service.stored(300)
    start = len(gateway.stderr.lines)
    gateway.process.signal(signal.SIGUSR2)
    await gateway.stderr.first(
        lambda line: line if re.search(when, line) else None, "the upgrade", start, seconds=UPGRADE_SECONDS
    )
    await service.die()
    assert all(tunnel.lives for tunnel in tunnels)
    gateway = await service.start()
    for tunnel in tunnels:
        tunnel.say()
    await all_complete(tunnels)
    scrape = await gateway.tunnels(300)
    assert scrape.value("gateway_tunnels_closed_total") == 0
    assert len((await gateway.api("status"))["workers"]) == 2
    await upgrade(gateway)  # whatever slots its workers run in
    for tunnel in tunnels:
        tunnel.say()
    await all_complete(tunnels)


@pytest.mark.either_build
async def test_a_death_in_a_drain_does_not_stop_it(make_service: MakeService, play: Play) -> None:
    service = make_service()
    config = to_one(play.address, drain={"period": "2s"}, timeouts={"close": "500ms"})
    gateway = await service.start({**NO_PINGS, **config})
    tunnels = await play.open_many(gateway.address, 10)
    await service.stored(10)
    gateway.term()
    await gateway.stderr.containing("draining 10 tunnels")
    await service.kill()
    await gateway.exits(-signal.SIGKILL)
    await eventually(lambda: all(tunnel.gone for tunnel in tunnels), "all ends")
    gateway = await service.start()
    await gateway.tunnels(0)
    (fresh,) = await play.open_many(gateway.address, 1)
    fresh.say()
    await all_complete([fresh])
