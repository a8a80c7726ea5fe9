"""Both ends of many tunnels at once: they shake hands, answer Pings and Close frames, and otherwise keep silent."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from websockets.frames import apply_mask

from tests.support.deadline import within
from tests.support.frames import BINARY, CLOSE, PING, PONG, TEXT, frame
from tests.support.raw import Head, handshake, switching


class Endpoint(asyncio.Protocol):
    """One end of a tunnel. Frames that it takes have less than 126 bytes, and messages have one frame."""

    def __init__(self, path: str | None = None, on_open: Callable[[Endpoint], None] = lambda endpoint: None) -> None:
        """
        :param path: what a client asks for; None for a server
        :param on_open: called once hands are shaken
        """
        self.path = path or ""
        self.head: Head | None = None
        """that came: a client's request, a server's answer"""
        self.answered = asyncio.Event()
        """hands are shaken, or will not be"""
        self.ended = asyncio.Event()
        self.close_code: int | None = None
        """of the Close frame that came"""
        self.pings = 0
        """that came"""
        self._is_client = path is not None
        self._on_open = on_open
        self._messages: asyncio.Queue[bytes] = asyncio.Queue()
        self._received = bytearray()

    def send(self, message: bytes) -> None:
        """Send a binary message."""
        self._send(BINARY, message)

    async def receive(self) -> bytes:
        """The next message."""
        return await within(self._messages.get(), f"a message on {self.path}")

    def abort(self) -> None:
        """End the connection with a reset, or with nothing where that does not arrive."""
        self._transport.abort()

    # --- what asyncio calls -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._is_client:
            transport.write(handshake(self.path))

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self.head is None and not self._shake_hands():
            return
        while self._take_frame():
            pass

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set()
        self.answered.set()

    # --- details ------------------------------------------------------------------------------------------------------

    def _shake_hands(self) -> bool:
        end = self._received.find(b"\r\n\r\n") + 4
        if end < 4:
            return False
        self.head = Head(bytes(self._received[:end]))
        del self._received[:end]
        if not self._is_client:
            self.path = self.head.target
            self._transport.write(switching())
        elif self.head.status != 101:
            self._transport.abort()
            return False
        self.answered.set()
        self._on_open(self)
        return True

    def _take_frame(self) -> bool:
        received = self._received
        if len(received) < 2:
            return False
        size = received[1] & 0x7F
        start = 6 if received[1] & 0x80 else 2
        assert size < 126
        if len(received) < start + size:
            return False
        opcode, mask = received[0] & 0x0F, bytes(received[2:start])
        payload = bytes(received[start : start + size])
        if mask and payload:
            payload = apply_mask(payload, mask)
        del received[: start + size]
        if opcode == PING:
            self.pings += 1
            self._send(PONG, payload)
        elif opcode == CLOSE:
            self.close_code = int.from_bytes(payload[:2], "big")
            self._send(CLOSE, payload)
            self._transport.close()
        elif opcode in (TEXT, BINARY):
            self._messages.put_nowait(payload)
        return True

    def _send(self, opcode: int, payload: bytes) -> None:
        self._transport.write(frame(opcode, payload, os.urandom(4) if self._is_client else None))


class Ends:
    """A backend that accepts every tunnel, and clients that open some: both ends of each."""

    def __init__(self) -> None:
        self._clients: list[Endpoint] = []
        self._backend: dict[str, Endpoint] = {}
        self._server: asyncio.Server | None = None

    @classmethod
    async def start(cls, listening: socket.socket) -> Ends:
        """Start the backend. :param listening: closed with it"""
        ends = cls()
        loop = asyncio.get_running_loop()
        ends._server = await loop.create_server(lambda: Endpoint(on_open=ends._opened), sock=listening)
        return ends

    async def open(self, sock: socket.socket, path: str) -> tuple[Endpoint, Endpoint]:
        """Open a tunnel: its ends at client and backend.

        :param sock: the client's, connected
        :param path: one that no other tunnel had
        """
        _, client = await asyncio.get_running_loop().create_connection(lambda: Endpoint(path), sock=sock)
        self._clients.append(client)
        await within(client.answered.wait(), f"an answer on {path}")
        assert not client.ended.is_set(), f"no tunnel on {path}: {client.head and client.head.raw!r}"
        return client, self._backend[path]

    async def close(self) -> None:
        """End everything."""
        assert self._server is not None
        self._server.close()
        for end in (*self._clients, *self._backend.values()):
            end.abort()
            await within(end.ended.wait(), "a connection to close")

    def _opened(self, end: Endpoint) -> None:
        self._backend[end.path] = end
