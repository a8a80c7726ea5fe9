"""What carries a connection's bytes: TCP as it is (``plain``), or TLS over it (``tls``).

A wire serves all connections of a worker that are alike: its methods take the descriptor, and a plain connection holds
no object for it. It reads into the worker's one buffer (``kernel.buffer``) and sends from there.
"""

from __future__ import annotations

from typing import Protocol


class Session(Protocol):
    """A TLS connection behind its handshake."""

    cells: memoryview[int]
    """``protocol/tls/state.py``"""
    half: bytes
    """of a record, received"""
    unsent: bytes
    """sealed, and not taken by the socket yet"""

    def wipe(self) -> None:
        """Forget the keys, once they are copied."""


class Wire(Protocol):
    """Reads, sends and ends. Errors are returned as negative ``errno``, as :class:`Kernel` does it."""

    def read(self, fd: int) -> int:
        """Receive into the worker's buffer; return the bytes there, 0 at the end of the stream, or an error."""

    def receive(self, fd: int, most: int) -> bytes | int:
        """Receive about ``most`` bytes at most; ``b""`` at the end of the stream, an errno where there are none."""

    def early(self, fd: int) -> bytes | int:
        """What was received before the wire had the connection, as :meth:`receive` returns it."""

    def is_full(self, got: int, asked: int) -> bool:
        """Whether the last :meth:`read` or :meth:`receive` may have left bytes in the socket.

        :param got: what it returned, in bytes
        :param asked: how much it was to return at most: ``kernel.receive_bytes`` for :meth:`read`
        """

    def alert(self, fd: int) -> str:
        """The TLS alert by which the peer ended the connection, in words; empty if there was none."""

    def has_ended(self, fd: int) -> bool:
        """Whether the stream has ended without that the socket says so."""

    def is_truncated(self, fd: int) -> bool:
        """Whether the stream ended in a way that an attacker on the network can bring about."""

    def send(self, fd: int, start: int, end: int) -> int:
        """Send ``kernel.buffer[start:end]``; return the bytes taken, or an error. As for :meth:`write`."""

    def write(self, fd: int, data: bytes) -> int:
        """Send ``data``; return the bytes taken, or an error.

        What was not taken has to begin the next ``data``, or nothing may be sent any more. 0 means that there was
        progress all the same.
        """

    def end(self, fd: int) -> None:
        """Send the end of the stream; the other direction goes on."""

    def reset(self, fd: int) -> None:
        """Have the connection end with a reset when it is closed: its peer sees that something is missing."""

    def close(self, fd: int) -> None:
        """Forget the connection, which the caller closes. If it was not ended or reset, the peer is told that it is."""

    def detach(self, fd: int) -> Session | None:
        """Forget the connection, which the caller goes on with; return what it needs for that, None for nothing."""

    def packed(self, fd: int) -> list[object] | None:
        """What another process needs to go on with the connection, besides its descriptor: plain JSON data."""

    def forget(self, fd: int) -> None:
        """Forget the connection, which goes on elsewhere."""
