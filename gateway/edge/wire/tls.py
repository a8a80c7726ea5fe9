"""TLS over TCP, behind the handshake: what is sent is sealed in records, what is received is opened.

Callers see plaintext. Sealed bytes that a socket does not take are kept here and never sealed again: the caller hears
that they were not taken, and passes the same plaintext once more.
"""

from __future__ import annotations

from array import array
from errno import EAGAIN, EBADF, ECONNRESET, EINTR, EPIPE, EPROTO
from typing import TYPE_CHECKING, Any

from gateway.protocol.tls.alerts import name_of
from gateway.protocol.tls.content import BROKEN, CLOSED, FATAL_ALERT
from gateway.protocol.tls.state import ANSWER_DUE

if TYPE_CHECKING:
    from gateway.tunnels.relay.poller import Poller

RECEIVE_BYTES = 64 * 1024
"""Received at a time; with half a record before it, it fits into the buffers."""

SEAL_BYTES = 64 * 1024
"""Sealed at a time."""

NOT_NOW = (-EAGAIN, -EINTR)
OPEN = -1


class TlsStream:
    """A TLS connection."""

    __slots__ = ("alert", "cells", "end", "half", "is_reset", "is_truncated", "sealed", "sealed_hash", "unsent")

    def __init__(self, cells: array[int], half: bytes = b"", unsent: bytes = b"") -> None:
        """
        :param cells: its session (``protocol/tls/state.py``)
        :param half: wire bytes that were received and are to be opened
        :param unsent: wire bytes that are to be sent
        """
        self.cells = memoryview(cells)
        self.half = half
        self.unsent = unsent
        self.sealed = 0
        """bytes that are sealed in ``unsent`` and that the caller will pass again"""
        self.sealed_hash = 0
        self.end = OPEN
        """what reading returns from now on: an errno, or 0 at the end of the stream"""
        self.alert = ""
        """by which the peer ended the connection, in words"""
        self.is_truncated = False
        self.is_reset = False

    def packed(self) -> list[object]:
        """What :meth:`unpacked` takes, in another process too: plain JSON data."""
        return [self.cells.tobytes().hex(), self.half.hex(), self.unsent.hex()]

    @classmethod
    def unpacked(cls, packed: list[Any]) -> TlsStream:
        """The stream that was packed by :meth:`packed`. That one must not be used any more."""
        cells, half, unsent = map(bytes.fromhex, packed)
        return cls(array("q", cells), half, unsent)

    def wipe(self) -> None:
        """Forget the keys."""
        for at in range(len(self.cells)):
            self.cells[at] = 0


