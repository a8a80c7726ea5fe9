"""Connections of tunnels that come with a message: their descriptors, two for each (``SCM_RIGHTS``, unix(7))."""

from __future__ import annotations

import os
import socket
from array import array
from collections.abc import Iterable

from gateway.tunnels.moving.adoption import Connections

Ancillary = Iterable[tuple[int, int, bytes]]
"""What ``recvmsg`` returns beside the data."""


def connections_of(ancillary: Ancillary) -> list[Connections]:
    """The connections that came whole. One whose second descriptor this process had no room for is closed."""
    descriptors = array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
    if len(descriptors) % 2:
        os.close(descriptors.pop())
    return list(zip(descriptors[::2], descriptors[1::2], strict=True))
