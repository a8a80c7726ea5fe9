"""Serves HTTP on the admin address's socket.

A few hundred lines of ours instead of a framework's: with aiohttp the supervisor took 10 MB more
(docs/decisions/worker-processes.md), and ``protocol/`` reads heads and bodies anyway.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping

from gateway.admin.connection import READ_BYTES, Connection
from gateway.admin.messages import Handler
from gateway.observe.seldom import Seldom

MAX_CONNECTIONS = 500
"""At the same time. Beyond it, the one that has waited longest for a request is closed, or the new one."""

log = logging.getLogger("gateway")


class HttpServer:
    """A socket that accepts connections, and the connections."""

    def __init__(self, handler: Handler, common: Mapping[str, str]) -> None:
        """
        :param handler: answers all requests
        :param common: fields that every answer has
        """
        self._handler = handler
        self._common = common
        self._connections: dict[asyncio.Task[None], Connection] = {}
        self._server: asyncio.Server | None = None
        self._warn = Seldom(log.warning)

    async def start(self, sock: socket.socket) -> None:
        """Accept connections. :param sock: bound, of any family; the server owns it"""
        self._server = await asyncio.start_server(self._accepted, sock=sock, limit=READ_BYTES)

    async def close(self, seconds: float) -> None:
        """Close the socket and all connections. :param seconds: what requests in progress are given to end"""
        if self._server is not None:
            self._server.close()
        for task, connection in self._connections.items():
            connection.closing = True
            if connection.idle_since is not None:
                task.cancel()
        if tasks := list(self._connections):
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._has_room():
            self._warn("admin: refused a connection: there are %d already", MAX_CONNECTIONS)
            writer.transport.abort()
            return
        connection = Connection(reader, writer, self._handler, self._common)
        task = asyncio.get_running_loop().create_task(connection.serve())
        self._connections[task] = connection
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task).abort()  # here, as serve() may not even have begun
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("admin: a connection has failed", exc_info=error)

    def _has_room(self) -> bool:
        """Whether another connection can be served. Makes room if there is an idle one."""
        if len(self._connections) < MAX_CONNECTIONS:
            return True
        idle = [(each.idle_since, task) for task, each in self._connections.items() if each.idle_since is not None]
        if idle:
            min(idle, key=lambda each: each[0])[1].cancel()
        return bool(idle)
