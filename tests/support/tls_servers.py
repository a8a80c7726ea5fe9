"""Contexts of TLS servers and clients, by Python's ``ssl``, for the gateway's peers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.certificates import Files
from tests.support.ports import free_port

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def server(
    files: Files,
    version: ssl.TLSVersion | None = None,
    suites: str | None = None,
    client_ca: Path | None = None,
) -> ssl.SSLContext:
    """That of a server.

    :param version: the only one it speaks
    :param suites: of TLS 1.2, as OpenSSL names them
    :param client_ca: issuer of the certificate that it requires of clients
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    context.set_alpn_protocols(["http/1.1"])
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if suites is not None:
        context.set_ciphers(suites)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Alerting:
    """A server that makes handshakes and then holds its connections. Unlike asyncio's it sends alerts."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._listener.getsockname())
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for each in self._held:
            each.close()

    def _serve(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            accepted.settimeout(10)
            with contextlib.suppress(OSError):
                self._held.append(self._context.wrap_socket(accepted, server_side=True))


class Bytewise:
    """Passes connections on, each byte on its own: records arrive in pieces."""

    def __init__(self, to: str) -> None:
        self._to = to
        self.address = ""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(cls, to: str) -> Bytewise:
        """Start one. :param to: address of the backend"""
        made = cls(to)
        port = free_port()
        made._server = await asyncio.start_server(made._accepted, "127.0.0.1", port)
        made.address = f"127.0.0.1:{port}"
        return made

    async def close(self) -> None:
        """Close it and its connections."""
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        host, _, port = self._to.rpartition(":")
        other_reader, other_writer = await asyncio.open_connection(host, int(port))
        for each in (writer, other_writer):
            each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(_pump(reader, other_writer))
                pumps.create_task(_pump(other_reader, writer))
        except* OSError:
            pass
        finally:
            for each in (writer, other_writer):
                each.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(4096):
        for at in range(len(data)):
            writer.write(data[at : at + 1])
            if at % 64 == 0:
                await writer.drain()
                await asyncio.sleep(0)
    if writer.can_write_eof():
        writer.write_eof()
