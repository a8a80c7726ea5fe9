"""A relay that forwards one byte at a time, so that records come cut wherever they can be cut."""

from __future__ import annotations

import array
import asyncio
import fcntl
import socket
import termios

from tests.support.ports import free_port
from tests.support.raw import connect


class Dribble:
    """Listens on TCP, and forwards to a unix socket and back.

    Towards the unix socket a byte goes only when the previous one has been read: the kernel counts it until then.
    Over TCP the kernel of the other end takes it, which is not quite as strict, but with a pause for each byte most
    reads get one.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = ""
        self.forwarded = 0
        """bytes, in both directions"""

    @classmethod
    async def start(cls, target: str) -> Dribble:
        """Start one. :param target: ``unix:/path``"""
        relay = cls(target)
        relay.port = str(free_port())
        relay._server = await asyncio.start_server(relay._accept, "127.0.0.1", int(relay.port))
        return relay

    async def close(self) -> None:
        """Close it and its connections."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await connect(self._target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(reader, there.writer))
                group.create_task(self._forward(there.reader, writer))
        except* ConnectionError:
            pass  # both ends are told by closing
        finally:
            writer.close()
            await there.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock: socket.socket = writer.get_extra_info("socket")
        while data := await reader.read(65536):
            for at in range(len(data)):
                writer.write(data[at : at + 1])
                self.forwarded += 1
                while _unread(sock):  # noqa: ASYNC110  # the kernel reports to nobody that it was read
                    await asyncio.sleep(0)
        writer.write_eof()


def _unread(sock: socket.socket) -> int:
    """What was sent and not read yet, of a unix socket; not acknowledged, of TCP."""
    count = array.array("i", (0,))
    fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, count)
    return count[0]
