"""Child processes: waiting for them, and killing them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess

_awaited: set[int] = set()
"""children that a :class:`Child` stands for"""


class Child:
    """A child of this process, however it came to be one. It must be waited for."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None
        _awaited.add(pid)

    @classmethod
    def of(cls, process: subprocess.Popen[bytes]) -> Child:
        """Wait for a process here from now on, in place of ``process``."""
        process.returncode = 0
        return cls(process.pid)

    def kill(self) -> None:
        """Kill it if it is still running. Its pid cannot be reused until it has been waited for."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait until it exits; return its status, negative for a signal."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            _awaited.discard(self.pid)
        return self._status


async def exit_status(child: Child) -> int:
    """Wait for a child without a thread; return its status, negative for a signal."""
    loop = asyncio.get_running_loop()
    exited = asyncio.Event()
    try:
        pidfd = os.pidfd_open(child.pid)
    except ProcessLookupError:
        return child.wait()  # it was already dead
    loop.add_reader(pidfd, exited.set)
    try:
        await exited.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    return child.wait()


def how_it_ended(status: int) -> str:
    """Say in a log line how a child ended. :param status: as :func:`exit_status` returns it"""
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"


def adopt_orphans() -> None:
    """Become the parent of processes that descend from this one when their own parent exits (PR_SET_CHILD_SUBREAPER,
    prctl(2)). This outlasts ``execve``.

    :raises OSError: the kernel refused
    """
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def reap_orphans() -> None:
    """Wait for adopted children that have exited and that nobody else will wait for."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if found.si_pid in _awaited:
                return  # it is waited for before long, and the next call sees the others
            os.waitpid(found.si_pid, 0)
