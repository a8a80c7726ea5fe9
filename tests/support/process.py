"""A process that tests start and stop: its output, its exit status."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from typing import Any

from tests.support.deadline import DEADLINE_SECONDS, within
from tests.support.launcher import Launched, Launcher
from tests.support.output import Lines

TEMPLATE = "gw-template"
"""What the kernel calls the process that workers are forked from."""


class Process:
    """A running process, the head of a process group of its own."""

    def __init__(self, process: asyncio.subprocess.Process | Launched, name: str) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.name = name
        self.pid = process.pid
        self.stdout = Lines(process.stdout, f"{name}'s stdout")
        self.stderr = Lines(process.stderr, f"{name}'s stderr")
        self._process = process

    @classmethod
    async def start(
        cls,
        *command: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        name: str = "",
        pass_fds: Collection[int] = (),
        stdin: bool = False,
    ) -> Process:
        """Start a command.

        :param env: variables beside those of the tests
        :param stdin: whether :meth:`write` may send it anything; otherwise it reads from /dev/null
        """
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            env={**os.environ, **(env or {})},
            cwd=cwd,
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            pass_fds=pass_fds,
        )
        return cls(process, name or Path(command[0]).name)

    @classmethod
    async def launch(
        cls, launcher: Launcher, arguments: Sequence[str | Path], env: Mapping[str, str], **options: Any
    ) -> Process:
        """Start ``gateway`` with these arguments. The parameters are those of :meth:`Launcher.start`."""
        started = launcher.start([str(argument) for argument in arguments], env, **options)
        return cls(await within(started, "a gateway to be forked"), "gateway")

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.returncode

    def signal(self, number: Signals) -> None:
        """Send it a signal.

        Not through asyncio: its way also waits for a process that has just ended, and then nobody learns its status.
        """
        os.kill(self.pid, number)

    async def write(self, data: bytes) -> None:
        """Write to its stdin, and wait until most of it went."""
        assert self._process.stdin is not None, "it was started without stdin"
        self._process.stdin.write(data)
        await within(self._process.stdin.drain(), f"{self.name} to read its stdin")

    def close_stdin(self) -> None:
        """End its stdin."""
        assert self._process.stdin is not None, "it was started without stdin"
        self._process.stdin.close()

    async def exited(self, seconds: float = DEADLINE_SECONDS) -> int:
        """Wait for its end; its exit status, negative for a signal."""
        return await within(self._process.wait(), f"{self.name} to exit", seconds)

    async def output(self, seconds: float = DEADLINE_SECONDS) -> tuple[int, str, str]:
        """Wait for its end: exit status, stdout, stderr."""
        try:
            status = await self.exited(seconds)
            await self.stdout.end()
            await self.stderr.end()
        finally:
            await self.end()
        return status, "\n".join(self.stdout.lines), "\n".join(self.stderr.lines)

    async def end(self, number: Signals = SIGTERM) -> None:
        """See it gone: politely, then not."""
        try:
            if self.status is None:
                with contextlib.suppress(ProcessLookupError):
                    self.signal(number)
                await self.exited()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, SIGKILL)  # children that it left behind
            await self._process.wait()
            try:
                await self.stdout.end()
                await self.stderr.end()
            finally:
                self.stdout.stop()
                self.stderr.stop()
                if isinstance(self._process, Launched):
                    self._process.close()
                else:  # asyncio leaves its pipes open
                    self._process._transport.close()  # type: ignore[attr-defined]  # there is no public way


async def run(
    command: Sequence[str | Path],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    seconds: float = 2 * DEADLINE_SECONDS,
) -> tuple[int, str, str]:
    """Run a command to its end: exit status, stdout, stderr."""
    return await (await Process.start(*command, env=env, cwd=cwd)).output(seconds)


def state(pid: int) -> str:
    """What a process does, as ps shows it: ``R``, ``S``, ``T`` for stopped, ``Z`` for ended; empty once it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return ""
    return stat.rpartition(")")[2].split()[0]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    return state(pid) not in ("", "Z")


def children(pid: int) -> list[str]:
    """Processes that a process has started; of a supervisor's, its template is left out."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError):  # it was waited for meanwhile
            if name_of(int(child)) != TEMPLATE:
                found.append(child)
    return found


def template_of(pid: int) -> int | None:
    """The template of a supervisor, if it has one that runs."""
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        with contextlib.suppress(FileNotFoundError):
            if name_of(child) == TEMPLATE and is_alive(child):
                return child
    return None


def name_of(pid: int) -> str:
    """What ``ps -o comm`` shows."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


async def gone(pid: int, seconds: float = DEADLINE_SECONDS) -> None:
    """Wait until a process has ended that need not be a child of this one."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(fd, ended.set)
    try:
        await within(ended.wait(), f"process {pid} to end", seconds)
    finally:
        loop.remove_reader(fd)
        os.close(fd)
