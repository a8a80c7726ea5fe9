"""The template process: what workers inherit from it, and what its end costs."""

from __future__ import annotations

import os
import re
import signal
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cpu import proportional_bytes
from tests.conftest import Backends, StartGateway
from tests.support.deadline import eventually
from tests.support.files import rewrite
from tests.support.frames import TEXT, frame, from_client
from tests.support.gateway import Gateway, to_one
from tests.support.process import children, gone, name_of, state, template_of
from tests.support.raw import handshake

from .upgrades import of, upgrade

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]


def links(pid: int) -> Iterator[str]:
    """What a process has open, as /proc names it; without standard streams, and what all processes name alike."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if int(entry.name) > 2 and not (link := os.readlink(entry)).startswith("anon_inode:"):
            yield link


def command_line(pid: int) -> str:
    """What ``ps -o args`` shows."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()


async def template_in(gateway: Gateway, other_than: int = 0) -> int:
    """Wait until a gateway has a template. :param other_than: an earlier one"""

    def found() -> int | None:
        pid = template_of(gateway.process.pid)
        return pid if pid != other_than else None

    return await eventually(found, "a template")


async def successor_of(gateway: Gateway, worker: int) -> int:
    """Wait until another worker serves in place of one that has died."""

    async def found() -> int | None:
        return next((pid for pid in await gateway.worker_pids() if pid != worker), None)

    while (pid := await found()) is None:
        pass  # each attempt asks the gateway, which takes a while
    return pid


async def test_processes_inherit_no_descriptors(start_gateway: StartGateway, backends: Backends) -> None:
    echo = await backends.echo()
    gateway = await start_gateway({"workers": 2, **to_one(echo.address)}, fresh=True)
    supervisor, template = gateway.process.pid, await template_in(gateway)
    (control,) = links(template)
    assert control.startswith("socket:")
    pids = await gateway.worker_pids()
    workers = [set(links(pid)) for pid in pids]
    owned = set(links(supervisor))
    listening = {name for name in workers[0] | workers[1] if name in owned and name.startswith("socket:")}
    for mine, others in (workers, reversed(workers)):
        shared = mine & owned - listening
        assert all(name.startswith("/memfd:gateway-") for name in shared), shared
        assert len(mine & listening) == 1
        assert not (mine & others & listening)
        assert control not in mine
    for pid in (*pids, template):
        assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull


async def test_at_rest_a_gateway_takes_little_memory(start_gateway: StartGateway, backends: Backends) -> None:
    echo = await backends.echo()
    gateway = await start_gateway({"workers": 2, **to_one(echo.address)}, fresh=True)
    for _ in range(3):
        await gateway.scrape()
        await gateway.api("status")
    processes = frozenset((gateway.process.pid, await template_in(gateway), *await gateway.worker_pids()))
    assert len(processes) == 4
    assert proportional_bytes(processes) < 65e6


async def test_processes_are_told_apart(start_gateway: StartGateway, backends: Backends) -> None:
    echo = await backends.echo()
    gateway = await start_gateway({"workers": 2, **to_one(echo.address)}, fresh=True)
    assert command_line(await template_in(gateway)) == "gateway: template of workers"
    for slot, pid in enumerate(await gateway.worker_pids()):
        assert name_of(pid) == f"gw-worker-{slot}"
        assert command_line(pid) == f"gateway: worker {slot}"
    assert " run -c " in command_line(gateway.process.pid)


