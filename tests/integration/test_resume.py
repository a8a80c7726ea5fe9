"""The supervisor is killed, and a service manager that kept descriptors starts it again: every clean tunnel goes on.

400 idle tunnels, 30 busy ones and three kills here; 4,000, 100 and ten with ``GATEWAY_SOAK=1 pytest -m soak``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.observe.ends import tunnel_id
from gateway.tunnels.layout import DIRTY, H_KEPT, ID
from gateway.tunnels.table import Table
from tests.conftest import StartGateway
from tests.support.deadline import DEADLINE_SECONDS, SOAK, eventually
from tests.support.fdstore import DescriptorKeeper
from tests.support.frames import CLOSE, close, frame
from tests.support.gateway import COMMAND, Gateway, to_one
from tests.support.numbered import Play, Tunnel
from tests.support.ports import free_port
from tests.support.process import gone, run
from tests.support.raw import connect, handshake
from tests.support.scrape import Scrape

from .test_crash import children, get_busy
from .test_upgrade import NO_PINGS, UPGRADE_SECONDS, of, program, upgrade

__all__ = ["program"]  # a fixture

pytestmark = pytest.mark.asyncio(loop_scope="module")

IDLE, BUSY, KILLS = (4000, 100, 10) if SOAK else (400, 30, 3)
MOST = 64


@pytest_asyncio.fixture(loop_scope="module")
async def play() -> AsyncIterator[Play]:
    made = await Play.start()
    yield made
    await made.close()


class Service:
    """A gateway that is a service: whatever ends it, it can be started again with what was kept."""

    def __init__(self, start: StartGateway, keeper: DescriptorKeeper, env: Mapping[str, str]) -> None:
        self._start = start
        self._env = env
        self.keeper = keeper
        self.gateway: Gateway

    async def start(self, config: dict[str, Any] | None = None, ready: bool = True) -> Gateway:
        """Start it. :param config: a new one; the one that it had if absent"""
        options = self.keeper.start_options()
        options["env"] = {**options["env"], **self._env}
        self.gateway = await self._start(self.gateway.config if config is None else config, ready=ready, **options)
        return self.gateway

    @property
    def processes(self) -> list[int]:
        """Its workers."""
        return [int(child) for child in children(self.gateway.process.pid)]

    async def kill(self) -> None:
        """Kill the supervisor. ``gateway.exits`` is to follow: it waits for all who write to the same streams."""
        self.gateway.process.signal(signal.SIGKILL)
        await gone(self.gateway.process.pid)

    async def die(self) -> None:
        """Kill the supervisor, and see all processes gone."""
        workers = self.processes
        await self.kill()
        for pid in workers:
            await gone(pid)
        await self.gateway.exits(-signal.SIGKILL)

    def table(self) -> Table:
        """Its table, as the manager keeps it."""
        (fd,) = self.keeper.of_kind("table")
        return Table(os.dup(fd))

    async def stored(self, count: int) -> None:
        """Wait until the connections of so many tunnels are in the manager's store."""
        await eventually(lambda: self.keeper.tunnels() >= count, f"{count} tunnels in store")


MakeService = Callable[..., Service]


@pytest_asyncio.fixture(loop_scope="module")
async def keepers() -> AsyncIterator[list[DescriptorKeeper]]:
    """Service managers, which are there until the last gateway has ended."""
    made: list[DescriptorKeeper] = []
    yield made
    for keeper in made:
        keeper.close()


@pytest_asyncio.fixture(loop_scope="module")
async def make_service(keepers: list[DescriptorKeeper], start_gateway: StartGateway, tmp_path: Path) -> MakeService:
    def make(most: int = MOST, said: int | None = None, env: Mapping[str, str] | None = None) -> Service:
        keeper = DescriptorKeeper(tmp_path / f"notify-{len(keepers)}", most, said)
        keepers.append(keeper)
        runtime = tmp_path / f"run-{len(keepers)}"
        runtime.mkdir()
        return Service(start_gateway, keeper, {"RUNTIME_DIRECTORY": str(runtime), **(env or {})})

    return make


def clean_and_dirty(table: Table) -> tuple[set[str], set[str]]:
    """Ids of tunnels that are clean, and of those that are not."""
    cells = table.cells
    dirty = {tunnel_id(cells[row + ID]) for row in table.rows() if cells[row + DIRTY]}
    return {tunnel_id(cells[row + ID]) for row in table.rows()} - dirty, dirty


class Counters:
    """All counters, which never go down."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    async def look(self, gateway: Gateway) -> Scrape:
        scrape = await gateway.scrape()
        now = scrape.counters()
        assert now
        assert {key: (now.get(key), value) for key, value in self._before.items() if now.get(key, 0) < value} == {}
        self._before = now
        return scrape


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
            await asyncio.sleep(0.01)

    async def leave(self) -> list[Tunnel]:
        """End the visits; tunnels that were opened."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        assert not self.refused
        return self.opened


