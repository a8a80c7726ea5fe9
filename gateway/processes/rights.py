"""Descriptors of tunnels' connections that arrive with a message, two per tunnel (``SCM_RIGHTS``, unix(7))."""

from __future__ import annotations

import os
import socket
from array import array
from collections.abc import Iterable

from gateway.tunnels.moving.adoption import Connections

Ancillary = Iterable[tuple[int, int, bytes]]
"""What ``recvmsg`` returns besides the data."""


def connections_of(ancillary: Ancillary) -> list[Connections]:
    """Return the complete pairs. If the second descriptor did not fit into this process, the first is closed."""
    descriptors = array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
    if len(descriptors) % 2:
        os.close(descriptors.pop())
    return list(zip(descriptors[::2], descriptors[1::2], strict=True))
