"""The parcel: ids, rows, pending bytes and halves of TLS records of the tunnels that a worker has released for another.

It is a ``memfd``, since the bytes may be many: 64-bit integers (the number of tunnels, then four for each), followed by
the pending bytes. If there are halves of records, their sizes follow (two integers for each tunnel), then the halves;
a program from before TLS looks no further than the pending bytes. Everything else about a tunnel is in its row.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from typing import NamedTuple

CELL_BYTES = 8
_CELLS = 4
_HALVES = 2


class Tunnel(NamedTuple):
    """One released tunnel."""

    id: int
    row: int
    """in the old worker's slice"""
    client_pending: bytes
    """bytes still to be sent to the client; ``backend_pending`` likewise to the backend"""
    backend_pending: bytes
    client_half: bytes = b""
    """half a record that was read from the client; ``backend_half`` likewise from the backend"""
    backend_half: bytes = b""


def pack(tunnels: Iterable[Tunnel]) -> int:
    """Write a parcel. :returns: a descriptor of it. :raises OSError: there is no memory for it"""
    packed = list(tunnels)
    head = array("q", (len(packed),))
    for tunnel in packed:
        head.extend((tunnel.id, tunnel.row, len(tunnel.client_pending), len(tunnel.backend_pending)))
    fd = os.memfd_create("gateway-parcel")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(head)
            for tunnel in packed:
                file.write(tunnel.client_pending)
                file.write(tunnel.backend_pending)
            halves = [half for tunnel in packed for half in (tunnel.client_half, tunnel.backend_half)]
            if any(halves):
                file.write(array("q", map(len, halves)))
                file.writelines(halves)
    except BaseException:
        os.close(fd)
        raise
    return fd


def readdress(fd: int, rows: Iterable[int]) -> None:
    """Replace the rows in a parcel. :param rows: one for each tunnel, in order"""
    for n, row in enumerate(rows):
        os.pwrite(fd, array("q", (row,)).tobytes(), CELL_BYTES * (1 + _CELLS * n + 1))


def unpack(fd: int) -> list[Tunnel]:
    """Read a parcel. :raises ValueError: it is damaged"""
    size = os.fstat(fd).st_size
    data = memoryview(os.pread(fd, size, 0))
    while len(data) < size:  # one call reads 2 GiB at most
        data = memoryview(bytes(data) + os.pread(fd, size - len(data), len(data)))
    if size < CELL_BYTES:
        raise ValueError("the parcel of tunnels is truncated")
    (count,) = data[:CELL_BYTES].cast("q")
    at = CELL_BYTES * (1 + _CELLS * count)
    if not 0 <= count <= size or at > size:
        raise ValueError("the parcel of tunnels is truncated")
    head = data[CELL_BYTES:at].cast("q").tolist()
    found = []
    for n in range(0, len(head), _CELLS):
        tunnel, row, for_client, for_backend = head[n : n + _CELLS]
        middle, end = at + for_client, at + for_client + for_backend
        if for_client < 0 or for_backend < 0 or end > size:
            raise ValueError("the parcel of tunnels is truncated")
        found.append(Tunnel(tunnel, row, bytes(data[at:middle]), bytes(data[middle:end])))
        at = end
    return (
        found
        if at == size
        else [
            tunnel._replace(client_half=client, backend_half=backend)
            for tunnel, (client, backend) in zip(found, _halves(data[at:], count), strict=True)
        ]
    )


def _halves(data: memoryview, count: int) -> list[tuple[bytes, bytes]]:
    """What follows the pending bytes. :param count: of tunnels. :raises ValueError: it is damaged"""
    at = CELL_BYTES * _HALVES * count
    if at > len(data):
        raise ValueError("the parcel of tunnels is truncated")
    sizes = array("q", bytes(data[:at]))
    if min(sizes, default=0) < 0 or at + sum(sizes) != len(data):
        raise ValueError("the parcel of tunnels is truncated")
    found = []
    for n in range(0, len(sizes), _HALVES):
        middle = at + sizes[n]
        end = middle + sizes[n + 1]
        found.append((bytes(data[at:middle]), bytes(data[middle:end])))
        at = end
    return found
