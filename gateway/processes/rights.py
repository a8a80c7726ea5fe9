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


def ids_in(data: bytes, connections: list[Connections]) -> array[int]:
    """Return the 64-bit integers of a message. :raises ValueError: it is malformed; ``connections`` have been closed"""
    try:
        return array("q", data)
    except ValueError:
        close_all(connections)
        raise ValueError(f"{len(data)} bytes are not a whole number of 64-bit integers") from None


def close_all(connections: Iterable[Connections]) -> None:
    """Close connections; descriptors that are not open are ignored."""
    for each in connections:
        for fd in each:
            try:
                os.close(fd)
            except OSError:
                continue


def without_closed(tunnels: Iterable[tuple[int, Connections]]) -> list[tuple[int, Connections]]:
    """Return the tunnels whose descriptors are open: one closed descriptor prevents sending all others (EBADF)."""
    return [(tunnel, connections) for tunnel, connections in tunnels if all(map(_is_open, connections))]


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
