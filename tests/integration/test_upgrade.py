"""The program is upgraded under traffic: every tunnel goes on, and every byte of it comes once and in order.

400 idle tunnels, 30 busy ones and two upgrades here; 4,000, 100 and five with ``GATEWAY_SOAK=1 pytest -m soak``.
Whoever wants another program on disk runs a copy of the package, and changes that.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

import gateway as package
from gateway.processes import control
from gateway.tunnels.layout import DIRTY, PENDING, SIDE_0, SIDE_CELLS
from tests.conftest import Backends, Open, StartGateway
from tests.support.deadline import DEADLINE_SECONDS, SOAK, eventually, within
from tests.support.files import rewrite
from tests.support.frames import BINARY, PING, PONG, TEXT, frame, from_client
from tests.support.gateway import COMMAND, Gateway, to_one
from tests.support.memory import open_descriptors
from tests.support.numbered import Play, Tunnel
from tests.support.pace import Pace
from tests.support.process import gone, is_alive, run
from tests.support.raw import handshake, request, switching
from tests.support.rest import table_of

from .test_crash import children, get_busy

pytestmark = pytest.mark.asyncio(loop_scope="module")

IDLE, BUSY, UPGRADES = (4000, 100, 5) if SOAK else (400, 30, 2)
PAUSE_SECONDS = 0.1
UPGRADE_SECONDS = 4 * DEADLINE_SECONDS
NO_PINGS = {"keepalive": {"client": "off", "backend": "off"}}
"""For ends that do not answer them."""


@pytest_asyncio.fixture(loop_scope="module")
async def play() -> AsyncIterator[Play]:
    made = await Play.start()
    yield made
    await made.close()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A copy of the package that a test may change; run a gateway with :func:`of` it."""
    copy = tmp_path / "program" / "gateway"
    shutil.copytree(Path(package.__file__).parent, copy, ignore=shutil.ignore_patterns("*.c"))
    return copy


def of(program: Path) -> dict[str, str]:
    """The environment in which a copy is found before what is installed."""
    return {"PYTHONPATH": str(program.parent), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}


async def status_of_upgrade(gateway: Gateway, since: float) -> dict[str, Any]:
    """Wait until an upgrade is over that was asked for later than ``since``; how it went."""

    async def over() -> dict[str, Any]:
        while True:
            try:
                found: dict[str, Any] | None = (await gateway.api("status"))["upgrade"]
            except aiohttp.ClientError:  # a connection to the program before
                found = None
            if found is not None and found["ok"] is not None and found["time"] > since:
                return found
            await asyncio.sleep(0.05)

    return await within(over(), "the upgrade", UPGRADE_SECONDS)


async def upgrade(gateway: Gateway, wait: bool = True) -> float:
    """Upgrade, see the old workers gone; for how long tunnels paused, at most. :param wait: for them to go"""
    old = children(gateway.process.pid)
    start, since = len(gateway.stderr.lines), time.time()
    gateway.process.signal(signal.SIGUSR2)
    found = await status_of_upgrade(gateway, since)
    assert found["error"] is None
    line = await gateway.stderr.first(
        lambda line: line if "upgraded from" in line else None, "a line about the upgrade", start
    )
    for pid in old if wait else ():
        await gone(int(pid))
    (pause,) = re.findall(r"more than (\d+) ms", line)
    return int(pause) / 1000


async def fails(gateway: Gateway, reason: str) -> None:
    """Ask for an upgrade that fails, and see why."""
    gateway.tolerate("upgrade failed: |^Traceback")  # the latter is what the new program said
    since = time.time()
    gateway.process.signal(signal.SIGUSR2)
    found = await status_of_upgrade(gateway, since)
    assert found["ok"] is False
    assert re.search(reason, found["error"]), found["error"]


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
            await asyncio.sleep(0.005)
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
@pytest.mark.timeout(900 if SOAK else 180)
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


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_a_busy_tunnel_pauses_for_a_moment_only(start_gateway: StartGateway, play: Play) -> None:
    gateway = await start_gateway({"workers": 2, **NO_PINGS, **to_one(play.address)})
    await play.open_many(gateway.address, IDLE)
    busy = await play.open_many(gateway.address, 40)
    for tunnel in busy:
        tunnel.be_busy(0.005)
    await eventually(lambda: all(tunnel.progress > 10 for tunnel in busy), "traffic")
    before = Gaps(busy)
    await asyncio.sleep(3)  # what the machine does to them anyway
    usual = before.p99()
    async with Pace() as pace:
        gaps = Gaps(busy)
        await upgrade(gateway)
        longest = gaps.p99()
    assert longest < usual + PAUSE_SECONDS * pace.slowdown
    for tunnel in busy:
        tunnel.rest()
    await eventually(lambda: all(tunnel.complete for tunnel in busy), "everything to arrive")


