"""A stand-in for systemd: the socket that services send notify messages to, and what came."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from tests.support.deadline import DEADLINE_SECONDS, within

Message = dict[str, str]


class Manager:
    """A service manager's end."""

    def __init__(self, address: str) -> None:
        """:param address: a path, or a name of the abstract namespace behind an ``@``"""
        self.environ = {"NOTIFY_SOCKET": address}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def messages(self) -> list[Message]:
        """What has come that nobody took."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(parsed(self._socket.recv(65536)))
        return found

    async def message(self) -> Message:
        """Take the next message, once it is there."""
        return parsed(await within(self._receive(), "a message"))

    async def until(self, name: str, seconds: float = DEADLINE_SECONDS) -> list[Message]:
        """Take messages up to the first that has a line with this name."""

        async def receiving() -> list[Message]:
            found = [parsed(await self._receive())]
            while name not in found[-1]:
                found.append(parsed(await self._receive()))
            return found

        return await within(receiving(), f"a message with {name}", seconds)

    def close(self) -> None:
        self._socket.close()

    async def _receive(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._socket, 65536)


def parsed(datagram: bytes) -> Message:
    """:raises ValueError: a line has no name, or a name comes twice"""
    lines = [line.split("=", 1) for line in datagram.decode().split("\n")]
    found = {name: value for name, value in lines}
    if len(found) < len(lines):
        raise ValueError(f"a name comes twice: {datagram!r}")
    return found