async def all_complete(tunnels: Iterable[Tunnel], what: str = "everything to arrive") -> None:
    await eventually(lambda: all(tunnel.complete for tunnel in tunnels), what)
    for tunnel in tunnels:
        assert tunnel.lives
        tunnel.check()


@pytest.mark.soak
@pytest.mark.timeout(900 if SOAK else 180)
async def test_tunnels_outlive_the_supervisor(make_service: MakeService, play: Play) -> None:
    service = make_service()
    gateway = await service.start({"workers": 2, **NO_PINGS, **to_one(play.address)})
    counters = Counters()
    idle = await play.open_many(gateway.address, IDLE)
    busy = await play.open_many(gateway.address, BUSY)
    get_busy(busy)
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
        await eventually(lambda those=busy, dirty=dirty: sum(t.gone for t in those) == len(dirty), "those lost to end")
        assert sum(not tunnel.lives for tunnel in busy) == len(dirty)
        busy = [tunnel for tunnel in busy if tunnel.lives]
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


@pytest.mark.timeout(120)
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
        await asyncio.sleep(0)
        gateway = await service.start()
        for tunnel in await asyncio.gather(*waiting):
            tunnel.say()
            await all_complete([tunnel])
    await visitors.leave()


async def test_a_kill_right_after(make_service: MakeService, play: Play) -> None:
    """The next supervisor is killed as soon as it runs, at whatever it is about; the one after it has all tunnels."""
    service = make_service()
    gateway = await service.start({"workers": 2, **NO_PINGS, **to_one(play.address)})
    tunnels = await play.open_many(gateway.address, 200)
    await service.stored(200)
    await service.die()
    for said in ("carries on", "gateway .* configuration", "of the worker before it live on", "ready: "):
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
        await successor.stderr.containing("carries on", seconds=1)
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
    successor.tolerate("still run after 0.5 s, and are killed")
    await successor.stderr.containing("ready: ")
    await gateway.exits(-signal.SIGKILL)
    for tunnel in tunnels:
        tunnel.say()
    await all_complete(tunnels)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "when",
    [
        pytest.param("becomes it now", marks=pytest.mark.either_build),
        pytest.param("gateway .* configuration", marks=pytest.mark.either_build),
        "upgraded from",
    ],
)
async def test_a_kill_in_an_upgrade(make_service: MakeService, play: Play, when: str) -> None:
    """Tunnels are in one worker, in the other, or between them; afterwards each is in one, and none is lost."""
    service = make_service()
    gateway = await service.start({"workers": 2, **NO_PINGS, **to_one(play.address)})
    tunnels = await play.open_many(gateway.address, 500)
    await service.stored(500)
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
    scrape = await gateway.tunnels(500)
    assert scrape.value("gateway_tunnels_closed_total") == 0
    assert len((await gateway.api("status"))["workers"]) == 2
    await upgrade(gateway)  # whatever slots its workers run in
    for tunnel in tunnels:
        tunnel.say()
    await all_complete(tunnels)


@pytest.mark.either_build
async def test_an_upgrade_goes_on_with_the_store(make_service: MakeService, play: Play) -> None:
    service = make_service()
    gateway = await service.start({"workers": 2, **NO_PINGS, **to_one(play.address)})
    before = await play.open_many(gateway.address, 50)
    await service.stored(50)
    names = list(service.keeper.names_seen)
    await upgrade(gateway)
    after = await play.open_many(gateway.address, 50)
    await service.stored(100)
    assert service.keeper.names_seen == names, "something was sent twice"
    await service.die()
    gateway = await service.start()
    for tunnel in (*before, *after):
        tunnel.say()
    await all_complete((*before, *after))
    await gateway.tunnels(100)


# --- an orderly end ---------------------------------------------------------------------------------------------------


@pytest.mark.either_build
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_orderly_end_leaves_nothing(make_service: MakeService, play: Play, number: signal.Signals) -> None:
    service = make_service()
    config = to_one(play.address, drain={"period": "1s"}, timeouts={"close": "500ms"})
    gateway = await service.start({"workers": 2, **NO_PINGS, **config})
    tunnels = await play.open_many(gateway.address, 20)
    await service.stored(20)
    assert service.keeper.names
    gateway.process.signal(number)
    await gateway.exits(0)
    await eventually(lambda: not service.keeper.names, "everything to be removed")
    await eventually(lambda: all(tunnel.gone for tunnel in tunnels), "all ends")