# --- programs that cannot take over -----------------------------------------------------------------------------------


async def serves_as_before(gateway: Gateway, play: Play, tunnels: list[Tunnel], pids: list[str]) -> None:
    """The workers are the same, and the tunnels go on; new ones open."""
    assert children(gateway.process.pid) == pids
    assert all(tunnel.lives for tunnel in tunnels)
    for tunnel in tunnels:
        tunnel.say()
    await eventually(lambda: all(tunnel.complete for tunnel in tunnels), "the messages")
    (fresh,) = await play.open_many(gateway.address, 1)
    fresh.say()
    await eventually(lambda: fresh.complete, "a message")
    assert (await gateway.api("status"))["ready"]


async def have_plain_http_imported(gateway: Gateway, open_connection: Open) -> None:
    """The running program is not to look for modules of its own any more, as after some seconds."""
    client = await open_connection(gateway)
    await client.send(request("/", "Sec-WebSocket-Key: x", "Connection: close"))
    assert (await client.answer()).status == 426
    await client.close()


def crash_at_start(program: Path, gateway: Gateway) -> str:
    file = program / "processes" / "supervisor.py"
    rewrite(file, 'raise RuntimeError("not today")\n')
    return "does not start, it exits with status 1:\n(.*\n)*RuntimeError: not today"


def miss_a_module(program: Path, gateway: Gateway) -> str:
    (program / "edge" / "plain.py").unlink()
    return "No module named 'gateway.edge.plain'"


def hang_at_start(program: Path, gateway: Gateway) -> str:
    for file in (program / "processes" / "upgrade.py", program / "cli" / "run.py"):
        text = file.read_text()
        rewrite(file, text.replace("import sys\n", "import sys\nimport time\n\ntime.sleep(3600)\n", 1))
    return "did not start within"


def break_the_configuration(program: Path, gateway: Gateway) -> str:
    gateway.write(gateway.file.read_text() + "nonsense: 1\n")
    return r"gateway.yaml:\d+:\d+: nonsense"


def change_what_is_fixed(program: Path, gateway: Gateway) -> str:
    gateway.write(gateway.file.read_text().replace("workers: 1", "workers: 2"))
    return "workers cannot change in an upgrade"


def need_what_nobody_has_kept(program: Path, gateway: Gateway) -> str:
    layout, fields = (program / "tunnels" / name for name in ("layout.py", "fields.py"))
    rewrite(
        layout,
        re.sub(
            r"^\) = range\((\d+)\)\nSIDE_0", r"    WEATHER,\n) = range(\1 + 1)\nSIDE_0", layout.read_text(), flags=re.M
        ),
    )
    rewrite(fields, fields.read_text().replace("ROW: Defaults = {\n", 'ROW: Defaults = {\n    "WEATHER": REQUIRED,\n'))
    return r"the table of layout \d+ has no WEATHER, which \d+ needs"


def speak_another_language(program: Path, gateway: Gateway) -> str:
    file = program / "processes" / "control.py"
    rewrite(file, file.read_text().replace(f"\nVERSION = {control.VERSION}\n", "\nVERSION = 1001\n"))
    return "of another form: restart the gateway"


