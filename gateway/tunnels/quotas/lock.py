"""A lock on a set of entries, which the kernel frees when its holder dies.

It is a POSIX record lock on one byte of the ``memfd`` (fcntl(2)): those belong to processes, while ``flock`` and OFD
locks belong to open files, of which all processes here share one. The contents of the file do not matter for it.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Callable

_FLOCK = struct.Struct("@hhqqi4x")
"""``struct flock`` of Linux: ``fcntl.lockf`` makes the same call, but takes twice as long."""

PATIENCE_NS = 100_000_000
"""How long to wait for a holder that was not given the processor. It needs the lock for some microseconds, but on a
machine with far more to do than processors it may be out for tens of milliseconds."""

STEP_SECONDS = 0.0002
RESIGNED_NS = 1_000_000_000
"""For how long, after a wait in vain, that lock is not waited for: its holder is stopped, and handshakes must go on."""


class Lock:
    """The locks of one process. Nothing waits long: if a lock cannot be had, its user goes on without it."""

    def __init__(
        self,
        fd: int,
        on_missed: Callable[[], None] = lambda: None,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """
        :param fd: of the ``memfd``. Closing any descriptor of it frees all locks of this process
        :param on_missed: called each time a lock could not be had
        """
        self.on_missed = on_missed
        self._fd = fd
        self._clock = clock
        self._sleep = sleep
        self._resigned_until: dict[int, int] = {}
        """by set"""

    def acquire(self, at: int) -> bool:
        """Acquire the lock of a set; False if it could not be had. :param at: the set's number"""
        if self._try(at):
            return True
        now = self._clock()
        give_up = now + PATIENCE_NS
        if now >= self._resigned_until.get(at, 0):
            while now < give_up:
                self._sleep(STEP_SECONDS)
                if self._try(at):
                    return True
                now = self._clock()
            self._resigned_until[at] = now + RESIGNED_NS
        self.on_missed()
        return False

    def release(self, at: int) -> None:
        """Release a lock that was acquired."""
        fcntl.fcntl(self._fd, fcntl.F_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, at, 1, 0))

    def _try(self, at: int) -> bool:
        try:
            fcntl.fcntl(self._fd, fcntl.F_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0))
        except OSError:  # another process has it, or the kernel has no memory for locks
            return False
        return True
