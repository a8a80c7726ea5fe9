"""Processes that a benchmark starts: each in a session of its own, ended as a whole, and never another's."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

LOWEST_PORT = 20_000
STOP_SECONDS = 5.0


def free_port() -> int:
    """Returns a TCP port of 127.0.0.1 that nobody has, outside the range that outgoing connections use."""
    lowest_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(LOWEST_PORT, max(lowest_ephemeral, LOWEST_PORT + 1000))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def on_cores(cores: set[int] | None) -> Iterator[None]:
    """Children started inside inherit `cores` (None: all that this process may use)."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or mine)
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


class Group:
    """A command and whatever it forks."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        cores: set[int] | None,
        output: IO[bytes] | int,
        errors: IO[bytes] | int,
        stdin: int = subprocess.DEVNULL,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        with on_cores(cores):
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=stdin,
                stdout=output,
                stderr=errors,
                cwd=directory,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self.pid = self.process.pid

    def has_ended(self) -> bool:
        """Whether the command itself is over; it is not reaped, so its process group keeps its number."""
        return self.process.returncode is not None or (
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        )

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Asks the command to end, then kills what is left of its group."""
        if self.process.returncode is not None:
            return
        try:
            if not self.has_ended():
                os.kill(self.pid, how)
            deadline = time.monotonic() + STOP_SECONDS
            while not self.has_ended() and time.monotonic() < deadline:
                time.sleep(0.005)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
