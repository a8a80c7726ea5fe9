"""Fixtures of the peers tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.peers.servers import Servers


@pytest_asyncio.fixture(loop_scope="module")
async def servers() -> AsyncIterator[Servers]:
    """Starts other people's servers for one test."""
    servers = Servers()
    yield servers
    await servers.close()
