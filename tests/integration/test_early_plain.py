"""Plain requests that come before a worker has imported what serves them.

The import takes as long here as a test wants it to: a file has to be there first.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conftest import Backends, Open, StartGateway
from tests.support.backends import Web
from tests.support.deadline import eventually
from tests.support.frames import TEXT, frame, from_client
from tests.support.gateway import Gateway, to_one
from tests.support.memory import open_sockets
from tests.support.process import gone, is_alive
from tests.support.raw import Connection, handshake, request

from .upgrades import upgrade

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAIT = """
import pathlib, sys, time

class Wait:
    def find_spec(self, name, path=None, target=None):
        if name == "gateway.edge.plain" and "gateway.processes.boot" in sys.orig_argv:
            here = pathlib.Path(__file__).parent
            (here / "begun").touch()
            while not (here / "go").exists():
                time.sleep(0.01)

sys.meta_path.insert(0, Wait())
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(shared_backends: Backends) -> Web:
    return await shared_backends.web()


@pytest.fixture
def imports(tmp_path: Path) -> Path:
    """Where ``begun`` appears when a worker comes to plain HTTP, which waits for ``go``."""
    directory = tmp_path / "imports"
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(WAIT)
    return directory


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(start_gateway: StartGateway, web: Web, imports: Path) -> AsyncIterator[Gateway]:
    """One that waits."""
    yield await start_gateway(to_one(web.address), env={"PYTHONPATH": str(imports)})
    (imports / "go").touch()  # a process waits for its threads


@pytest_asyncio.fixture(loop_scope="module")
async def early(gateway: Gateway, imports: Path, open_connection: Open) -> Connection:
    """A client whose request waits."""
    client = await open_connection(gateway)
    await client.send(request("/early"))
    await eventually((imports / "begun").exists, "the import")
    return client


async def test_it_waits_and_tunnels_go_on(
    gateway: Gateway, imports: Path, early: Connection, open_connection: Open
) -> None:
    tunnel = await open_connection(gateway)
    await tunnel.send(handshake("/tunnel/ws"))
    assert (await tunnel.head()).status == 101
    another = await open_connection(gateway)
    await another.send(request("/another") + request("/pipelined"))
    for _ in range(10):
        await tunnel.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))
    assert await early.is_quiet()
    (imports / "go").touch()
    assert (await early.answer()).status == 200
    await early.send(request("/again"))
    assert (await early.answer()).status == 200
    assert (await another.answer()).status == 200
    assert (await another.answer()).status == 200
    await tunnel.echoes(from_client(TEXT, b"y"), frame(TEXT, b"y"))


@pytest.mark.either_build
@pytest.mark.parametrize("goes", ["reset", "fin"])
async def test_a_client_that_does_not_wait(gateway: Gateway, imports: Path, open_connection: Open, goes: str) -> None:
    (worker,) = await gateway.worker_pids()
    before = open_sockets(worker)
    refused = request("/", "Sec-WebSocket-Key: x", "Connection: close")  # no backend sees it, so none is connected to
    early = await open_connection(gateway)
    await early.send(refused)
    await eventually((imports / "begun").exists, "the import")
    if goes == "reset":
        early.reset()
    else:
        await early.close()
    assert open_sockets(worker) == before + 1
    (imports / "go").touch()
    other = await open_connection(gateway)
    await other.send(refused)
    assert (await other.answer()).status == 426
    await eventually(lambda: open_sockets(worker) == before, "connections to be closed")


@pytest.mark.either_build
async def test_a_drain_waits_for_it(gateway: Gateway, imports: Path, early: Connection) -> None:
    gateway.term()
    await gateway.stderr.containing("draining")
    assert await early.is_quiet()
    assert gateway.process.status is None
    (imports / "go").touch()
    answer = await early.answer()
    assert answer.status == 503
    assert answer.head.value("connection") == "close"
    await gateway.exits(0)


@pytest.mark.either_build
async def test_an_end_does_not_wait_for_it(gateway: Gateway, imports: Path, early: Connection) -> None:
    gateway.process.signal(signal.SIGINT)
    assert await early.ends() == b""
    (imports / "go").touch()
    await gateway.exits(0)


@pytest.mark.either_build
async def test_an_upgrade_leaves_it_with_the_old_worker(
    gateway: Gateway, imports: Path, early: Connection, open_connection: Open
) -> None:
    (old,) = await gateway.worker_pids()
    await upgrade(gateway, wait=False)
    tunnel = await open_connection(gateway)
    await tunnel.send(handshake("/tunnel/ws"))
    assert (await tunnel.head()).status == 101
    assert await early.is_quiet()
    assert is_alive(old)
    (imports / "go").touch()
    assert (await early.answer()).status == 200
    await gone(old)
