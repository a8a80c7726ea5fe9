"""An auth server as a test wants it: what it is asked is kept, and it answers as the request's ``X-Case`` says, or the
path that it is asked at.

Without a case it lets in those with ``Authorization: Bearer good``, as ``ann``.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable

from tests.support.backends import ACCEPTING_TURNS
from tests.support.deadline import turn, within
from tests.support.ports import free_port
from tests.support.raw import BUFFER_BYTES, Connection, Head

Case = bytes | Callable[[Connection, Head], Awaitable[object]]
"""An answer as it goes, or what happens in its place; a false result ends the connection."""

GOOD = "Authorization: Bearer good"
LET_IN = b"HTTP/1.1 200 OK\r\nX-User: ann\r\nX-Group: a\r\nX-Other: x\r\nX-Group: b\r\nContent-Length: 2\r\n\r\nOK"
REFUSED = (
    b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
    b"Content-Type: application/json\r\nContent-Length: 17\r\nKeep-Alive: timeout=5\r\n\r\n"
    b'{"error": "none"}'
)


class AuthServer:
    """An auth server that speaks keep-alive."""

    def __init__(self) -> None:
        self.address = ""
        self.asked: list[Head] = []
        self.came = asyncio.Event()
        """set when a sub-request has come; for tests to clear"""
        self.cases: dict[str, Case] = {}
        self.connections = 0
        self.open = 0
        self.held = asyncio.Event()
        """what :func:`hangs` waits for"""
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @classmethod
    async def start(cls, tls: ssl.SSLContext | None = None, port: int | None = None) -> AuthServer:
        """Start one on 127.0.0.1."""
        made = cls()
        port = port or free_port()
        made._server = await asyncio.start_server(
            made._accepted, "127.0.0.1", port, limit=BUFFER_BYTES, backlog=4096, ssl=tls, reuse_address=True
        )
        made.address = f"127.0.0.1:{port}"
        return made

    @property
    def url(self) -> str:
        return f"http://{self.address}/check?from=gateway"

    @property
    def last(self) -> Head:
        """What was asked last."""
        return self.asked[-1]

    async def hang(self, connection: Connection, head: Head) -> bool:
        """A case: answer when ``held`` is set, as without a case."""
        await self.held.wait()
        return await self.decide(connection, head)

    async def decide(self, connection: Connection, head: Head) -> bool:
        """Answer as without a case."""
        await connection.send(LET_IN if head.values("authorization") == ["Bearer good"] else REFUSED)
        return True

    async def close(self) -> None:
        """Close it and its connections."""
        assert self._server is not None
        self._server.close()
        await turn(ACCEPTING_TURNS)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await within(self._server.wait_closed(), "the auth server to close")

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        connection = Connection(reader, writer)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while True:
                head = Head(await reader.readuntil(b"\r\n\r\n"))
                self.asked.append(head)
                self.came.set()
                case = self.cases.get(head.value("x-case") or head.target[1:], self.decide)
                if isinstance(case, bytes):
                    await connection.send(case)
                elif not await case(connection, head):
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the gateway has closed it, or the test is over
        finally:
            self.open -= 1
            self._tasks.discard(task)
            await connection.close()