class TlsWire:
    """A :class:`gateway.edge.wire.Wire`."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._kernel = poller.kernel
        self._wire = poller.kernel.wire
        self._records = poller.relay.records
        self._streams: dict[int, TlsStream] = {}
        self._full = False

    # --- which connections --------------------------------------------------------------------------------------------

    def attach(self, fd: int, stream: TlsStream) -> None:
        """Carry a connection from now on. What came behind its handshake is read by :meth:`early`."""
        self._streams[fd] = stream
        self._poller.wires[fd] = self

    def early(self, fd: int) -> bytes | int:
        """Open what was received before :meth:`attach`. Returned as by :meth:`receive`."""
        stream = self._streams[fd]
        data, stream.half = stream.half, b""
        found = []
        for at in range(0, len(data), RECEIVE_BYTES):
            piece = stream.half + data[at : at + RECEIVE_BYTES]
            self._wire[: len(piece)] = piece
            got = self._open(fd, stream, len(piece))
            if got > 0:
                found.append(bytes(self._kernel.buffer[:got]))
            if stream.end != OPEN:
                break
        if found:
            return b"".join(found)
        if stream.end == OPEN:
            return EAGAIN
        return stream.end or b""

    def detach(self, fd: int) -> TlsStream:
        """See :meth:`gateway.edge.wire.Wire.detach`."""
        del self._poller.wires[fd]
        return self._streams.pop(fd)

    def __len__(self) -> int:
        return len(self._streams)

    # --- receiving ----------------------------------------------------------------------------------------------------

    def read(self, fd: int) -> int:
        """See :meth:`gateway.edge.wire.Wire.read`."""
        self._full = False
        stream = self._streams.get(fd)
        if stream is None:
            return -EBADF
        if stream.end != OPEN:
            return -stream.end
        half = len(stream.half)
        if half:
            self._wire[:half] = stream.half
        got = self._kernel.recv_wire(fd, half, half + RECEIVE_BYTES)
        if got <= 0:
            if not got:
                stream.is_truncated = True
                stream.end = 0
            return got
        self._full = got == RECEIVE_BYTES
        return self._open(fd, stream, half + got)

    def receive(self, fd: int, most: int) -> bytes | int:
        """See :meth:`gateway.edge.wire.Wire.receive`. It is never more than one record over ``RECEIVE_BYTES``."""
        got = self.read(fd)
        if got > 0:
            return bytes(self._kernel.buffer[:got])
        return b"" if got == 0 else -got

    def is_full(self, got: int, asked: int) -> bool:
        """See :meth:`gateway.edge.wire.Wire.is_full`."""
        return self._full

    def alert(self, fd: int) -> str:
        """See :meth:`gateway.edge.wire.Wire.alert`."""
        stream = self._streams.get(fd)
        return "" if stream is None else stream.alert

    def has_ended(self, fd: int) -> bool:
        """Whether close_notify came, or something that ends the connection."""
        stream = self._streams.get(fd)
        return stream is None or stream.end != OPEN

    def is_truncated(self, fd: int) -> bool:
        """Whether the connection ended without close_notify (RFC 8446 6.1)."""
        stream = self._streams.get(fd)
        return stream is None or stream.is_truncated

    def _open(self, fd: int, stream: TlsStream, size: int) -> int:
        """Open the records in ``wire[:size]`` into the worker's buffer. :returns: as :meth:`read`"""
        records = self._records
        got = records.open(stream.cells, 0, 0, size, self._kernel.buffer, 0)
        event = records.event
        used = records.used
        stream.half = b"" if used == size or event else bytes(self._wire[used:size])
        if event:
            if event == BROKEN:
                self._keep(fd, stream, records.refuse(stream.cells, 0, records.alert))
            elif event == FATAL_ALERT:
                stream.alert = name_of(records.alert).replace("_", " ")
            stream.end = 0 if event == CLOSED else EPROTO if event == BROKEN else ECONNRESET
            if got:
                self._poller.recall(fd)  # the end is for the next read, and epoll has nothing more to report
        elif stream.cells[ANSWER_DUE] and not stream.unsent:
            self._answer(fd, stream)
        if got:
            return got
        return -EAGAIN if stream.end == OPEN else -stream.end

    # --- sending ------------------------------------------------------------------------------------------------------

    def write(self, fd: int, data: bytes) -> int:
        """See :meth:`gateway.edge.wire.Wire.write`."""
        return self._send(fd, data, 0, len(data))

    def send(self, fd: int, start: int, end: int) -> int:
        """See :meth:`gateway.edge.wire.Wire.send`."""
        return self._send(fd, self._kernel.buffer, start, end)

    def _send(self, fd: int, data: bytes | bytearray, start: int, end: int) -> int:
        stream = self._streams.get(fd)
        if stream is None:
            return -EBADF  # it was closed in this turn, after this was deferred
        done = start
        ahead = b""
        if stream.unsent and not stream.sealed and start < end:
            ahead, stream.unsent = stream.unsent, b""  # the end of a handshake: one system call for both
        elif stream.unsent:
            sent = self._flush(fd, stream)
            if stream.unsent:
                return sent if sent < 0 else 0
            if stream.sealed:
                done += stream.sealed
                stream.sealed = 0
                if done > end or hash(bytes(data[start:done])) != stream.sealed_hash:
                    return -EPIPE  # the caller has given up what it had begun to send: nothing else may follow
        records = self._records
        while done < end:
            stop = min(done + SEAL_BYTES, end)
            size = records.seal(stream.cells, 0, data, done, stop, self._kernel.now())
            if ahead:
                together = ahead + bytes(self._wire[:size])
                sealed: bytes | bytearray = together
                size = len(together)
                sent = self._kernel.write(fd, together)
                ahead = b""
            else:
                sealed = self._wire
                sent = self._kernel.send_wire(fd, 0, size)
            if sent != size:
                if sent < 0 and sent not in NOT_NOW:
                    return sent
                stream.unsent = bytes(sealed[max(sent, 0) : size])
                stream.sealed = stop - done
                stream.sealed_hash = hash(bytes(data[done:stop]))
                return done - start if done > start or sent > 0 else -EAGAIN
            done = stop
        if stream.cells[ANSWER_DUE] and not stream.unsent:
            self._answer(fd, stream)
        return done - start

    def _flush(self, fd: int, stream: TlsStream) -> int:
        """Send what waits. :returns: wire bytes taken, or an error"""
        sent = self._kernel.write(fd, stream.unsent)
        if sent > 0:
            stream.unsent = stream.unsent[sent:]
        if not stream.unsent and stream.cells[ANSWER_DUE]:
            self._answer(fd, stream)
        return sent

    def _answer(self, fd: int, stream: TlsStream) -> None:
        """Answer a KeyUpdate, or many of them, once what was sealed before is sent."""
        self._keep(fd, stream, self._records.answer(stream.cells, 0))

    def _keep(self, fd: int, stream: TlsStream, size: int) -> None:
        """Send what was sealed, behind what waits. What is not taken goes before the next data."""
        if size:
            stream.unsent += bytes(self._wire[:size])
            sent = self._kernel.write(fd, stream.unsent)
            if sent > 0:
                stream.unsent = stream.unsent[sent:]

    # --- the end ------------------------------------------------------------------------------------------------------

    def end(self, fd: int) -> None:
        """Send close_notify and FIN."""
        stream = self._streams.get(fd)
        if stream is not None:
            self._close_notify(fd, stream)
        self._kernel.shut(fd)

    def reset(self, fd: int) -> None:
        """See :meth:`gateway.edge.wire.Wire.reset`."""
        stream = self._streams.get(fd)
        if stream is not None:
            stream.is_reset = True
        self._kernel.reset(fd)

    def close(self, fd: int) -> None:
        """Send close_notify, if that was not done, and forget the connection and its keys."""
        stream = self._streams.pop(fd, None)
        if stream is not None:
            self._poller.wires.pop(fd, None)
            if not stream.is_reset:
                self._close_notify(fd, stream)
            stream.wipe()

    def packed(self, fd: int) -> list[object]:
        """See :meth:`gateway.edge.wire.Wire.packed`."""
        return self._streams[fd].packed()

    def forget(self, fd: int) -> None:
        """Forget the connection and its keys, without a word."""
        stream = self._streams.pop(fd, None)
        if stream is not None:
            self._poller.wires.pop(fd, None)
            stream.wipe()

    def _close_notify(self, fd: int, stream: TlsStream) -> None:
        """RFC 8446 6.1. Behind half a record it would not be understood, so then there is none: the stream is cut."""
        if stream.end > 0 or (stream.unsent and self._flush(fd, stream) <= 0) or stream.unsent:
            return
        self._keep(fd, stream, self._records.close(stream.cells, 0))
