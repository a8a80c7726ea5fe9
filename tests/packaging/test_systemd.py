"""The unit of systemd's: what it says, what systemd's own tools say of it, and a gateway under what it forbids."""

from __future__ import annotations

import ctypes.util
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from click.testing import CliRunner

from gateway.cli import main
from gateway.config.drain import Drain
from gateway.config.timeouts import Timeouts
from gateway.processes.capacity import MOST_AUTO_TUNNELS
from gateway.processes.heartbeat import SILENCE_SECONDS
from gateway.processes.keeping import OTHERS, SEGMENTS
from tests.conftest import Backends, Open, StartGateway
from tests.packaging.files import ROOT
from tests.packaging.unit import Unit
from tests.support.deadline import eventually
from tests.support.fdstore import DescriptorKeeper
from tests.support.frames import CLOSE, TEXT, close, frame, from_client, read_frame
from tests.support.gateway import route, to_one
from tests.support.memory import open_descriptors
from tests.support.notify import Manager
from tests.support.ports import free_port
from tests.support.raw import handshake, request

FILE = ROOT / "deploy" / "systemd" / "upgrade-gateway.service"
UNIT = Unit.read(FILE)
PROGRAM = "/opt/upgrade-gateway/bin/gateway"
CONFIG = "/etc/gateway/gateway.yaml"
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def service(key: str) -> str:
    return UNIT.one("Service", key)


# --- what it says ----------------------------------------------------------------------------------------------------


def test_it_runs_the_commands_that_there_are(tmp_path: Path) -> None:
    start, (check, hup) = service("ExecStart").split(), UNIT.all("Service", "ExecReload")
    assert start == [PROGRAM, "run", "-c", CONFIG]
    assert check.split() == [PROGRAM, "check", "-c", CONFIG]
    assert hup == "kill -HUP $MAINPID"
    file = tmp_path / "gateway.yaml"
    shutil.copy(ROOT / "gateway.yaml", file)
    arguments = [argument.replace(CONFIG, str(file)) for argument in check.split()[1:]]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    file.write_text("listen: nowhere")
    unusable = int(service("RestartPreventExitStatus"))
    assert CliRunner().invoke(main, arguments).exit_code == unusable
    assert (
        CliRunner().invoke(main, [argument.replace(CONFIG, str(file)) for argument in start[1:]]).exit_code == unusable
    )


def test_there_is_time_to_drain() -> None:
    assert int(service("TimeoutStopSec")) >= Drain().period + Timeouts().close + 5
    assert not UNIT.all("Service", "TimeoutAbortSec")


def test_it_lets_workers_live() -> None:
    """Neither the stop of the supervisor nor the death of a worker is the end of all processes."""
    assert service("KillMode") == "control-group"
    assert service("OOMPolicy") == "continue"
    assert not UNIT.all("Service", "KillSignal")
    assert not UNIT.all("Service", "WatchdogSignal")


def test_it_is_started_again_whatever_happens() -> None:
    assert service("Restart") == "always"
    assert UNIT.one("Unit", "StartLimitIntervalSec") == "0"


def test_what_a_supervisor_needs_outlives_it() -> None:
    """The store has room for a large machine's listening sockets; older versions of systemd say nothing of it."""
    most = int(service("FileDescriptorStoreMax"))
    workers, addresses = 64, 6
    assert most >= OTHERS + SEGMENTS + workers * addresses
    assert service("Environment") == f"FDSTORE={most}"
    assert service("RuntimeDirectoryPreserve") == "restart"
    seconds = service("RestartSec").removesuffix("ms")
    assert 0 < int(seconds) <= 1000, "tunnels wait"


def test_the_watchdog_is_for_the_supervisor_and_slower_than_its_own() -> None:
    assert (service("Type"), service("NotifyAccess")) == ("notify", "main")
    assert int(service("WatchdogSec")) > 2 * SILENCE_SECONDS


def test_there_are_descriptors_for_the_largest_table_that_is_usual() -> None:
    assert int(service("LimitNOFILE")) >= 4 * MOST_AUTO_TUNNELS


def test_it_may_open_low_ports_and_nothing_else() -> None:
    assert service("CapabilityBoundingSet") == service("AmbientCapabilities") == "CAP_NET_BIND_SERVICE"
    assert not UNIT.all("Service", "PrivateUsers")
    assert service("DynamicUser") == service("NoNewPrivileges") == "yes"
    assert service("ProtectSystem") == "strict"


@pytest.mark.parametrize("line", ["a", "a=b", "[Service]\na=b\\", "[Service]\na b=c"])
def test_what_is_no_unit_is_not_read(line: str) -> None:
    with pytest.raises(ValueError, match="not a line of a unit"):
        Unit(line)


# --- what systemd says -----------------------------------------------------------------------------------------------


