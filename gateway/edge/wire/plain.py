"""Plain TCP and unix sockets: what the kernel does, with nothing between."""

from __future__ import annotations

from errno import EAGAIN
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.tunnels.relay.kernel import Kernel


class PlainWire:
    """A :class:`gateway.edge.wire.Wire`. Most of its methods are the kernel's own, so it costs a message nothing."""

    __slots__ = ("end", "read", "receive", "reset", "send", "write")

    def __init__(self, kernel: Kernel) -> None:
        self.read = kernel.recv
        self.receive = kernel.receive
        self.send = kernel.send_part
        self.write = kernel.write
        self.end = kernel.shut
        self.reset = kernel.reset

    @staticmethod
    def early(fd: int) -> bytes | int:
        """Nothing."""
        return EAGAIN

    @staticmethod
    def is_full(got: int, asked: int) -> bool:
        """A full read may have left bytes."""
        return got == asked

    @staticmethod
    def alert(fd: int) -> str:
        """There are none."""
        return ""

    @staticmethod
    def has_ended(fd: int) -> bool:
        """The socket says so."""
        return False

    @staticmethod
    def is_truncated(fd: int) -> bool:
        """Nobody can tell."""
        return False

    @staticmethod
    def close(fd: int) -> None:
        """There is nothing to forget."""

    @staticmethod
    def detach(fd: int) -> None:
        """There is nothing but the socket."""

    @staticmethod
    def packed(fd: int) -> None:
        """Nothing."""

    @staticmethod
    def forget(fd: int) -> None:
        """There is nothing to forget."""
