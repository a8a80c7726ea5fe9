"""Clients that POST again and again on kept connections, and check every answer.

What they send goes to ``Web``'s ``/upload``, which counts what arrives. So a test can say of each request that it was
answered right, and that the backend got it once.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import random
from collections import Counter
from types import TracebackType

from tests.support.deadline import eventually, quiet_for
from tests.support.raw import Connection, connect, request

SIZES = (1, 100, 3_000, 40_000)
PAUSES = (0, 0.001, 0.02, 0.05)
"""Seconds between two requests of a client: with some of them the connection is at rest for a moment."""


class Posting:
    """Some clients, each with a connection that it uses as long as it is there. They post in ``async with``."""

    def __init__(self, address: str, path: str, clients: int) -> None:
        """:param path: one that ends in ``/upload``, at a ``Web``"""
        self.answered: Counter[str] = Counter()
        """by SHA-256 of its body: how often a request got the right answer"""
        self.failures: Counter[int] = Counter()
        """by the client's port: requests on that connection that got no answer, or not the right one"""
        self.unanswered: set[str] = set()
        """SHA-256 of their bodies"""
        self.errors: list[str] = []
        """what went wrong, for those who read a failed test"""
        self._address = address
        self._path = path
        self._numbers = itertools.count()
        self._over = asyncio.Event()
        self._clients = clients
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Posting:
        connections = [await connect(self._address) for _ in range(self._clients)]
        self._tasks = [asyncio.create_task(self._client(connection)) for connection in connections]
        await self.goes_on()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        await asyncio.gather(*self._tasks)

    async def goes_on(self) -> None:
        """Wait until as many requests were answered, from now on, as there are clients."""
        target = self.answered.total() + self._clients

        def answered() -> bool:
            for task in self._tasks:
                if task.done():
                    task.result()
            return self.answered.total() >= target

        await eventually(answered, "answers")

    async def _client(self, connection: Connection) -> None:
        rng = random.Random(f"{self._path} {next(self._numbers)}")
        try:
            while not self._over.is_set():
                # Between two requests a server may close a connection.
                if connection.reader.at_eof() or not await self._post(connection, rng):
                    await connection.close()
                    connection = await connect(self._address)
                await quiet_for(rng.choice(PAUSES))  # the pace of a client that is tested
        finally:
            await connection.close()

    async def _post(self, connection: Connection, rng: random.Random) -> bool:
        """Send a request and check its answer. :returns: whether the connection is good for another one"""
        body = b"%b %d " % (self._path.encode(), next(self._numbers)) + rng.randbytes(rng.choice(SIZES))
        digest = hashlib.sha256(body).hexdigest()
        if rng.random() < 0.5:
            head = request(self._path, f"Content-Length: {len(body)}", method="POST")
            pieces = [head + body] if rng.random() < 0.5 else [head, body]
        else:
            head = request(self._path, "Transfer-Encoding: chunked", method="POST")
            pieces = [head, b"%x\r\n%b\r\n" % (len(body), body), b"0\r\n\r\n"]
        port = int(connection.name.rpartition(":")[2])
        try:
            for piece in pieces:
                await connection.send(piece)
            answer = await connection.answer()
            assert answer.status == 200, answer
            assert f'"{digest}"' in answer.text, f"another request's answer: {answer}"
        except (AssertionError, OSError) as error:
            self.failures[port] += 1
            self.unanswered.add(digest)
            self.errors.append(f"port {port}: {error!r}"[:500])
            with contextlib.suppress(OSError):
                connection.reset()
            return False
        self.answered[digest] += 1
        return "close" not in (answer.head.value("connection") or "")