async def test_tunnels_that_end_leave_the_store(make_service: MakeService, play: Play) -> None:
    """The manager keeps nothing of them for long, though the tunnels beside them go on."""
    service = make_service()
    gateway = await service.start({**NO_PINGS, **to_one(play.address)})
    stay = await play.open_many(gateway.address, 20)
    leave = await play.open_many(gateway.address, 300)
    await service.stored(320)
    for tunnel in leave:
        tunnel.ends[0].transport.close()
    await gateway.tunnels(20)
    await eventually(lambda: service.keeper.tunnels() == 20, "connections that have ended to be let go")
    await service.die()
    await service.start()
    for tunnel in stay:
        tunnel.say()
    await all_complete(stay)


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


# --- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.either_build
async def test_a_store_that_is_too_small_is_not_used(make_service: MakeService, play: Play) -> None:
    """Workers drain then, as without one."""
    service = make_service(most=3)
    gateway = await service.start(
        {**NO_PINGS, **to_one(play.address, drain={"period": "10ms"}, timeouts={"close": "1s"})}
    )
    gateway.tolerate("the service manager keeps 3 descriptors, and at least 9 are needed")
    assert len([line for line in gateway.stderr.lines if "FileDescriptorStoreMax" in line]) == 1
    await drains_when_killed(service, play)


@pytest.mark.either_build
async def test_a_store_that_is_smaller_than_it_says(make_service: MakeService, play: Play) -> None:
    """What the manager drops, it drops without a word; that shows all the same."""
    service = make_service(most=4, said=64)
    gateway = await service.start(
        {**NO_PINGS, **to_one(play.address, drain={"period": "10ms"}, timeouts={"close": "1s"})}
    )
    gateway.tolerate("the service manager does not keep the gateway's descriptors")
    await gateway.stderr.containing("does not keep the gateway's descriptors")
    await eventually(lambda: not service.keeper.names, "what is of no use to be removed")
    await drains_when_killed(service, play)


async def drains_when_killed(service: Service, play: Play) -> None:
    (tunnel,) = await play.open_many(service.gateway.address, 1)
    client = tunnel.ends[0]
    received = bytearray()
    client.data_received = received.extend  # type: ignore[method-assign]
    await service.die()
    await eventually(lambda: tunnel.gone, "its end")
    assert bytes(received) == frame(CLOSE, close(1012))
    with pytest.raises(ConnectionRefusedError):
        await connect(service.gateway.address)


@pytest.mark.either_build
async def test_without_a_store_nothing_is_sent_to_one(make_service: MakeService, play: Play) -> None:
    service = make_service(most=0)
    await service.start({**NO_PINGS, **to_one(play.address, drain={"period": "10ms"}, timeouts={"close": "1s"})})
    assert service.keeper.names_seen == []
    await drains_when_killed(service, play)


# --- what changes meanwhile -------------------------------------------------------------------------------------------


def ports_in_store(service: Service) -> list[int]:
    """Of the TCP listeners that the service manager keeps."""
    found = []
    for fd in service.keeper.of_kind("listen"):
        with socket.socket(fileno=os.dup(fd)) as sock:
            if sock.family == socket.AF_INET:
                found.append(sock.getsockname()[1])
    return found


@pytest.mark.either_build
async def test_listeners_and_admin_may_change_meanwhile(make_service: MakeService, play: Play, tmp_path: Path) -> None:
    """Those that stay go on, what waits there included; others are opened or closed."""
    service = make_service()
    addresses = [f"127.0.0.1:{free_port()}", f"unix:{tmp_path}/front", f"127.0.0.1:{free_port()}"]
    config = {"workers": 2, "listen": [{"address": address} for address in addresses[:2]], **NO_PINGS}
    gateway = await service.start({**config, **to_one(play.address)})
    tunnels = await play.open_many(addresses[0], 20)
    await service.stored(20)
    await service.die()
    waiting = [await connect(address) for address in addresses[:2]]
    changed = {**gateway.config, "listen": [{"address": address} for address in (addresses[1], addresses[2])]}
    gateway = await service.start({**changed, "admin": {"address": f"127.0.0.1:{free_port()}"}})
    assert len(service.keeper.of_kind("listen")) == 1 + 2
    assert await waiting[0].ends() == b""
    with pytest.raises(ConnectionRefusedError):
        await connect(addresses[0])
    for connection in (waiting[1], await connect(addresses[2])):
        await connection.send(handshake().replace(b"Version: 13", b"Version: 7"))
        assert (await connection.head()).status == 426
        await connection.close()
    await waiting[0].close()
    for tunnel in tunnels:
        tunnel.say()
    await all_complete(tunnels)
    gateway.config["listen"] = [{"address": address} for address in addresses[:2]]
    gateway.write(gateway.config)
    await gateway.reload()
    port = int(addresses[0].rpartition(":")[2])
    await eventually(lambda: ports_in_store(service) == [port, port], "the store to follow the reload")
    await service.die()
    waiting = [await connect(address) for address in addresses[:2]]
    await service.start()
    for connection in waiting:
        await connection.close()
    for tunnel in tunnels:
        tunnel.say()
    await all_complete(tunnels)


