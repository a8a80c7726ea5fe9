"""What ``ps`` and ``top`` show of a process that was forked: otherwise all have the command line of the first."""

from __future__ import annotations

import contextlib
from pathlib import Path

ARG_START, ARG_END = 47, 48
"""Positions in ``/proc/self/stat``, from 0 (proc_pid_stat(5))."""


def set_title(name: str, command_line: str) -> None:
    """Set what is shown of this process. Does nothing where the system does not allow that.

    :param name: for the short listing; the kernel keeps 15 bytes
    :param command_line: in place of its command line; cut to the length of that
    """
    with contextlib.suppress(OSError, ValueError):
        Path("/proc/self/comm").write_text(name)
    with contextlib.suppress(OSError, ValueError):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        # The name in brackets is field 1, and what follows it begins with field 2.
        start, end = int(fields[ARG_START - 2]), int(fields[ARG_END - 2])
        length = end - start - 1  # the last byte stays NUL: otherwise the environment counts as part of it
        if 0 < start < end:
            with open("/proc/self/mem", "r+b", buffering=0) as memory:
                memory.seek(start)
                memory.write(command_line.encode()[:length].ljust(length, b"\0"))
