"""Fixtures of the integration tests: tunnels full of messages, programs to upgrade to, services that are kept."""

from __future__ import annotations

import os
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest
import pytest_asyncio

import gateway as package
from tests.conftest import StartGateway
from tests.support.certificates import Authority
from tests.support.fdstore import DescriptorKeeper
from tests.support.gateway import Gateway
from tests.support.numbered import Play
from tests.support.plain import RawBackend
from tests.support.tls import TlsConnection, trusting

from .services import MOST, MakeService, Service

Secure = Callable[..., Awaitable[TlsConnection]]


@pytest_asyncio.fixture(loop_scope="module")
async def play() -> AsyncIterator[Play]:
    made = await Play.start()
    yield made
    await made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def raw_backend() -> AsyncIterator[RawBackend]:
    backend = await RawBackend.start()
    yield backend
    await backend.close()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A copy of the package whose sources a test may change; run a gateway with ``upgrades.of`` it."""
    copy = tmp_path / "program" / "gateway"
    ignored = shutil.ignore_patterns("*.c", "*.pxd", "*.pyx")
    shutil.copytree(Path(package.__file__).parent, copy, ignore=ignored, copy_function=_copied)
    return copy


def _copied(source: str, target: str) -> None:
    """Copy a source and its bytecode; link to a compiled module, as these are large and no test changes one."""
    if source.endswith(".so"):
        os.symlink(source, target)
    else:
        shutil.copy2(source, target)


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


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Issues the certificates of the module's gateways."""
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest_asyncio.fixture(loop_scope="module")
async def secure(authority: Authority) -> AsyncIterator[Secure]:
    """Opens connections with TLS to a gateway, and closes them in the end."""
    opened: list[TlsConnection] = []

    async def to(
        gateway: Gateway,
        version: str | None = None,
        name: str | None = "gateway.test",
        context: ssl.SSLContext | None = None,
        shake: bool = True,
    ) -> TlsConnection:
        connection = TlsConnection(context or trusting(authority.ca, version), name, await gateway.connect())
        opened.append(connection)
        if shake:
            await connection.shake()
        return connection

    yield to
    for connection in opened:
        await connection.close()