@pytest.mark.parametrize(
    "spoil",
    [
        crash_at_start,
        # What tunnels go through is the same for all: the running program goes on.
        *(
            pytest.param(spoil, marks=pytest.mark.either_build)
            for spoil in (
                miss_a_module,
                break_the_configuration,
                change_what_is_fixed,
                need_what_nobody_has_kept,
                speak_another_language,
            )
        ),
    ],
)
async def test_a_program_that_does_not_start(
    start_gateway: StartGateway,
    play: Play,
    program: Path,
    open_connection: Open,
    spoil: Callable[[Path, Gateway], str],
) -> None:
    gateway = await start_gateway({**NO_PINGS, **to_one(play.address)}, env=of(program))
    tunnels = await play.open_many(gateway.address, 20)
    await eventually(lambda: open_descriptors(gateway.process.pid) > 50, "all of them to be in store")
    await have_plain_http_imported(gateway, open_connection)  # it may be gone next
    pids = children(gateway.process.pid)
    before = open_descriptors(gateway.process.pid)
    reason = spoil(program, gateway)
    await fails(gateway, reason)
    await serves_as_before(gateway, play, tunnels, pids)
    await eventually(lambda: open_descriptors(gateway.process.pid) <= before + 6, "descriptors to be closed")


@pytest.mark.timeout(120)
async def test_a_program_that_hangs_at_start(start_gateway: StartGateway, play: Play, program: Path) -> None:
    upgrade_py = program / "processes" / "upgrade.py"
    rewrite(upgrade_py, re.sub(r"TRY_SECONDS = [\d.]+", "TRY_SECONDS = 2.0", upgrade_py.read_text()))
    gateway = await start_gateway({**NO_PINGS, **to_one(play.address)}, env=of(program))
    tunnels = await play.open_many(gateway.address, 20)
    pids = children(gateway.process.pid)
    await fails(gateway, hang_at_start(program, gateway))
    await serves_as_before(gateway, play, tunnels, pids)


@pytest.mark.either_build
async def test_workers_that_do_not_start(start_gateway: StartGateway, play: Play, program: Path) -> None:
    """The program itself starts, and becomes the supervisor; its workers do not."""
    gateway = await start_gateway({"workers": 2, **NO_PINGS, **to_one(play.address)}, env=of(program))
    tunnels = await play.open_many(gateway.address, 20)
    pids = children(gateway.process.pid)
    worker = program / "processes" / "worker.py"
    good = worker.read_text()
    rewrite(worker, good.replace("def main(arguments", "def main(a):\n    sys.exit(3)\n\n\ndef unused(arguments"))
    await fails(gateway, r"worker 2 \(pid \d+\) of the new program does not start")
    await serves_as_before(gateway, play, tunnels, pids)
    rewrite(worker, good)
    await upgrade(gateway)
    await eventually(lambda: not set(children(gateway.process.pid)) & set(pids), "the old workers to be gone")
    assert all(tunnel.lives for tunnel in tunnels)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_worker_that_dies_while_it_takes_over(
    start_gateway: StartGateway, play: Play, program: Path, when: str
) -> None:
    """Before it said that it has, the old one goes on; after that, its successor does."""
    gateway = await start_gateway({**NO_PINGS, **to_one(play.address)}, env=of(program))
    tunnels = await play.open_many(gateway.address, 300)
    await eventually(lambda: open_descriptors(gateway.process.pid) > 600, "all of them to be in store")
    pids = children(gateway.process.pid)
    worker = program / "processes" / "worker.py"
    good = worker.read_text()
    at = {
        "before": "            kept = self._deposits.inherited()\n            _, left",
        "after": "            os.close(message.fd)\n",
    }[when]
    assert at in good
    rewrite(worker, good.replace(at, "            os.kill(os.getpid(), 9)\n" + at))
    if when == "before":
        await fails(gateway, "the new worker .* died")
        await serves_as_before(gateway, play, tunnels, pids)
        return
    gateway.tolerate("worker .* was killed by SIGKILL|upgrade failed|cannot be handed over now")
    since = time.time()
    gateway.process.signal(signal.SIGUSR2)
    await eventually(lambda: "becomes it now" in "\n".join(gateway.stderr.lines), "the new program", UPGRADE_SECONDS)
    assert not (await status_of_upgrade(gateway, since))["ok"]
    rewrite(worker, good)
    for tunnel in tunnels:
        tunnel.say()
    await eventually(lambda: all(tunnel.complete for tunnel in tunnels), "the messages", UPGRADE_SECONDS)
    assert all(tunnel.lives for tunnel in tunnels)
    await gone(int(pids[0]), UPGRADE_SECONDS)
    scrape = await gateway.tunnels(300)
    assert scrape.value("gateway_tunnels_closed_total", cause="worker_lost") == 0