async def test_what_cannot_be_carried_on_is_ended_with_a_close_frame(make_service: MakeService, play: Play) -> None:
    """The table has room for as many workers as there were."""
    service = make_service()
    gateway = await service.start({"workers": 1, **NO_PINGS, **to_one(play.address)})
    tunnels = await play.open_many(gateway.address, 10)
    await service.stored(10)
    received: list[tuple[bytearray, bytearray]] = []
    for tunnel in tunnels:
        received.append((bytearray(), bytearray()))
        for end, into in zip(tunnel.ends, received[-1], strict=True):
            end.data_received = into.extend  # type: ignore[method-assign]
    await service.die()
    names = set(service.keeper.names)
    successor = await service.start({**gateway.config, "workers": 2})
    successor.tolerate("10 tunnels of the gateway before cannot be carried on, and end .20 sides with a Close frame")
    await eventually(lambda: all(tunnel.gone for tunnel in tunnels), "all ends")
    for client, backend in received:
        assert bytes(client) == frame(CLOSE, close(1012))
        assert len(backend) == 2 + 4 + 2
        assert backend[0] == 0x80 | CLOSE
    assert "cannot be carried on" in "\n".join(successor.stderr.lines)
    assert not names & set(service.keeper.names)
    tunnels = await play.open_many(successor.address, 10)
    await service.stored(10)
    await service.die()
    await service.start()
    for tunnel in tunnels:
        tunnel.say()
    await all_complete(tunnels)


@pytest.mark.either_build
async def test_what_the_gateway_knew_is_known(make_service: MakeService, play: Play) -> None:
    """A backend that was drained stays so; what is not of this program is left alone."""
    service = make_service()
    gateway = await service.start({**NO_PINGS, **to_one(play.address)})
    status, _, err = await run((*COMMAND, "drain", "--backend", play.address, "-c", gateway.file))
    assert status == 0, err
    started = (await gateway.api("status"))["uptime"]
    await service.die()
    gateway = await service.start()
    assert (await gateway.api("status"))["uptime"] >= started
    connection = await gateway.connect()
    await connection.send(handshake("/"))
    assert (await connection.head()).status == 503
    await connection.close()


async def test_ends_that_went_away_meanwhile_are_noticed(make_service: MakeService, play: Play) -> None:
    service = make_service()
    gateway = await service.start({**NO_PINGS, **to_one(play.address)})
    tunnels = await play.open_many(gateway.address, 40)
    await service.stored(40)
    await service.die()
    for n, tunnel in enumerate(tunnels[:20]):
        tunnel.ends[n % 2].transport.abort()
    for tunnel in tunnels[20:]:
        tunnel.say()
    gateway = await service.start()
    await eventually(lambda: all(tunnel.gone for tunnel in tunnels[:20]), "the other ends")
    await all_complete(tunnels[20:])
    await gateway.tunnels(20)


async def test_a_tunnel_whose_connections_are_not_in_store_is_lost(make_service: MakeService, play: Play) -> None:
    service = make_service()
    gateway = await service.start({**NO_PINGS, **to_one(play.address)})
    tunnels = await play.open_many(gateway.address, 20)
    await service.stored(20)
    await service.die()
    for name, fd in [each for each in service.keeper.kept if "tunnels" in each[0]]:
        os.close(fd)
        service.keeper.kept.remove((name, fd))
    gateway = await service.start()
    await eventually(lambda: all(tunnel.gone for tunnel in tunnels), "all ends")
    scrape = await gateway.until(
        lambda now: now.value("gateway_tunnels_closed_total", cause="worker_lost") == 20, "losses to be counted"
    )
    assert scrape.value("gateway_tunnels_adopted_total") == 0


@pytest.mark.either_build
async def test_a_busy_manager_is_waited_for(make_service: MakeService, play: Play) -> None:
    """Its socket is full: workers rely on nothing before it has been told everything, and the gateway serves."""
    service = make_service()
    service.keeper.pause()
    await service.start({**NO_PINGS, **to_one(play.address)}, ready=False)
    await service.gateway.stderr.containing("ready: ", seconds=2 * DEADLINE_SECONDS)
    tunnels = await play.open_many(service.gateway.address, 10)
    service.keeper.go_on()
    await service.stored(10)
    table = service.table()
    await eventually(lambda: table.cells[H_KEPT] == 1, "workers to rely on it")
    table.close()
    await service.die()
    await service.start()
    for tunnel in tunnels:
        tunnel.say()
    await all_complete(tunnels)
