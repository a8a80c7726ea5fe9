"""Fixtures that integration and peers tests share: gateways, backends, connections.

Modules share an event loop, so that a gateway and its backends may serve all tests of a module.
"""

from __future__ import annotations

import gc
import itertools
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import pytest
import pytest_asyncio

from tests.support.backends import Echo, Scripted, Web
from tests.support.deadline import SOAK
from tests.support.examples import examples
from tests.support.gateway import Gateway
from tests.support.launcher import close_launcher
from tests.support.raw import Connection, connect

StartGateway = Callable[..., Awaitable[Gateway]]
Open = Callable[..., Awaitable[Connection]]
_running: list[Gateway] = []

Started = TypeVar("Started", Echo, Scripted, Web)


# How long examples take is up to what else the machine does. They are the same ones each time, so that nobody's change
# fails for a fault that it did not bring; `make soak` looks for others.
hypothesis.settings.register_profile(
    "gateway",
    deadline=None,
    max_examples=examples(100),
    derandomize=not SOAK,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("gateway")


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts what it runs in the background with SIGINT ignored, and so would be what tests start from there.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "soak: has a full size that takes minutes, run with GATEWAY_SOAK=1")
    config.addinivalue_line(
        "markers", "either_build: does the same whichever build is there, and so is not run once more for the other"
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without looking for garbage, of which there is none: that took two fifths of the time.

    What was collected stays to the end, so it is not looked through again while tests run.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long begin, so that in the end, when tests run in parallel, nobody waits for one of them."""
    items.sort(key=lambda item: LONG.index(folder) if (folder := item.path.parent.name) in LONG else len(LONG))


def pytest_unconfigure() -> None:
    close_launcher()


LONG = ("packaging", "processes", "probe", "integration", "orders", "tunnels")
"""Folders of files that take long, the longest first."""


class Backends:
    """Starts backends, and closes them in the end."""

    def __init__(self) -> None:
        self._started: list[Echo | Scripted | Web] = []

    async def echo(self, **options: Any) -> Echo:
        return self._add(await Echo.start(**options))

    async def web(self, **options: Any) -> Web:
        return self._add(await Web.start(**options))

    async def scripted(self, **options: Any) -> Scripted:
        return self._add(await Scripted.start(**options))

    async def close(self) -> None:
        for backend in self._started:
            await backend.close()
        for backend in self._started:
            if isinstance(backend, Scripted):
                assert not backend.failures, f"a script failed: {backend.failures!r}"

    def _add(self, backend: Started) -> Started:
        self._started.append(backend)
        return backend


@pytest.fixture(autouse=True)
def _logs_are_clean() -> Iterator[None]:
    """No test leaves a traceback in the log of a gateway that it shares with others."""
    yield
    for gateway in _running:
        gateway.check_log()


async def _gateways(directory: Callable[[], Path]) -> AsyncIterator[StartGateway]:
    mine: list[Gateway] = []

    async def start(config: Mapping[str, Any], **options: Any) -> Gateway:
        gateway = await Gateway.start(config, directory(), **options)
        mine.append(gateway)
        _running.append(gateway)
        return gateway

    yield start
    failures = []
    for gateway in mine:
        _running.remove(gateway)
        try:
            await gateway.stop()
        except AssertionError as error:
            failures.append(str(error))
    assert not failures, "\n".join(failures)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_backends() -> AsyncIterator[Backends]:
    """Starts backends that live as long as the module's tests."""
    backends = Backends()
    yield backends
    await backends.close()


@pytest_asyncio.fixture(loop_scope="module")
async def backends() -> AsyncIterator[Backends]:
    """Starts backends for one test."""
    backends = Backends()
    yield backends
    await backends.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def start_shared_gateway(
    tmp_path_factory: pytest.TempPathFactory, shared_backends: Backends
) -> AsyncIterator[StartGateway]:
    """Starts gateways that live as long as the module's tests."""
    async for start in _gateways(lambda: tmp_path_factory.mktemp("gateway")):
        yield start


@pytest_asyncio.fixture(loop_scope="module")
async def start_gateway(tmp_path: Path, backends: Backends) -> AsyncIterator[StartGateway]:
    """Starts gateways for one test, each in a directory of its own."""
    numbers = itertools.count()

    def directory() -> Path:
        path = tmp_path / f"gateway-{next(numbers)}"
        path.mkdir()
        return path

    async for start in _gateways(directory):
        yield start


@pytest_asyncio.fixture(loop_scope="module")
async def open_connection() -> AsyncIterator[Open]:
    """Opens raw connections, to a gateway or to an address, and closes them in the end."""
    opened: list[Connection] = []

    async def open_to(where: Gateway | str) -> Connection:
        connection = await (connect(where) if isinstance(where, str) else where.connect())
        opened.append(connection)
        return connection

    yield open_to
    for connection in opened:
        await connection.close()
