"""The three proxies, each in front of a backend of its own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from tests.peers.differential.rows import Row
from tests.peers.differential.sights import HAPROXY, NGINX, OURS, Sight
from tests.peers.differential.watching import watch
from tests.peers.proxies import start_plain_haproxy, start_plain_nginx
from tests.peers.servers import Servers
from tests.support.gateway import Gateway, to_one
from tests.support.plain import RawBackend


@dataclass
class Proxies:
    """Running proxies."""

    gateway: Gateway
    addresses: dict[str, str]
    backends: dict[str, RawBackend]
    _servers: Servers

    @classmethod
    async def start(cls, directory: Path) -> Proxies:
        """Start them."""
        backends = {name: await RawBackend.start() for name in (OURS, NGINX, HAPROXY)}
        servers = Servers()
        gateway = await Gateway.start(to_one(backends[OURS].address), directory)
        addresses = {
            OURS: gateway.address,
            NGINX: await start_plain_nginx(servers, directory, backends[NGINX].address),
            HAPROXY: await start_plain_haproxy(servers, directory, backends[HAPROXY].address),
        }
        return cls(gateway, addresses, backends, servers)

    async def play(self, row: Row) -> dict[str, Sight]:
        """Play a row against each; what was seen, by proxy."""
        async with asyncio.TaskGroup() as group:
            watching = {
                name: group.create_task(watch(name, address, self.backends[name], row))
                for name, address in self.addresses.items()
            }
        return {name: task.result() for name, task in watching.items()}

    async def close(self) -> None:
        """Stop them."""
        await self._servers.close()
        await self.gateway.stop()
        for backend in self.backends.values():
            await backend.close()