async def test_the_old_worker_dies_meanwhile(start_gateway: StartGateway, play: Play, program: Path) -> None:
    gateway = await start_gateway({**NO_PINGS, **to_one(play.address)}, env=of(program))
    worker = program / "processes" / "worker.py"
    at = "            kept = self._deposits.inherited()\n            _, left"
    # Longer than a successor takes to start: it has to wait until it is certain whose the tunnels are.
    rewrite(worker, worker.read_text().replace(at, "            os.kill(PID, 9)\n            time.sleep(1)\n" + at))
    tunnels = await play.open_many(gateway.address, 50)
    await eventually(lambda: open_descriptors(gateway.process.pid) > 100, "all of them to be in store")
    (old,) = children(gateway.process.pid)
    rewrite(worker, worker.read_text().replace("PID, 9", f"{old}, 9"))
    gateway.tolerate("worker .* was killed by SIGKILL|upgrade failed|cannot be handed over now|was replaced")
    since = time.time()
    gateway.process.signal(signal.SIGUSR2)
    await status_of_upgrade(gateway, since)
    for tunnel in tunnels:
        tunnel.say()
    await eventually(lambda: all(tunnel.complete for tunnel in tunnels), "the messages", UPGRADE_SECONDS)
    assert all(tunnel.lives for tunnel in tunnels)
    await gateway.tunnels(50)


# --- what is under way ------------------------------------------------------------------------------------------------


async def test_a_message_that_is_half_relayed(start_gateway: StartGateway) -> None:
    """A header is cut in the middle, and a message of 64 MiB is under way; the client reads only afterwards."""
    large = frame(BINARY, os.urandom(64 * 1024 * 1024))
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
    assert len((await gateway.api("status"))["workers"]) == 1
    server.close()
    await server.wait_closed()


# --- how it is asked for ----------------------------------------------------------------------------------------------


async def test_the_command_and_the_api(start_gateway: StartGateway, play: Play) -> None:
    gateway = await start_gateway({**NO_PINGS, **to_one(play.address)})
    (tunnel,) = await play.open_many(gateway.address, 1)
    old = children(gateway.process.pid)
    status, out, err = await run((*COMMAND, "upgrade", "-c", gateway.file), seconds=UPGRADE_SECONDS)
    assert (status, out, err) == (0, "upgraded", "")
    assert children(gateway.process.pid) != old
    async with aiohttp.ClientSession() as session, session.post(f"http://{gateway.admin}/api/v1/upgrade") as answer:
        assert answer.status == 200
        assert json.loads(await answer.text())["upgraded"] is True
    break_the_configuration(Path(), gateway)
    gateway.tolerate("upgrade failed")
    status, out, err = await run((*COMMAND, "upgrade", "-c", gateway.file), seconds=UPGRADE_SECONDS)
    assert (status, out) == (1, "")
    assert "nonsense" in err
    assert err.endswith("\nnot upgraded")
    tunnel.say()
    await eventually(lambda: tunnel.complete, "a message")


async def test_what_was_drained_and_learned_is_kept(start_gateway: StartGateway, play: Play) -> None:
    """A backend that was drained gets nothing new from the new program, too."""
    gateway = await start_gateway({**NO_PINGS, **to_one(play.address)})
    status, _, err = await run((*COMMAND, "drain", "--backend", play.address, "-c", gateway.file))
    assert status == 0, err
    await upgrade(gateway)
    connection = await gateway.connect()
    await connection.send(handshake("/"))
    assert (await connection.head()).status == 503
    await connection.close()


async def test_signals_that_come_meanwhile(start_gateway: StartGateway, play: Play) -> None:
    """They are served when the new program can; none of them ends it."""
    gateway = await start_gateway({**NO_PINGS, **to_one(play.address)})
    (tunnel,) = await play.open_many(gateway.address, 1)
    start, since = len(gateway.stderr.lines), time.time()
    gateway.process.signal(signal.SIGUSR2)
    for _ in range(40):
        gateway.process.signal(signal.SIGHUP)
        gateway.process.signal(signal.SIGUSR1)
        await asyncio.sleep(0.1)
    assert (await status_of_upgrade(gateway, since))["ok"]
    await gateway.stderr.first(lambda line: line if "reloaded" in line else None, "a reload", start)
    assert tunnel.lives
