"""A backend whose conduct a test changes while it runs."""

from __future__ import annotations

import asyncio
from collections import Counter

from gateway.protocol.websocket import accept_of
from tests.support.backends import Scripted
from tests.support.raw import Connection, Head, switching

GOOD, ERRORS, RESETS, HANGS, CLOSES = "good", "500", "resets", "hangs", "closes"


class Moody:
    """Accepts requests and tunnels (echoing bytes) while ``mood`` is good; otherwise does what that says."""

    def __init__(self, backend: Scripted) -> None:
        self.mood = GOOD
        self.address = backend.address
        self.targets: Counter[str] = Counter()
        """of the requests that have come"""
        self._backend = backend
        backend.plays(self._serve)

    async def _serve(self, connection: Connection) -> None:
        try:
            head = Head(await connection.reader.readuntil(b"\r\n\r\n"))
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # a check whether it accepts connections
        self.targets[head.target] += 1
        if self.mood == RESETS:
            connection.reset()
        elif self.mood == HANGS:
            await connection.rest(seconds=3600)
        elif self.mood == ERRORS:
            await connection.send(b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops")
        elif self.mood == GOOD and head.value("upgrade"):
            key = head.value("sec-websocket-key")
            assert key is not None
            await connection.send(switching(accept=accept_of(key.encode()).decode()))
            while data := await connection.reader.read(65536):
                await connection.send(data)
        elif self.mood == GOOD:
            body = f"ready {self.address}"
            await connection.send(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
