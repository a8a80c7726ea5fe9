"""Child processes: waiting for them, and killing them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess


class InheritedChild:
    """A child started by the program that ran in this process before an upgrade."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def kill(self) -> None:
        """Kill it if it is still running. Its pid cannot be reused until it has been waited for."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait until it exits; return its status, negative for a signal."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status


async def exit_status(process: subprocess.Popen[bytes] | InheritedChild) -> int:
    """Wait for a child without a thread; return its status, negative for a signal."""
    loop = asyncio.get_running_loop()
    exited = asyncio.Event()
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return process.wait()  # it was already dead
    loop.add_reader(pidfd, exited.set)
    try:
        await exited.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    return process.wait()
