"""One end of the control channel: length-prefixed messages over a socket pair.

A message about a socket carries its descriptor (``SCM_RIGHTS``, unix(7)). A message that cannot be decoded is logged
and skipped. A worker whose supervisor is gone reads the end of the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from array import array
from collections import deque

from gateway.processes.control.messages import ABOUT_DESCRIPTORS, NO_DESCRIPTOR, Message
from gateway.processes.control.wire import Unknown, pack, unpack

RECEIVE_BYTES = 64 * 1024
_HEAD = struct.Struct("!I?")  # length of the message, and whether it carries a descriptor
log = logging.getLogger("gateway")


class Channel:
    """One end of the socket pair."""

    def __init__(self, sock: socket.socket, received: bytes = b"") -> None:
        """
        :param sock: connected; the channel owns it
        :param received: the beginning of a message, already read from the socket and returned by :meth:`suspend`
        """
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._descriptors: deque[int] = deque()
        self._begun_elsewhere = bool(received)
        """whether the next message began before this object was made: its descriptor, if any, came then and is lost"""
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
        """Send a message. It is dropped if the other process is gone."""
        if self._ended:
            return
        fd = NO_DESCRIPTOR
        if isinstance(message, ABOUT_DESCRIPTORS):
            # Duplicate it: sending may take a while, and the owner may close it. If none is left, send without it.
            with contextlib.suppress(OSError):
                fd = os.dup(message.fd)
            message = message._replace(fd=NO_DESCRIPTOR)
        data = pack(message)
        self._unsent.append((memoryview(_HEAD.pack(len(data), fd != NO_DESCRIPTOR) + data), fd))
        if len(self._unsent) == 1:
            self._write()

    async def receive(self) -> Message | None:
        """Return the next message; None when the other process is gone."""
        message = await self._messages.get()
        if message is None:
            self._messages.put_nowait(None)
        return message

    async def suspend(self) -> bytes:
        """Stop reading; wait until everything is sent and all complete messages have been received.

        :returns: the beginning of an incomplete message
        """
        if not self._ended:
            self._loop.remove_reader(self._sock)
        while not self._ended and not (self._messages.empty() and self._all_sent.is_set()):
            await asyncio.sleep(0)
            await self._all_sent.wait()
        return bytes(self._received)

    def proceed(self) -> None:
        """Start reading again, after :meth:`suspend`."""
        if not self._ended:
            self._loop.add_reader(self._sock, self._read)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    async def close(self) -> None:
        """Close this end once everything is sent."""
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
            # The descriptor goes with the first byte.
            self._unsent[0] = (data[sent:], NO_DESCRIPTOR)
            if fd != NO_DESCRIPTOR:
                os.close(fd)
            if sent == len(data):
                self._unsent.popleft()
        self._loop.remove_writer(self._sock)
        self._all_sent.set()

    def _read(self) -> None:
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(
                RECEIVE_BYTES, socket.CMSG_SPACE(array("i").itemsize), socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, ancillary, flags = b"", [], 0
        for level, kind, rights in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._descriptors.extend(array("i", rights))
        if flags & socket.MSG_CTRUNC:
            self._descriptors.append(NO_DESCRIPTOR)  # this process had no room for one
        self._received += data
        self._take_in()
        if not data:
            self._end()

    def _take_in(self) -> None:
        """Take the complete messages out of the receive buffer."""
        taken = 0
        while len(self._received) >= taken + _HEAD.size:
            length, brings_descriptor = _HEAD.unpack_from(self._received, taken)
            end = taken + _HEAD.size + length
            if len(self._received) < end:
                break
            data = self._received[taken + _HEAD.size : end]
            taken = end
            arrived = brings_descriptor and not self._begun_elsewhere and self._descriptors
            self._begun_elsewhere = False
            fd = self._descriptors.popleft() if arrived else NO_DESCRIPTOR
            try:
                message = unpack(data)
            except Unknown as error:
                log.error("the control channel skipped %s", error)
                if fd != NO_DESCRIPTOR:
                    os.close(fd)
                continue
            if isinstance(message, ABOUT_DESCRIPTORS):
                message = message._replace(fd=fd)
            elif fd != NO_DESCRIPTOR:
                os.close(fd)
            self._messages.put_nowait(message)
        del self._received[:taken]

    def _end(self) -> None:
        """Clean up: the other process is gone, or this end is being closed."""
        if self._ended:
            return
        self._ended = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        for _, fd in self._unsent:
            if fd != NO_DESCRIPTOR:
                os.close(fd)
        for fd in self._descriptors:
            if fd != NO_DESCRIPTOR:
                os.close(fd)
        self._unsent.clear()
        self._descriptors.clear()
        self._all_sent.set()
        self._messages.put_nowait(None)
