"""What supervisor and worker say to each other, over a socket pair that nobody else has.

Messages are pickled, with their length before each, and one that is about a socket brings its descriptor along
(``SCM_RIGHTS``, unix(7)). A worker whose supervisor is gone reads the end of the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import socket
import struct
from array import array
from collections import deque
from typing import NamedTuple

from gateway.config.address import Address
from gateway.config.settings import Settings
from gateway.routing.registry import Registry
from gateway.tunnels.learning.intervals import News

RECEIVE_BYTES = 64 * 1024
NO_DESCRIPTOR = -1
_HEAD = struct.Struct("!I?")  # length of the message, and whether a descriptor comes with it


class Listen(NamedTuple):
    """To a worker: a listening socket of its own, to accept on as soon as the next configuration is in force."""

    address: Address
    fd: int
    """in the process that has the message: of the sender, then of the worker, which owns it; -1 if it got lost, as
    there were no descriptors left"""


class Unlisten(NamedTuple):
    """To a worker: accept what waits at this address, and then no more."""

    address: Address


class Drain(NamedTuple):
    """To a worker: refuse what is new, close every tunnel in its turn, and say :class:`Drained`.

    A second one sets another period for those that are left.
    """

    period_seconds: float
    close_code: int


class Configure(NamedTuple):
    """To a worker: put this configuration in force, and say :class:`Configured`."""

    generation: int
    config: Settings
    registry: Registry
    drained_backends: frozenset[int] = frozenset()
    """numbers of those that get nothing new"""
    drain: Drain | None = None
    """for a worker that comes while the gateway drains"""
    takes_over: bool = False
    """for a new worker: accept nothing before it is told to (:class:`Accept`)"""


class DrainBackends(NamedTuple):
    """To a worker: send these backends nothing new, and close their tunnels, each in its turn."""

    backends: frozenset[int]
    period_seconds: float
    close_code: int


class Stop(NamedTuple):
    """To a worker: exit at once."""


class ReopenLogs(NamedTuple):
    """To a worker: open log files anew, they were moved away."""


class Configured(NamedTuple):
    """From a worker: this configuration is in force; where it is the first one, connections are accepted."""

    generation: int


class Failed(NamedTuple):
    """From a worker: it could not put this configuration in force."""

    generation: int
    reason: str


class Learned(NamedTuple):
    """From a worker to the others: what it has learned of paths."""

    news: News


class Drained(NamedTuple):
    """From a worker: its last tunnel has ended, and its last request, or they had their time."""


# --- an upgrade (``upgrade.py``) -----------------------------------------------------------------------------------


class Release(NamedTuple):
    """To a worker that is being replaced: accept nothing more, stop serving some tunnels, and say :class:`Released`."""

    tunnels: int
    """how many at most"""


class Released(NamedTuple):
    """From a worker: these tunnels are for another to carry on."""

    fd: int
    """a ``memfd`` that tells which, and has what is pending of them (``tunnels/moving/parcel.py``)"""


class TakeOver(NamedTuple):
    """To a new worker: carry on tunnels of the worker that it replaces, and say :class:`TakenOver`.

    Their connections come through the store's socket.
    """

    fd: int
    """as of :class:`Released`"""


class TakenOver(NamedTuple):
    """From a new worker: they are carried on. The worker before has no part in them any more."""

    left: tuple[int, ...] = ()
    """ids of tunnels that it could not carry on, for lack of their connections or of room"""


class Accept(NamedTuple):
    """To a new worker: accept connections from now on."""


class Forget(NamedTuple):
    """To a worker that is being replaced: another one carries on what it has released last."""

    left: tuple[int, ...] = ()
    """ids of tunnels that nobody carries on: serve these as before"""


class Resume(NamedTuple):
    """To a worker that was to be replaced: serve again what it has released, and accept connections again."""


class Retire(NamedTuple):
    """To a worker that is being replaced: finish what cannot be handed over, and say :class:`Retired`."""


class Retired(NamedTuple):
    """From a worker: nothing is left to do."""


ToWorker = (
    Listen
    | Unlisten
    | Configure
    | Drain
    | DrainBackends
    | Stop
    | ReopenLogs
    | Learned
    | Release
    | TakeOver
    | Accept
    | Forget
    | Resume
    | Retire
)
FromWorker = Configured | Failed | Drained | Learned | Released | TakenOver | Retired
Message = ToWorker | FromWorker
_ABOUT_DESCRIPTORS = (Listen, Released, TakeOver)
VERSION = 3
"""Of what is said here. Old workers and a new supervisor have to understand each other during an upgrade."""


class Channel:
    """One end of the socket pair."""

    def __init__(self, sock: socket.socket, received: bytes = b"") -> None:
        """
        :param sock: connected; the channel owns it
        :param received: what was read from it before, as :meth:`suspend` returned it
        """
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._descriptors: deque[int] = deque()
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self._ended = False
        self._unsent: deque[tuple[memoryview, int]] = deque()
        self._all_sent = asyncio.Event()
        self._all_sent.set()
        self._loop.add_reader(sock, self._read)
        if received:
            self._received += received
            self._take_in()

    def send(self, message: Message) -> None:
        """Send a message. One that cannot be delivered is lost: the other process is gone."""
        if self._ended:
            return
        fd = NO_DESCRIPTOR
        if isinstance(message, _ABOUT_DESCRIPTORS):
            # It may have to wait, and its owner to close it meanwhile. Without one to spare it goes without.
            with contextlib.suppress(OSError):
                fd = os.dup(message.fd)
        data = pickle.dumps(message)
        self._unsent.append((memoryview(_HEAD.pack(len(data), fd != NO_DESCRIPTOR) + data), fd))
        if len(self._unsent) == 1:
            self._write()

    async def receive(self) -> Message | None:
        """The next message; None when the other process is gone."""
        message = await self._messages.get()
        if message is None:
            self._messages.put_nowait(None)
        return message

    async def suspend(self) -> bytes:
        """Read no more, have all delivered that was sent, and see all messages received that have come whole.

        :returns: the beginning of a message that has not come whole
        """
        if not self._ended:
            self._loop.remove_reader(self._sock)
        while not self._ended and not (self._messages.empty() and self._all_sent.is_set()):
            await asyncio.sleep(0)
            await self._all_sent.wait()
        return bytes(self._received)

    def proceed(self) -> None:
        """Read again, after :meth:`suspend`."""
        if not self._ended:
            self._loop.add_reader(self._sock, self._read)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    async def close(self) -> None:
        """Close this end, what was sent being delivered first."""
        await self._all_sent.wait()
        self._end()
        self._sock.close()

    # --- the socket --------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        while self._unsent:
            data, fd = self._unsent[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [fd]))] if fd != NO_DESCRIPTOR else []
            try:
                sent = self._sock.sendmsg([data], rights)
            except (BlockingIOError, InterruptedError):
                self._all_sent.clear()
                self._loop.add_writer(self._sock, self._write)
                return
            except OSError:
                self._end()
                return
            # A descriptor goes with the first byte.
            self._unsent[0] = (data[sent:], NO_DESCRIPTOR)
            if fd != NO_DESCRIPTOR:
                os.close(fd)
            if sent == len(data):
                self._unsent.popleft()
        self._loop.remove_writer(self._sock)
        self._all_sent.set()

    def _read(self) -> None:
        try:
            data, ancillary, _, _ = self._sock.recvmsg(
                RECEIVE_BYTES, socket.CMSG_SPACE(array("i").itemsize), socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, ancillary = b"", []
        for level, kind, rights in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._descriptors.extend(array("i", rights))
        self._received += data
        self._take_in()
        if not data:
            self._end()

    def _take_in(self) -> None:
        while (message := self._next()) is not None:
            self._messages.put_nowait(message)

    def _next(self) -> Message | None:
        """Take a whole message out of what was received."""
        if len(self._received) < _HEAD.size:
            return None
        length, brings_descriptor = _HEAD.unpack_from(self._received)
        end = _HEAD.size + length
        if len(self._received) < end:
            return None
        message: Message = pickle.loads(memoryview(self._received)[_HEAD.size : end])
        del self._received[:end]
        if isinstance(message, _ABOUT_DESCRIPTORS):
            arrived = brings_descriptor and self._descriptors
            message = message._replace(fd=self._descriptors.popleft() if arrived else NO_DESCRIPTOR)
        return message

    def _end(self) -> None:
        """The other process is gone, or this end is closed."""
        if self._ended:
            return
        self._ended = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        for _, fd in self._unsent:
            if fd != NO_DESCRIPTOR:
                os.close(fd)
        for fd in self._descriptors:
            os.close(fd)
        self._unsent.clear()
        self._descriptors.clear()
        self._all_sent.set()
        self._messages.put_nowait(None)
