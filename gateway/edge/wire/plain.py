"""Plain TCP and unix sockets: what the kernel does, with nothing between."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.tunnels.relay.kernel import Kernel


class PlainWire:
    """A :class:`gateway.edge.wire.Wire`. Its methods are the kernel's own, so it costs a message nothing."""

    __slots__ = ("end", "read", "send", "write")

    def __init__(self, kernel: Kernel) -> None:
        self.read = kernel.recv
        self.send = kernel.send_part
        self.write = kernel.write
        self.end = kernel.shut
