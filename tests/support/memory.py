"""What processes take of the machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def private_bytes(pid: int) -> int:
    """Memory that would be free if the process ended; of what it shares with others, nothing."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:", "Private_Hugetlb:")):
            total += int(line.split()[1]) * 1024
    return total


def mapped(pid: int) -> str:
    """What a process has in its memory, compiled modules among it, as the kernel lists it."""
    return Path(f"/proc/{pid}/maps").read_text()


def open_descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def open_sockets(pid: int) -> int:
    """How many of its descriptors are sockets."""
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            found += descriptor.readlink().name.startswith("socket:")
    return found
