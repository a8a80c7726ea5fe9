"""One worker as the supervisor sees it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.config.address import Address
from gateway.processes.children import Child
from gateway.processes.control.channel import Channel
from gateway.processes.control.messages import Listen, Message


@dataclass
class WorkerProcess:
    """A process, its control channel, and what it has reported so far."""

    slot: int
    process: Child
    channel: Channel
    started: float = field(default_factory=time.monotonic)
    ready: float | None = None
    """when it began to accept connections"""
    configured: dict[int, asyncio.Future[str | None]] = field(default_factory=dict)
    """by generation: resolved when the worker has answered, with the reason if it failed"""
    drained: bool = False
    answers: asyncio.Queue[Message | None] = field(default_factory=asyncio.Queue)
    """its answers during an upgrade; None when it is gone"""
    retired: bool = False
    """whether another worker has replaced it"""
    retire_sent: bool = False
    reported_done: bool = False
    """whether it has reported :class:`Retired`"""
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    """set when it has nothing left to do, or is gone"""
    gone: bool = False
    """whether its channel has ended"""

    @property
    def name(self) -> str:
        """Slot and pid, for log lines."""
        return f"{self.slot} (pid {self.process.pid})"

    def listen(self, sockets: Mapping[Address, list[socket.socket]]) -> None:
        """Send the worker its own listening sockets."""
        for address, each in sockets.items():
            self.channel.send(Listen(address, each[self.slot % len(each)].fileno()))

    def answer_about(self, generation: int) -> asyncio.Future[str | None]:
        """Return what will be its answer to a configuration: None once it is in force, otherwise the reason.

        :raises ConnectionResetError: it is gone; so does the answer if it dies before it has answered
        """
        if self.gone:
            raise self._died()
        answer = self.configured[generation] = asyncio.get_running_loop().create_future()
        return answer

    def ended(self) -> None:
        """Its channel has ended: nobody has to wait for it any longer."""
        self.gone = True
        self.answers.put_nowait(None)
        self.finished.set()
        for answer in self.configured.values():
            if not answer.done():
                answer.set_exception(self._died())

    def _died(self) -> ConnectionResetError:
        return ConnectionResetError(f"worker {self.slot} died")
