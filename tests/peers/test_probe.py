"""``gateway probe`` through real middleboxes that cut silent connections after 5 s: nginx, HAProxy, a NAT.

Nearly all of it is waiting, so all probes run at once, and each test looks at what one came to.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import websockets
from websockets.asyncio.server import ServerConnection, serve

from tests.conftest import Backends
from tests.peers.proxies import UPGRADE, start_haproxy, start_nginx
from tests.peers.servers import Servers
from tests.support.backends import Echo
from tests.support.deadline import SCALE
from tests.support.gateway import COMMAND
from tests.support.netns import Namespace, silent_nat
from tests.support.process import run

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180 * SCALE)]

CUTOFF_SECONDS = 5
OPTIONS = ("--max", "12s", "--pong-timeout", "2s")
QUIET = logging.getLogger("tests.peers.probe.server")
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False

Answer = tuple[int, str, str]
Probes = dict[str, asyncio.Task[Answer]]


async def probe(url: str, *options: str, namespace: Namespace | None = None) -> Answer:
    """Run it; exit status, stdout, stderr."""
    command: Sequence[str | Path] = (*COMMAND, "probe", url, *OPTIONS, *options)
    return await run(command if namespace is None else namespace.command(*command), seconds=150 * SCALE)


@contextlib.asynccontextmanager
async def behind_a_nat(refuses: bool) -> AsyncIterator[tuple[str, Namespace]]:
    """A server behind a NAT: its URL, and where its clients are. :param refuses: as ``SilentNat.refuse`` does"""

    async def echo(connection: ServerConnection) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            async for message in connection:
                await connection.send(message)

    async with silent_nat(CUTOFF_SECONDS) as nat:
        listening = nat.server.listen()
        port = listening.getsockname()[1]
        if refuses:
            nat.refuse(port)
        server = Echo(
            await serve(echo, sock=listening, ping_interval=None, logger=QUIET), f"{nat.server.address}:{port}"
        )
        try:
            yield f"ws://{server.address}/", nat.client
        finally:
            await server.close()


async def through_a_nat(refuses: bool) -> Answer:
    async with behind_a_nat(refuses) as (url, client):
        return await probe(url, "--json", namespace=client)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def probes(shared_backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Probes]:
    """Probes of all the paths."""
    async with AsyncExitStack() as stack:
        servers = Servers()
        stack.push_async_callback(servers.close)
        directory = tmp_path_factory.mktemp("proxies")
        echo = await shared_backends.echo()
        location = f"location / {{ proxy_pass http://{echo.address}; {UPGRADE} proxy_read_timeout {CUTOFF_SECONDS}s; }}"
        plain = f"location /stripped {{ proxy_pass http://{echo.address}; }}"
        nginx = await start_nginx(servers, directory, location + plain)
        haproxy = await start_haproxy(servers, directory, {"/": echo.address}, tunnel=f"{CUTOFF_SECONDS}s")
        tasks = {
            "nginx": asyncio.create_task(probe(f"ws://{nginx}/", "--json")),
            "nginx in words": asyncio.create_task(probe(f"ws://{nginx}/")),
            "nginx that strips": asyncio.create_task(probe(f"ws://{nginx}/stripped")),
            "haproxy": asyncio.create_task(probe(f"ws://{haproxy}/", "--json")),
            "nat": asyncio.create_task(through_a_nat(refuses=False)),
            "nat that refuses": asyncio.create_task(through_a_nat(refuses=True)),
        }
        yield tasks
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


async def result(probes: Probes, path: str) -> Any:
    """What a probe prints; it shows in the test's output, too."""
    status, stdout, stderr = await probes[path]
    assert status == 0, stderr
    found = json.loads(stdout)
    print(path, {key: value for key, value in found.items() if key != "tunnels"})
    return found


@pytest.mark.parametrize(
    ("path", "ended_by", "by_itself"),
    [
        ("nginx", "fin", True),
        ("haproxy", "fin", True),
        ("nat", "silence", False),
        ("nat that refuses", "reset", False),
    ],
)
async def test_the_cutoff(probes: Probes, path: str, ended_by: str, by_itself: bool) -> None:
    found = await result(probes, path)
    cutoff = found["cutoff_seconds"]
    assert cutoff["low"] <= CUTOFF_SECONDS <= cutoff["high"]
    assert cutoff["high"] - cutoff["low"] <= 1
    assert (found["ended_by"], found["ends_by_itself"], found["close_code"]) == (ended_by, by_itself, None)
    assert found["ping_after_seconds"] == pytest.approx(0.8 * cutoff["low"], abs=0.1)
    assert found["lifetime_seconds"] is None
    assert found["confirmed"]
    assert found["tunnels_failed"] == 0


async def test_who_it_may_be(probes: Probes) -> None:
    found = await result(probes, "nginx")
    assert found["server"][0].startswith("nginx/")
    assert found["culprits"] == [
        {"name": "nginx", "setting": "proxy_read_timeout", "default_seconds": 60, "fits": False}
    ]
    assert (await result(probes, "haproxy"))["culprits"] == []


async def test_in_words(probes: Probes) -> None:
    status, stdout, _ = await probes["nginx in words"]
    assert status == 0
    sentence = stdout.splitlines()[0]
    assert sentence.startswith("silence is cut between 4.")
    assert ", by a FIN without Close; " in sentence
    assert "the answer names nginx, whose `proxy_read_timeout` may be that; ping every 2–3.5 s" in sentence  # noqa: RUF001


async def test_a_proxy_that_strips_the_upgrade(probes: Probes) -> None:
    status, stdout, stderr = await probes["nginx that strips"]
    assert (status, stdout) == (1, "")
    assert "the handshake was refused: 426 Upgrade Required" in stderr
    assert "a proxy on the path strips Upgrade and Connection" in stderr
