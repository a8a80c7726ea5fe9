"""What supervisor and worker say to each other, over a socket pair that nobody else has.

Messages are pickled, with four bytes of length before each. A worker whose supervisor is gone reads the end of the
stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import socket
import struct
from dataclasses import dataclass

from gateway.config.schema import Config
from gateway.routing.registry import Registry

_LENGTH = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Drain:
    """To a worker: refuse what is new, close every tunnel in its turn, and say :class:`Drained`.

    A second one sets another period for those that are left.
    """

    period_seconds: float
    close_code: int


@dataclass(frozen=True, slots=True)
class Configure:
    """To a worker: put this configuration in force, and say :class:`Configured`."""

    generation: int
    config: Config
    registry: Registry
    drained_backends: frozenset[int] = frozenset()
    """numbers of those that get nothing new"""
    drain: Drain | None = None
    """for a worker that comes while the gateway drains"""


@dataclass(frozen=True, slots=True)
class DrainBackends:
    """To a worker: send these backends nothing new, and close their tunnels, each in its turn."""

    backends: frozenset[int]
    period_seconds: float
    close_code: int


@dataclass(frozen=True, slots=True)
class Stop:
    """To a worker: exit at once."""


@dataclass(frozen=True, slots=True)
class ReopenLogs:
    """To a worker: open log files anew, they were moved away."""


@dataclass(frozen=True, slots=True)
class Configured:
    """From a worker: this configuration is in force; where it is the first one, connections are accepted."""

    generation: int


@dataclass(frozen=True, slots=True)
class Failed:
    """From a worker: it could not put this configuration in force."""

    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Drained:
    """From a worker: its last tunnel has ended, and its last request, or they had their time."""


Message = Configure | Drain | DrainBackends | Stop | ReopenLogs | Configured | Failed | Drained


class Channel:
    """One end of the socket pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> Channel:
        """Speak over a connected socket, which the channel owns from now on."""
        return cls(*await asyncio.open_connection(sock=sock))

    def send(self, message: Message) -> None:
        """Send a message. One that cannot be delivered is lost: the other process is gone."""
        data = pickle.dumps(message)
        self._writer.write(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> Message | None:
        """The next message; None when the other process is gone."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            message: Message = pickle.loads(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return message

    async def close(self) -> None:
        """Close this end, what was sent being delivered first."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
