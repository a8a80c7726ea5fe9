"""Programs and workers that cannot take over: the upgrade fails, and every tunnel goes on all the same.

A test that needs another program on disk runs a copy of the package, and changes that.
"""

from __future__ import annotations

import asyncio
import re
import signal
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.processes.control import messages
from gateway.tunnels.table.layout import RELEASED, STATE
from tests.conftest import Open, StartGateway
from tests.support.deadline import eventually, within
from tests.support.files import rewrite
from tests.support.gateway import NO_PINGS, Gateway, to_one
from tests.support.memory import open_descriptors
from tests.support.numbered import Play
from tests.support.process import children, gone
from tests.support.raw import handshake, request, switching
from tests.support.rest import table_of

from .upgrades import UPGRADE_SECONDS, fails, of, serves_as_before, status_of_upgrade, upgrade

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def have_plain_http_imported(gateway: Gateway, open_connection: Open) -> None:
    """The running program is not to look for modules of its own any more, as after some seconds."""
    client = await open_connection(gateway)
    await client.send(request("/", "Sec-WebSocket-Key: x", "Connection: close"))
    assert (await client.answer()).status == 426
    await client.close()


def crash_at_start(program: Path, gateway: Gateway) -> str:
    file = program / "processes" / "supervisor.py"
    rewrite(file, 'raise RuntimeError("not today")\n')
    return r"does not start \(exit status 1\):\n(.*\n)*RuntimeError: not today"


def miss_a_module(program: Path, gateway: Gateway) -> str:
    (program / "edge" / "passage.py").unlink()
    return "No module named 'gateway.edge.passage'"


def hang_at_start(program: Path, gateway: Gateway) -> str:
    for file in (program / "processes" / "upgrade.py", program / "cli" / "running.py"):
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
    layout, fields = (program / "tunnels" / "table" / name for name in ("layout.py", "fields.py"))
    rewrite(
        layout,
        re.sub(
            r"^\) = range\((\d+)\)\nSIDE_0", r"    WEATHER,\n) = range(\1 + 1)\nSIDE_0", layout.read_text(), flags=re.M
        ),
    )
    rewrite(fields, fields.read_text().replace("ROW: Defaults = {\n", 'ROW: Defaults = {\n    "WEATHER": REQUIRED,\n'))
    return r"the table of layout \d+ has no WEATHER, which \d+ needs"


def speak_another_language(program: Path, gateway: Gateway) -> str:
    file = program / "processes" / "control" / "messages.py"
    rewrite(file, file.read_text().replace(f"\nVERSION = {messages.VERSION}\n", "\nVERSION = 1001\n"))
    return "has another format: restart the gateway"


