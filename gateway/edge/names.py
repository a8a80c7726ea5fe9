"""Addresses of backends that are given by name, looked up beside the relay and kept.

A worker must never wait for a name server while it relays, so names are resolved when the configuration comes in and
again every ``REFRESH_SECONDS``; dialling takes the latest answer. A name server that fails takes nothing away.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable
from ipaddress import ip_address

from gateway.config.address import Address

REFRESH_SECONDS = 30.0
log = logging.getLogger("gateway")

SocketAddress = tuple[int, tuple[str, int] | tuple[str, int, int, int] | str]
"""A socket's family, and what its ``connect()`` takes."""


class Names:
    """The resolver of one worker."""

    def __init__(self) -> None:
        self._known: dict[Address, list[SocketAddress]] = {}
        self._turn = 0
        self._task: asyncio.Task[None] | None = None

    async def use(self, addresses: Iterable[Address]) -> None:
        """Resolve what dialling will need, once, and keep it fresh from now on."""
        wanted = set(addresses)
        known = {address: found for address, found in self._known.items() if address in wanted}
        named = []
        for address in wanted:
            literal = _literal(address)
            if literal is None:
                named.append(address)
            else:
                known[address] = [literal]
        self._known = known
        await asyncio.gather(*(self._look_up(address) for address in named))
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if named:
            self._task = asyncio.create_task(self._refresh(named), name="names")

    def of(self, address: Address) -> list[SocketAddress]:
        """Where a backend can be reached, best first; empty while its name does not resolve."""
        found = self._known.get(address, [])
        if len(found) < 2:
            return found
        self._turn += 1
        start = self._turn % len(found)
        return found[start:] + found[:start]

    async def close(self) -> None:
        """Stop refreshing."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _refresh(self, named: list[Address]) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            await asyncio.gather(*(self._look_up(address) for address in named))

    async def _look_up(self, address: Address) -> None:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            )
        except OSError as error:
            log.warning("backend %s: its name does not resolve: %s", address, error)
            return
        self._known[address] = [(family, sockaddr) for family, _, _, _, sockaddr in found]  # type: ignore[misc]  # typeshed allows for families that SOCK_STREAM over TCP has not


def _literal(address: Address) -> SocketAddress | None:
    """An address that needs no name server."""
    if address.path is not None:
        return socket.AF_UNIX, address.path
    assert address.host is not None
    assert address.port is not None
    try:
        family = socket.AF_INET if ip_address(address.host).version == 4 else socket.AF_INET6
    except ValueError:
        return None
    return family, (address.host, address.port)
