"""Puts processes ahead of all others for a while, so that neighbours on the machine do not show in latencies."""

import contextlib
import os
from collections.abc import Iterable, Iterator


@contextlib.contextmanager
def ahead_of_all(pids: Iterable[int], level: int = 1) -> Iterator[None]:
    """The main threads of `pids` run under SCHED_FIFO inside, see sched(7); not so where that is not permitted.

    Those of a higher `level` go ahead of others there.
    """
    urgent = []
    try:
        with contextlib.suppress(PermissionError):
            for pid in pids:
                os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(level))
                urgent.append(pid)
        yield
    finally:
        for pid in urgent:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
