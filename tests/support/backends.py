"""Servers behind the gateway, on real sockets.

``Echo``      WebSocket, by ``websockets``
``Web``       plain HTTP beside WebSocket, by aiohttp
``Scripted``  whatever a test has it say, byte by byte
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import ssl
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import websockets
from aiohttp import WSMsgType, web
from websockets.asyncio.server import Server, ServerConnection, serve

from tests.support.deadline import turn, within
from tests.support.ports import free_port
from tests.support.raw import BUFFER_BYTES, Connection, Head

SUBPROTOCOL = "v10.stomp"

ACCEPTING_TURNS = 5
"""Of the event loop, in which asyncio makes a connection of what it has accepted."""


class Echo:
    """Sends every message back; speaks ``v10.stomp`` with those who offer it."""

    def __init__(self, server: Server, address: str) -> None:
        self.address = address
        self._server = server

    @classmethod
    async def start(
        cls,
        host: str = "127.0.0.1",
        path: str | None = None,
        compression: str | None = None,
        sock: socket.socket | None = None,
        tls: ssl.SSLContext | None = None,
        port: int | None = None,
    ) -> Echo:
        """Start one.

        :param path: of a unix socket, in place of ``host``
        :param sock: that listens at ``host``
        """
        options: Any = {
            "subprotocols": [SUBPROTOCOL],
            "select_subprotocol": _select,
            "max_size": None,
            "compression": compression,
            "ping_interval": None,
            "ssl": tls,
        }
        if path is not None:
            return cls(await websockets.asyncio.server.unix_serve(_echo, path, **options), f"unix:{path}")
        if sock is not None:
            return cls(await serve(_echo, sock=sock, **options), f"[{host}]:{sock.getsockname()[1]}")
        port = port or free_port(host)
        return cls(await serve(_echo, host, port, **options), f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    @property
    def open(self) -> int:
        """Connections open now."""
        return len(self._server.connections)

    async def close(self) -> None:
        """Close it and its connections."""
        for connection in list(self._server.connections):
            connection.transport.abort()
        self._server.close()
        await within(self._server.wait_closed(), "the echo backend to close")


async def _echo(connection: ServerConnection) -> None:
    try:
        async for message in connection:
            await connection.send(message)
    except websockets.ConnectionClosed:
        pass


def _select(connection: ServerConnection, offered: Any) -> Any:
    return SUBPROTOCOL if SUBPROTOCOL in offered else None


class Web:
    """What people have beside their WebSockets: event streams, long polls, uploads, downloads, socket.io."""

    def __init__(self) -> None:
        self.address = ""
        self.events: dict[str, asyncio.Queue[str | None]] = defaultdict(asyncio.Queue)
        """by path: what an event stream or a long poll says next; None ends a stream, and kills a poll's connection"""
        self.cancelled: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        """by path: set when the request's client has gone"""
        self.arrived: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        """by path: set when a request has come"""
        self.connections: list[Any] = []
        """one entry for each request: where it came from"""
        self.uploads: Counter[str] = Counter()
        """by SHA-256: how often it was uploaded, whole"""
        self._runner: web.AppRunner | None = None

    @classmethod
    async def start(cls, host: str = "127.0.0.1", path: str | None = None, tls: ssl.SSLContext | None = None) -> Web:
        """Start one. :param path: of a unix socket, in place of ``host``"""
        backend = cls()
        app = web.Application(client_max_size=2**40, middlewares=[backend._note])
        app.router.add_get("/{any:.*}/sse", backend._sse)
        app.router.add_get("/{any:.*}/poll", backend._poll)
        app.router.add_route("*", "/{any:.*}/upload", backend._upload)
        app.router.add_get("/{any:.*}/download", backend._download, allow_head=False)
        app.router.add_get("/{any:.*}/socket.io/", backend._socket_io)
        app.router.add_get("/{any:.*}/ws", backend._echo)
        app.router.add_route("*", "/{any:.*}", backend._plain)
        runner = backend._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1, auto_decompress=False
        )
        await runner.setup()
        if path is not None:
            await web.UnixSite(runner, path).start()
            backend.address = f"unix:{path}"
        else:
            port = free_port(host)
            await web.TCPSite(runner, host, port, ssl_context=tls).start()
            backend.address = f"{host}:{port}"
        return backend

    async def close(self) -> None:
        """Close it and its connections."""
        assert self._runner is not None
        await within(close_runner(self._runner), "the web backend to close")

    @web.middleware
    async def _note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.connections.append(request.transport and request.transport.get_extra_info("peername"))
        self.arrived[request.path].set()
        try:
            response: web.StreamResponse = await handler(request)
        except (asyncio.CancelledError, ConnectionError):
            self.cancelled[request.path].set()
            raise
        return response

    async def _sse(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while (event := await self.events[request.path].get()) is not None:
            await response.write(f"data: {event}\n\n".encode())
        return response

    async def _poll(self, request: web.Request) -> web.Response:
        event = await self.events[request.path].get()
        if event is None:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(text=event or "")

    async def _upload(self, request: web.Request) -> web.Response:
        digest = hashlib.sha256()
        size = 0
        async for piece in request.content.iter_any():
            digest.update(piece)
            size += len(piece)
        self.uploads[digest.hexdigest()] += 1
        framing = request.headers.get("Transfer-Encoding") or request.headers.get("Content-Length")
        return web.json_response({"sha256": digest.hexdigest(), "size": size, "framing": framing})

    async def _download(self, request: web.Request) -> web.StreamResponse:
        """Without end, unless ``?size=`` says one."""
        size = int(request.query.get("size", 2**50))
        response = web.StreamResponse()
        if "length" in request.query:
            response.content_length = int(request.query["length"])
        await response.prepare(request)
        piece = bytes(range(256)) * 256
        while size > 0:
            await response.write(piece[:size])
            size -= len(piece)
        return response

    async def _socket_io(self, request: web.Request) -> web.StreamResponse:
        """One path for polling and for the WebSocket that takes over, as engine.io has it."""
        if request.query.get("transport") == "websocket":
            return await self._echo(request)
        return web.json_response({"sid": "1", "upgrades": ["websocket"]})

    async def _echo(self, request: web.Request) -> web.StreamResponse:
        response = web.WebSocketResponse(max_msg_size=0, compress=False)
        await response.prepare(request)
        async for message in response:
            if message.type is WSMsgType.TEXT:
                await response.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await response.send_bytes(message.data)
        return response

    async def _plain(self, request: web.Request) -> web.Response:
        """What was asked, as JSON."""
        body = {
            "method": request.method,
            "target": request.raw_path,
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.raw_headers],
            "body": (await request.read()).decode("latin-1"),
        }
        return web.Response(text=json.dumps(body), content_type="application/json", headers={"X-Backend": self.address})


