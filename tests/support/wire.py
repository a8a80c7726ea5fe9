"""A socket that reads everything up to a reset, and can send bytes one by one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from typing import Final

from tests.support.deadline import DEADLINE_SECONDS, turn, within

BYTE_SECONDS: Final = 0.0001
"""Pause between two bytes that are sent one by one, so that most are received one by one."""

FIN: Final = "fin"
RESET: Final = "reset"


class Wire:
    """One end of a connection."""

    def __init__(self, own: socket.socket, bytewise: bool = False) -> None:
        """:param bytewise: send each byte on its own"""
        self._socket = own
        self._loop = asyncio.get_running_loop()
        self.bytewise = bytewise
        self.buffer = b""
        """received, and not taken yet"""
        self.ended: str | None = None
        """how the other end closed: ``FIN`` or ``RESET``"""
        self.patience_seconds = DEADLINE_SECONDS
        own.setblocking(False)
        if own.family != socket.AF_UNIX:
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def name(self) -> str:
        """This end's address, as ``host:port``."""
        host, port = self._socket.getsockname()[:2]
        return f"{host}:{port}"

    async def send(self, data: bytes) -> None:
        """Send bytes. If the other end has closed, they are lost."""
        pieces = [data[at : at + 1] for at in range(len(data))] if self.bytewise else [data]
        try:
            for piece in pieces:
                await within(self._loop.sock_sendall(self._socket, piece), "a connection to take bytes")
                if self.bytewise:
                    await _pause()
        except ConnectionError:
            pass

    async def more(self, seconds: float | None = None) -> bool:
        """Wait for more in ``buffer``; False at the end of the connection.

        :param seconds: how long, in place of ``patience_seconds``
        :raises AssertionError: nothing came
        """
        if self.ended is not None:
            return False
        try:
            receiving = self._loop.sock_recv(self._socket, 1 << 16)
            data = await within(receiving, "bytes or an end", seconds or self.patience_seconds)
        except ConnectionError:
            self.ended = RESET
            return False
        if not data:
            self.ended = FIN
            return False
        self.buffer += data
        return True

    async def until(self, mark: bytes) -> bytes | None:
        """Everything up to and including ``mark``; None if the connection ends before it."""
        while mark not in self.buffer:
            if not await self.more():
                return None
        return self.take(self.buffer.index(mark) + len(mark))

    async def exactly(self, size: int) -> bytes:
        """The next bytes; fewer if the connection ends before that."""
        while len(self.buffer) < size:
            if not await self.more():
                break
        return self.take(size)

    async def rest(self) -> bytes:
        """Everything up to the end."""
        while await self.more():
            pass
        return self.take(len(self.buffer))

    def take(self, size: int) -> bytes:
        """Take bytes out of ``buffer``."""
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def half_close(self) -> None:
        """Send FIN."""
        with contextlib.suppress(OSError):  # it is closed already
            self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        """Close."""
        self._socket.close()


async def _pause() -> None:
    """Wait for ``BYTE_SECONDS``, which asyncio would round up to a millisecond."""
    end = time.monotonic() + BYTE_SECONDS
    while True:
        await turn()
        if time.monotonic() >= end:
            return


async def dial(address: str, bytewise: bool = False) -> Wire:
    """Connect to ``host:port``."""
    host, _, port = address.rpartition(":")
    own = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    own.setblocking(False)
    try:
        await within(asyncio.get_running_loop().sock_connect(own, (host, int(port))), f"a connection to {address}")
    except BaseException:
        own.close()
        raise
    return Wire(own, bytewise)
