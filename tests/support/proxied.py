"""A backend that requires a PROXY header on each connection, and clients that bind to an address of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from dataclasses import dataclass, field

from tests.support.deadline import within
from tests.support.frames import TEXT, frame
from tests.support.ports import free_port
from tests.support.raw import BUFFER_BYTES, Connection, Head, switching

SIGNATURE = bytes.fromhex("0D0A0D0A000D0A515549540A")
Endpoint = tuple[str, int]


@dataclass
class Accepted:
    """One connection to the backend."""

    header: bytes
    source: Endpoint | None = None
    destination: Endpoint | None = None
    requests: list[Head] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)


class ProxyBackend:
    """Answers each request with the addresses of its connection's header, and each message of a tunnel with ``x``."""

    def __init__(self) -> None:
        self.address = ""
        self.connections: list[Accepted] = []
        self.failures: list[BaseException] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._server: asyncio.Server | None = None

    @classmethod
    async def start(cls, host: str = "127.0.0.1") -> ProxyBackend:
        """Start one."""
        backend = cls()
        port = free_port(host)
        backend._server = await asyncio.start_server(backend._accepted, host, port, limit=BUFFER_BYTES, backlog=1024)
        backend.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return backend

    async def close(self) -> None:
        """Close it and its connections."""
        assert self._server is not None
        self._closing = True
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await within(self._server.wait_closed(), "the backend to close")
        assert not self.failures, self.failures

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = Connection(reader, writer)
        accepted = None
        try:
            with contextlib.suppress(ConnectionError):
                accepted = await read_header(reader)
                self.connections.append(accepted)
                await self._serve(connection, accepted)
        except asyncio.CancelledError:
            if not self._closing:
                raise
        except Exception as error:
            self.failures.append(error)
        finally:
            self._tasks.discard(task)
            if accepted is not None:
                accepted.closed.set()
            await connection.close()

    async def _serve(self, connection: Connection, accepted: Accepted) -> None:
        while True:
            try:
                head = Head(await connection.reader.readuntil(b"\r\n\r\n"))
            except asyncio.IncompleteReadError:
                return
            accepted.requests.append(head)
            if head.value("upgrade"):
                await connection.send(switching())
                while await connection.reader.read(65536):
                    await connection.send(frame(TEXT, b"x"))
                return
            await connection.reader.readexactly(int(head.value("content-length") or 0))
            body = json.dumps(
                {
                    "source": accepted.source,
                    "destination": accepted.destination,
                    "forwarded": head.value("x-forwarded-for"),
                }
            ).encode()
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


async def read_header(reader: asyncio.StreamReader) -> Accepted:
    """Read a PROXY header."""
    start = await reader.readexactly(1)
    if start == b"P":
        line = start + await reader.readuntil(b"\r\n")
        words = line.decode("ascii").split()
        assert words[0] == "PROXY"
        if words[1] == "UNKNOWN":
            return Accepted(line)
        _, kind, source, destination, source_port, destination_port = words
        assert kind == ("TCP6" if ":" in source else "TCP4")
        return Accepted(line, (source, int(source_port)), (destination, int(destination_port)))
    fixed = start + await reader.readexactly(15)
    assert fixed.startswith(SIGNATURE)
    command, family, length = struct.unpack("!BBH", fixed[12:])
    body = await reader.readexactly(length)
    if (command, family) != (0x21, 0x11) and (command, family) != (0x21, 0x21):
        assert not body
        return Accepted(fixed)
    wide, of_socket = (4, socket.AF_INET) if family == 0x11 else (16, socket.AF_INET6)
    ports = struct.unpack("!HH", body[2 * wide :])
    hosts = [socket.inet_ntop(of_socket, body[at : at + wide]) for at in (0, wide)]
    return Accepted(fixed + body, (hosts[0], ports[0]), (hosts[1], ports[1]))


async def connect_from(host: str, address: str) -> Connection:
    """Connect to an address from another one of this machine's."""
    to, _, port = address.rpartition(":")
    opening = asyncio.open_connection(to.strip("[]"), int(port), limit=BUFFER_BYTES, local_addr=(host, 0))
    return Connection(*await within(opening, f"a connection from {host}"))