def analyze(*arguments: str | Path) -> str:
    done = subprocess.run(["systemd-analyze", "--no-pager", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


@needs_systemd
def test_systemd_takes_it(tmp_path: Path) -> None:
    unit = tmp_path / FILE.name
    unit.write_text(FILE.read_text().replace(PROGRAM, sys.executable))  # the program has to be there
    assert analyze("verify", unit) == ""


@needs_systemd
def test_systemd_finds_it_well_confined() -> None:
    analyze("security", "--offline=yes", "--threshold=20", FILE)


# --- what it forbids -------------------------------------------------------------------------------------------------


CONFINED = (sys.executable, "-m", "tests.packaging.confined", FILE)
can_confine = pytest.mark.skipif(ctypes.util.find_library("seccomp") is None, reason="libseccomp is not installed")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.close()


@needs_systemd
@can_confine
@pytest.mark.asyncio(loop_scope="module")
async def test_a_gateway_works_under_what_it_forbids(
    start_gateway: StartGateway, backends: Backends, open_connection: Open, manager: Manager, tmp_path: Path
) -> None:
    for refused in ("mmap.mmap(-1, 4096, prot=7)", "socket.socket(socket.AF_NETLINK)", "os.setpriority(0, 0, 5)"):
        program = f"import mmap, os, socket\ntry:\n {refused}\nexcept PermissionError:\n exit(7)"
        done = subprocess.run([*CONFINED, sys.executable, "-c", program], cwd=ROOT, check=False)  # noqa: ASYNC221  # short
        assert done.returncode == 7, refused

    web = await backends.web()
    port = web.address.rpartition(":")[2]
    config = {
        "workers": 2,
        "listen": [{"address": f"127.0.0.1:{free_port()}"}, {"address": f"unix:{tmp_path}/front"}],
        "upstreams": {"web": {"backends": [f"localhost:{port}"]}},
        "routes": [route("all", "web", "/")],
        "drain": {"period": "1s"},
    }
    environ = {**manager.environ, "PYTHONPATH": str(ROOT)}
    gateway = await start_gateway(config, under=CONFINED, env=environ)
    await manager.until("READY")
    await gateway.api("status")  # over a connection that is kept alive
    descriptors = open_descriptors(gateway.process.pid)
    clients = []
    for address in (gateway.address, f"unix:{tmp_path}/front"):
        client = await open_connection(address)
        await client.send(request("/"))
        assert (await client.answer()).status == 200
        await client.send(handshake("/web/ws"))
        assert (await client.head()).status == 101
        await client.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))
        clients.append(client)

    await eventually(lambda: open_descriptors(gateway.process.pid) >= descriptors + 4, "both tunnels to be in store")
    await gateway.kill_worker(0)
    await gateway.kill_worker(1)
    await gateway.until(lambda scrape: scrape.value("gateway_worker_restarts_total") == 2, "new workers")
    for client in clients:
        await client.echoes(from_client(TEXT, b"y"), frame(TEXT, b"y"))

    more = f"127.0.0.1:{free_port()}"
    gateway.config["listen"].append({"address": more})
    access_log = tmp_path / "access.log"
    gateway.write({**gateway.config, "access_log": {"path": str(access_log)}})
    await gateway.reload()
    assert (await gateway.scrape()).value("gateway_config_last_reload_successful") == 1, gateway.stderr.lines[-3:]
    clients.append(await open_connection(more))
    await clients[-1].send(handshake("/web/ws"))
    assert (await clients[-1].head()).status == 101
    assert access_log.stat().st_mode & 0o777 == 0o600
    gateway.process.signal(signal.SIGUSR1)

    gateway.term()
    for client in clients:
        assert await read_frame(client) == (CLOSE, close(1012))
        await client.send(from_client(CLOSE, close(1012)))
        assert await client.ends() == b""
    await gateway.exits(0)
    assert access_log.read_text().count("tunnel_end") == len(clients)


@pytest_asyncio.fixture(loop_scope="module")
async def keeper(tmp_path: Path) -> AsyncIterator[DescriptorKeeper]:
    made = DescriptorKeeper(tmp_path / "notify", int(service("FileDescriptorStoreMax")))
    yield made
    made.close()


@needs_systemd
@can_confine
@pytest.mark.asyncio(loop_scope="module")
async def test_tunnels_outlive_the_supervisor_under_what_it_forbids(
    keeper: DescriptorKeeper, start_gateway: StartGateway, backends: Backends, open_connection: Open, tmp_path: Path
) -> None:
    echo = await backends.echo()
    config = {**to_one(echo.address), "listen": [{"address": f"unix:{tmp_path}/front"}]}
    client, gateway = None, None
    for n in range(3):
        options = keeper.start_options()
        options["env"] = {**options["env"], "PYTHONPATH": str(ROOT), "RUNTIME_DIRECTORY": str(tmp_path)}
        options["under"] = CONFINED
        gateway = await start_gateway(config if gateway is None else gateway.config, **options)
        if client is None:
            client = await open_connection(gateway)
            await client.send(handshake("/"))
            assert (await client.head()).status == 101
            await eventually(lambda: keeper.tunnels() == 1, "the tunnel to be in store")
        await client.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))
        if n < 2:
            gateway.process.signal(signal.SIGKILL)
            await gateway.exits(-signal.SIGKILL)
    assert (await gateway.scrape()).value("gateway_tunnels_adopted_total") == 2