async def test_workers_draw_different_random_numbers(
    start_gateway: StartGateway, backends: Backends, program: Path
) -> None:
    """Though the template has drawn some before."""
    worker = program / "processes" / "worker.py"
    text = worker.read_text()
    drawing = "import random, ssl\n{}print('drawn', random.random(), ssl.RAND_bytes(8).hex(), file=sys.stderr)\n"
    at = "    descriptors = raise_descriptor_limit()\n"
    assert text.count(at) == 1
    indented = drawing.format("    ")
    text = text.replace(at, f"    {indented}{at}")
    rewrite(worker, text.replace("\nlog = ", f"\n{drawing.format('')}log = ", 1))
    echo = await backends.echo()
    gateway = await start_gateway({"workers": 3, **to_one(echo.address)}, env=of(program))

    def drawn() -> list[list[str]]:
        return [line.split()[1:] for line in gateway.stderr.lines if line.startswith("drawn ")]

    await eventually(lambda: len(drawn()) == 4, "the template and three workers to have said it")
    assert all(len(set(numbers)) == 4 for numbers in zip(*drawn(), strict=True))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_the_template_dies_or_hangs(
    start_gateway: StartGateway, backends: Backends, program: Path, how: signal.Signals
) -> None:
    """A worker that dies then is replaced all the same, with its tunnels; only the log says more."""
    starting = program / "processes" / "starting.py"
    rewrite(starting, re.sub(r"ANSWER_SECONDS = [\d.]+", "ANSWER_SECONDS = 0.2", starting.read_text()))
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address), env=of(program))
    client = await gateway.connect()
    await client.send(handshake("/"))
    assert (await client.head()).status == 101
    template = await template_in(gateway)
    gateway.tolerate(r"the template process \(pid \d+\)")
    os.kill(template, how)
    if how is signal.SIGKILL:
        await gateway.stderr.containing(f"the template process (pid {template}) was killed by SIGKILL")
    await client.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))
    worker = await gateway.kill_worker(in_store=True)
    await client.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))
    assert await successor_of(gateway, worker) != worker
    if how is signal.SIGSTOP:
        await gateway.stderr.containing(f"the template process (pid {template}) did not answer within")
    await template_in(gateway, other_than=template)
    await gone(template)
    # The one that replaced it works like the first.
    await gateway.kill_worker(in_store=True)
    await client.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))
    await client.close()


async def test_the_template_ends_with_the_supervisor(start_gateway: StartGateway, backends: Backends) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address), fresh=True)
    template = await template_in(gateway)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2, signal.SIGABRT):
        os.kill(template, number)  # as a terminal or a service manager does, to all processes
    gateway.process.signal(signal.SIGKILL)
    await gone(template)
    await gateway.exits(-signal.SIGKILL)


async def test_an_upgrade_replaces_the_template(start_gateway: StartGateway, backends: Backends, program: Path) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address), env=of(program))
    before = await template_in(gateway)
    titles = program / "processes" / "template.py"
    rewrite(titles, titles.read_text().replace("gateway: template of workers", "gateway: new template"))
    await upgrade(gateway)
    await gone(before)
    after = await template_in(gateway, other_than=before)
    assert command_line(after) == "gateway: new template"
    await eventually(lambda: not state(before), "it to be waited for")


async def test_a_worker_that_a_template_left_behind_is_no_worker(
    start_gateway: StartGateway, backends: Backends, program: Path, tmp_path: Path
) -> None:
    """The template dies before it reports the worker that it has forked, so another one is started for the slot."""
    once = tmp_path / "once"
    once.touch()
    template_py = program / "processes" / "template.py"
    at = "                result = _fork_worker(control, request)\n"
    dies = f"if os.path.exists({str(once)!r}):\n    os.unlink({str(once)!r})\n    os.kill(os.getpid(), 9)\n"
    text = template_py.read_text()
    assert text.count(at) == 1
    rewrite(template_py, text.replace(at, at + textwrap.indent(dies, " " * 16)))
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address), env=of(program), ready=False)
    # On a busy machine the worker may hold the template's socket open for so long that only its silence tells.
    gateway.tolerate(r"the template process \(pid \d+\) (died|was killed|did not answer)")
    await gateway.stderr.containing("ready: ")
    await eventually(lambda: len(children(gateway.process.pid)) == 1, "the other one to be waited for")
    assert children(gateway.process.pid) == [str(pid) for pid in await gateway.worker_pids()]
    client = await gateway.connect()
    await client.send(handshake("/"))
    assert (await client.head()).status == 101
    await client.close()
