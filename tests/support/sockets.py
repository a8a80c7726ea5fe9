"""Whose connections are whose: what the kernel says of the sockets that a process has (proc(5), ``/proc/net/tcp``)."""

from __future__ import annotations

import contextlib
from pathlib import Path

ESTABLISHED = "01"


def client_ports(pid: int, address: str) -> set[int]:
    """Ports of the clients whose connections to an address a process has.

    :param address: ``host:port``, over IPv4
    """
    port = int(address.rpartition(":")[2])
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            kind, _, inode = descriptor.readlink().name.partition(":")
            if kind == "socket":
                inodes.add(inode.strip("[]"))
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = fields = line.split()
        if state == ESTABLISHED and fields[9] in inodes and int(local.rpartition(":")[2], 16) == port:
            found.add(int(remote.rpartition(":")[2], 16))
    return found


def has_been_read(client: str) -> bool:
    """Whether what a client has sent is no longer in the queue of the socket at the other end.

    :param client: address of its end of the connection, ``host:port``, over IPv4
    """
    port = int(client.rpartition(":")[2])
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, state, queues, *_ = line.split()
        if state == ESTABLISHED and int(remote.rpartition(":")[2], 16) == port:
            return int(queues.rpartition(":")[2], 16) == 0
    return False
