"""Contexts of TLS servers and clients, by Python's ``ssl``, for the gateway's peers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from array import array
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.edge.tls.contexts import load_pair, server_context
from gateway.edge.tls.handshake import Handshake
from gateway.edge.tls.secrets import KeyLog
from gateway.protocol.tls.content import CLOSED
from gateway.protocol.tls.records import Records
from gateway.protocol.tls.state import ANSWER_DUE
from tests.support.certificates import Files
from tests.support.deadline import quiet_for, turn
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
                await turn()
    if writer.can_write_eof():
        writer.write_eof()


class OwnTls:
    """A server whose records are sealed by the gateway's own record layer, as Python's ``ssl`` sends no KeyUpdate, no
    alert, and no data without being asked. It answers every request; what follows a 101 is ignored."""

    def __init__(
        self, context: ssl.SSLContext, key_log: KeyLog, answer: bytes, ends: bool | None, stops_after: int | None
    ) -> None:
        self.address = ""
        self._key_log = key_log
        self.links: list[OwnLink] = []
        self._context = context
        self._answer = answer
        self._ends = ends
        self._stops_after = stops_after
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []
        self._cut: int | None = None
        self._delay = 0.0
        self.behind: list[bytes] = []
        """what each answer is followed by at once, each in records of its own"""

    @classmethod
    async def start(
        cls,
        files: Files,
        version: ssl.TLSVersion,
        answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ends: bool | None = None,
        stops_after: int | None = None,
        cut: int | None = None,
        delay: float = 0,
        port: int | None = None,
    ) -> OwnTls:
        """Start one.

        :param ends: whether the connection ends behind the first answer with close_notify; None for no end
        :param stops_after: say no more after so many bytes
        :param delay: seconds before it makes a handshake
        :param port: to listen at
        :param cut: send answers in two writes, the first of them with so many bytes of the last record
        """
        key_log = KeyLog()
        context = server_context(key_log)
        context.minimum_version = context.maximum_version = version
        load_pair(context, files.cert.read_text(), files.key.read_text())
        made = cls(context, key_log, answer, ends, stops_after)
        made._cut = cut
        made._delay = delay
        port = port or free_port()
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
        self._key_log.close()
        assert not self._failures, f"a backend failed: {self._failures!r}"

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        link = OwnLink(reader, writer)
        self.links.append(link)
        try:
            await quiet_for(self._delay)
            await link.shake_hands(Handshake(self._key_log, choose=lambda name: self._context), self._stops_after)
            received = b""
            while True:
                while b"\r\n\r\n" not in received:
                    data = await link.read()
                    if not data:
                        return
                    received += data
                _, _, received = received.partition(b"\r\n\r\n")
                await link.say_all([self._answer, *self.behind], self._cut, self._ends or False)
                if self._ends is not None:
                    writer.close()
                    return
        except OSError:
            pass
        except Exception as error:
            self._failures.append(error)
        finally:
            link.over.set()
            writer.close()


class OwnLink:
    """A connection of :class:`OwnTls`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.over = asyncio.Event()
        """set when the gateway has ended it"""
        self.was_notified = False
        """whether it did so with close_notify"""
        self._reader = reader
        self._wire = bytearray(256 * 1024)
        self._records = Records(self._wire)
        self._cells = memoryview(array("q", [0]))
        self._half = b""

    async def shake_hands(self, handshake: Handshake, stops_after: int | None) -> None:
        """Make the handshake. :param stops_after: say no more after so many bytes"""
        while handshake.established is None:
            data = await self._reader.read(65536)
            if not data:
                raise ConnectionResetError
            handshake.receive(data)
            while handshake.established is None and handshake.has_record:
                handshake.step()
            output = handshake.take_output()
            if stops_after is not None:
                self.writer.write(output[:stops_after])
                await self._reader.read()
                raise ConnectionResetError
            self.writer.write(output)
        self._cells = memoryview(handshake.established.cells)
        self._half = handshake.rest()

    async def read(self) -> bytes:
        """What comes next; empty at the end."""
        sink = bytearray(len(self._wire))
        while True:
            data = self._half
            self._wire[: len(data)] = data
            got = self._records.open(self._cells, 0, 0, len(data), sink, 0)
            self._half = data[self._records.used :]
            if self._records.event == CLOSED:
                self.was_notified = True
            if got:
                return bytes(sink[:got])
            if self._records.event:
                return b""
            data = await self._reader.read(65536)
            if not data:
                return b""
            self._half += data

    def say(self, data: bytes) -> None:
        """Send data."""
        self._send(self._records.seal(self._cells, 0, bytearray(data), 0, len(data), 0))

    async def say_all(self, pieces: list[bytes], cut: int | None, ends: bool) -> None:
        """Send pieces of data at once, each in records of its own.

        :param cut: send them in two writes, the first of them with so many bytes of the last record
        :param ends: send close_notify with them
        """
        records = []
        for piece in pieces:
            size = self._records.seal(self._cells, 0, bytearray(piece), 0, len(piece), 0)
            records.append(bytes(self._wire[:size]))
        if ends:
            size = self._records.close(self._cells, 0)
            records.append(bytes(self._wire[:size]))
        data = b"".join(records)
        end = len(data) if cut is None else len(data) - len(records[-1]) + cut
        self.writer.write(data[:end])
        if cut is not None:
            await quiet_for(0.1)  # the first part is read on its own
            self.writer.write(data[end:])

    def update_key(self) -> None:
        """Send a KeyUpdate, and use new keys from then on."""
        self._cells[ANSWER_DUE] = 1
        self._send(self._records.answer(self._cells, 0))

    def alert(self, description: int) -> None:
        """Send a fatal alert."""
        self._send(self._records.refuse(self._cells, 0, description))

    def end(self) -> None:
        """Send close_notify."""
        self._send(self._records.close(self._cells, 0))

    def _send(self, size: int) -> None:
        self.writer.write(bytes(self._wire[:size]))