@pytest.mark.either_build  # what tunnels go through is the same for all: the running program goes on
@pytest.mark.parametrize(
    "spoil",
    [
        crash_at_start,
        miss_a_module,
        break_the_configuration,
        change_what_is_fixed,
        need_what_nobody_has_kept,
        speak_another_language,
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
    without = open_descriptors(gateway.process.pid)
    tunnels = await play.open_many(gateway.address, 20)
    await eventually(lambda: open_descriptors(gateway.process.pid) >= without + 40, "all of them to be in store")
    await have_plain_http_imported(gateway, open_connection)  # it may be gone next
    pids = children(gateway.process.pid)
    before = open_descriptors(gateway.process.pid)
    reason = spoil(program, gateway)
    await fails(gateway, reason)
    await serves_as_before(gateway, play, tunnels, pids)
    await eventually(lambda: open_descriptors(gateway.process.pid) <= before + 6, "descriptors to be closed")


@pytest.mark.either_build
@pytest.mark.timeout(300)
async def test_a_program_that_hangs_at_start(start_gateway: StartGateway, play: Play, program: Path) -> None:
    upgrade_py = program / "processes" / "upgrade.py"
    rewrite(upgrade_py, re.sub(r"TRY_SECONDS = [\d.]+", "TRY_SECONDS = 2.0", upgrade_py.read_text()))
    gateway = await start_gateway({**NO_PINGS, **to_one(play.address)}, env=of(program))
    tunnels = await play.open_many(gateway.address, 20)
    pids = children(gateway.process.pid)
    await fails(gateway, hang_at_start(program, gateway))
    await serves_as_before(gateway, play, tunnels, pids)


# --- workers that do not take over ------------------------------------------------------------------------------------


@pytest.mark.either_build
async def test_workers_that_do_not_start(start_gateway: StartGateway, play: Play, program: Path) -> None:
    """The program itself starts, and becomes the supervisor; its workers do not."""
    gateway = await start_gateway({"workers": 2, **NO_PINGS, **to_one(play.address)}, env=of(program))
    tunnels = await play.open_many(gateway.address, 20)
    pids = children(gateway.process.pid)
    worker = program / "processes" / "worker.py"
    good = worker.read_text()
    rewrite(worker, good.replace("def main(slot", "def main(*a):\n    sys.exit(3)\n\n\ndef unused(slot"))
    await fails(gateway, r"worker 2 \(pid \d+\) of the new program did not start")
    await serves_as_before(gateway, play, tunnels, pids)
    rewrite(worker, good)
    await upgrade(gateway)
    await eventually(lambda: not set(children(gateway.process.pid)) & set(pids), "the old workers to be gone")
    assert all(tunnel.lives for tunnel in tunnels)


@pytest.mark.either_build
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_worker_that_dies_while_it_takes_over(
    start_gateway: StartGateway, play: Play, program: Path, tmp_path: Path, when: str
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
    # Once: its successor comes from the same template, and is to take over the rest.
    once = tmp_path / "once"
    once.touch()
    dies = f"with contextlib.suppress(FileNotFoundError):\n    os.unlink({str(once)!r})\n    os.kill(os.getpid(), 9)\n"
    rewrite(worker, good.replace(at, textwrap.indent(dies, " " * 12) + at))
    if when == "before":
        await fails(gateway, "the new worker .* died")
        await serves_as_before(gateway, play, tunnels, pids)
        return
    gateway.tolerate("worker .* was killed by SIGKILL|upgrade failed|cannot be handed over now")
    since = time.time()
    gateway.process.signal(signal.SIGUSR2)
    await eventually(
        lambda: "switching to it now" in "\n".join(gateway.stderr.lines), "the new program", UPGRADE_SECONDS
    )
    assert not (await status_of_upgrade(gateway, since))["ok"]
    for tunnel in tunnels:
        tunnel.say()
    await eventually(lambda: all(tunnel.complete for tunnel in tunnels), "the messages", UPGRADE_SECONDS)
    assert all(tunnel.lives for tunnel in tunnels)
    await gone(int(pids[0]), UPGRADE_SECONDS)
    scrape = await gateway.tunnels(300)
    assert scrape.value("gateway_tunnels_closed_total", cause="worker_lost") == 0


@pytest.mark.either_build
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
    gateway.tolerate("worker .* was killed by SIGKILL|upgrade failed|cannot be handed over now")
    since = time.time()
    gateway.process.signal(signal.SIGUSR2)
    await status_of_upgrade(gateway, since)
    for tunnel in tunnels:
        tunnel.say()
    await eventually(lambda: all(tunnel.complete for tunnel in tunnels), "the messages", UPGRADE_SECONDS)
    assert all(tunnel.lives for tunnel in tunnels)
    await gateway.tunnels(50)


@pytest.mark.either_build
@pytest.mark.parametrize("tunnels", [50, 300])
async def test_the_old_worker_dies_before_it_forgets_what_was_taken_over(
    start_gateway: StartGateway, play: Play, program: Path, tunnels: int
) -> None:
    """Every tunnel lives, in the new worker or in a successor of the old one, and every end is counted once."""
    gateway = await start_gateway({**NO_PINGS, **to_one(play.address)}, env=of(program))
    upgrade_py = program / "processes" / "upgrade.py"
    at = "    old.channel.send(Forget(taken.left))\n"
    good = upgrade_py.read_text()
    assert at in good
    rewrite(upgrade_py, good.replace(at, "    old.process.kill()\n" + at))
    opened = await play.open_many(gateway.address, tunnels)
    await eventually(lambda: open_descriptors(gateway.process.pid) > 2 * tunnels, "all of them to be in store")
    (old,) = children(gateway.process.pid)
    gateway.tolerate("worker .* was killed by SIGKILL|upgrade failed|cannot be handed over now")
    since = time.time()
    gateway.process.signal(signal.SIGUSR2)
    await status_of_upgrade(gateway, since)
    await gone(int(old), UPGRADE_SECONDS)
    for tunnel in opened:
        tunnel.say()
    await eventually(lambda: all(tunnel.complete for tunnel in opened), "the messages", UPGRADE_SECONDS)
    scrape = await gateway.tunnels(tunnels)
    assert scrape.value("gateway_tunnels_closed_total") == 0
    for tunnel in opened:
        for end in tunnel.ends:
            end.transport.close()
    await gateway.tunnels(0)
    await gateway.counts(scrape, "gateway_tunnels_closed_total", tunnels)
    await eventually(lambda: len(gateway.log_records(event="tunnel_end")) >= tunnels, "lines of all ends")
    ids = {record["id"] for record in gateway.log_records(event="tunnel_end")}
    assert len(ids) == len(gateway.log_records(event="tunnel_end")) == tunnels

    await eventually(lambda: _has_one_worker(gateway), "the old one's successor to be seen off")


@pytest.mark.either_build
async def test_int_while_the_last_tunnel_moves(start_gateway: StartGateway, play: Play, program: Path) -> None:
    """The old worker has exited before the new one reads the tunnel's row, which is still there."""
    worker = program / "processes" / "worker.py"
    at = "            kept = self._deposits.inherited()\n            _, left"
    rewrite(worker, worker.read_text().replace(at, "            time.sleep(1)\n" + at))
    answers = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await answers.wait()
        writer.write(switching())
        await reader.read()
        writer.close()

    asked = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    gateway = await start_gateway({**NO_PINGS, **to_one(address)}, env=of(program))
    client = await gateway.connect()
    await client.send(handshake("/"))
    await within(asked.wait(), "the handshake")
    await upgrade(gateway, wait=False)
    table = table_of(gateway.process.pid)
    answers.set()
    rows = [table.first_row(slot) for slot in range(table.slots)]
    await eventually(lambda: any(table.cells[row + STATE] == RELEASED for row in rows), "the tunnel to be released")
    gateway.process.signal(signal.SIGINT)
    await gateway.exits(0)
    assert not [line for line in gateway.stderr.lines if "cannot be read" in line]
    table.close()
    await client.close()
    server.close()
    await server.wait_closed()


async def _has_one_worker(gateway: Gateway) -> bool:
    return len((await gateway.api("status"))["workers"]) == 1