async def close_runner(runner: web.BaseRunner[Any]) -> None:
    """Close a server of aiohttp, and its connections: also those that are still being accepted, which it forgets."""
    for site in list(runner.sites):
        await site.stop()
    await turn(ACCEPTING_TURNS)
    await runner.cleanup()


Script = Callable[[Connection], Awaitable[None]]


class Scripted:
    """Plays ``script`` on every connection, then closes it."""

    def __init__(self) -> None:
        self.address = ""
        self.script: Script = _hold
        self.heads: asyncio.Queue[Head] = asyncio.Queue()
        """of the requests that a script has read through :meth:`request`"""
        self.failures: list[BaseException] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._server: asyncio.Server | None = None

    @classmethod
    async def start(
        cls, host: str = "127.0.0.1", path: str | None = None, tls: ssl.SSLContext | None = None
    ) -> Scripted:
        """Start one. :param path: of a unix socket, in place of ``host``"""
        backend = cls()
        if path is not None:
            backend._server = await asyncio.start_unix_server(backend._accepted, path, limit=BUFFER_BYTES, ssl=tls)
            backend.address = f"unix:{path}"
        else:
            port = free_port(host)
            backend._server = await asyncio.start_server(
                backend._accepted, host, port, limit=BUFFER_BYTES, backlog=1024, ssl=tls
            )
            backend.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return backend

    def answers(self, data: bytes, hold: bool = False) -> None:
        """Answer every request head with these bytes, then close, or wait for the other side to (for tunnels only).

        A connection that was kept alive would be used again, by a later test, and answer no more.
        """

        async def script(connection: Connection) -> None:
            await self.request(connection)
            await connection.send(data)
            if hold:
                await _hold(connection)

        self.plays(script)

    def plays(self, script: Script) -> None:
        """Serve every connection with a script from now on. Heads that came before are forgotten."""
        self.script = script
        self.heads = asyncio.Queue()

    async def request(self, connection: Connection) -> Head:
        """Read a request's head, and have it in ``heads`` too."""
        head = await connection.head()
        self.heads.put_nowait(head)
        return head

    async def next_head(self) -> Head:
        """The next request head that came."""
        return await within(self.heads.get(), "a request at the backend")

    async def close(self) -> None:
        """Close it and its connections."""
        assert self._server is not None
        self._closing = True
        self._server.close()
        await turn(ACCEPTING_TURNS)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await within(self._server.wait_closed(), "the scripted backend to close")

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = Connection(reader, writer)
        if writer.get_extra_info("socket").family != socket.AF_UNIX:
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self.script(connection)
        except ConnectionError:
            pass
        except asyncio.CancelledError:
            if not self._closing:
                raise
        except Exception as error:
            self.failures.append(error)
        finally:
            self._tasks.discard(task)
            await connection.close()


async def _hold(connection: Connection) -> None:
    """Wait for the other side to go."""
    while await connection.reader.read(65536):
        pass
