"""Puts processes ahead of others for a while, so that neighbours on the machine do not show in latencies."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

HIGHEST, USUAL = -20, 0


@contextlib.contextmanager
def ahead_of_all(pids: Iterable[int]) -> Iterator[None]:
    """The main threads of `pids` run under SCHED_FIFO inside, see sched(7); not so where that is not permitted.

    If they need a core for the better part of a second, Linux stops them for up to 50 ms in favour of the rest.
    """
    urgent = []
    try:
        with contextlib.suppress(PermissionError):
            for pid in pids:
                os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))
                urgent.append(pid)
        yield
    finally:
        for pid in urgent:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))


@contextlib.contextmanager
def favoured(pids: Iterable[int]) -> Iterator[None]:
    """`pids` go ahead of all that do not run under SCHED_FIFO inside, if that is permitted."""
    favourites = []
    try:
        with contextlib.suppress(PermissionError):
            for pid in pids:
                _renice(pid, HIGHEST)
                favourites.append(pid)
        yield
    finally:
        for pid in favourites:
            with contextlib.suppress(ProcessLookupError):
                _renice(pid, USUAL)


def _renice(pid: int, nice: int) -> None:
    """Sets the nice value of a process, and of its session: with autogroups a process competes inside of that only."""
    os.setpriority(os.PRIO_PROCESS, pid, nice)
    with contextlib.suppress(FileNotFoundError):
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))
