"""Fixtures of the TLS peers tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.conftest import Backends, StartGateway
from tests.peers.servers import Servers
from tests.peers.tls.dribble import Dribble
from tests.peers.tls.site import Site, start_site
from tests.peers.tls.talking import Gnutls, SClient, SServer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(
    start_shared_gateway: StartGateway, shared_backends: Backends, tmp_path_factory: pytest.TempPathFactory
) -> Site:
    """A gateway with TLS for all tests of a module."""
    return await start_site(start_shared_gateway, shared_backends, tmp_path_factory.mktemp("site"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dribble(site: Site) -> AsyncIterator[Dribble]:
    """A relay to the module's gateway that forwards one byte at a time."""
    relay = await Dribble.start(site.unix)
    yield relay
    await relay.close()


@pytest.fixture
def s_client(servers: Servers, site: Site) -> SClient:
    """Starts ``openssl s_client``."""
    return SClient(servers, site)


@pytest.fixture
def gnutls(servers: Servers, site: Site) -> Gnutls:
    """Starts ``gnutls-cli``."""
    return Gnutls(servers, site)


@pytest.fixture
def s_server(servers: Servers) -> SServer:
    """Starts ``openssl s_server``."""
    return SServer(servers)
