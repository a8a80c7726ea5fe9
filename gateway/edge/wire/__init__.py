"""What carries a connection's bytes: TCP as it is today. The next one is TLS.

A wire serves all connections of a worker that are alike, so a connection holds no object for it; its methods take the
descriptor. It reads into the worker's one buffer (``kernel.buffer``) and sends from there.
"""

from __future__ import annotations

from typing import Protocol


class Wire(Protocol):
    """Reads, sends and ends. Errors are returned as negative ``errno``, as :class:`Kernel` does it."""

    def read(self, fd: int) -> int:
        """Receive into the worker's buffer; return the bytes there, 0 at the end of the stream, or an error."""

    def send(self, fd: int, start: int, end: int) -> int:
        """Send ``kernel.buffer[start:end]``; return the bytes taken, or an error."""

    def write(self, fd: int, data: bytes) -> int:
        """Send ``data``; return the bytes taken, or an error."""

    def end(self, fd: int) -> None:
        """Send the end of the stream; the other direction goes on."""
