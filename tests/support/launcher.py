"""Starts gateways by forking a process that has imported them already: most of a start is imports.

What a gateway does from its first line on is the same. Where imports, the interpreter or memory shared with others make
a difference, tests start a process of their own (:class:`tests.support.process.Process`).
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import gateway

DECIDING = ("PYTHON", "GATEWAY_RELAY", "LD_", "SSL_", "OPENSSL_", "MALLOC_", "LANG", "LC_")
"""How variables begin that count before or while a program is imported."""

OF_COPIES = ("PYTHONPATH", "PYTHONSAFEPATH", "PYTHONDONTWRITEBYTECODE")
"""Variables with which a copy of the package is executed (``tests/integration/upgrades.py``)."""

PROGRAM = Path(__file__).with_name("forking.py")


class Launcher:
    """A process that forks."""

    def __init__(self, env: Mapping[str, str]) -> None:
        """:param env: all its variables"""
        self._env = _deciding(env)
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", PROGRAM],
                env=env,
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )

    def fits(self, env: Mapping[str, str]) -> bool:
        """Whether a process with these variables would have imported the same: also from an unchanged copy."""
        deciding = _deciding(env)
        if deciding == self._env:
            return True
        return is_copy(Path(deciding.get("PYTHONPATH", ""), "gateway")) and (
            {name: value for name, value in deciding.items() if name not in OF_COPIES}
            == {name: value for name, value in self._env.items() if name not in OF_COPIES}
        )

    async def start(
        self,
        arguments: Sequence[str],
        env: Mapping[str, str],
        descriptors: int | None = None,
        passed: Sequence[tuple[str, int]] = (),
    ) -> Launched:
        """Run ``gateway`` with these arguments, in this process's directory.

        :param env: all its variables
        :param descriptors: the limit of them that it is given, if not that of the tests
        :param passed: descriptors as a service manager passes them, and their names
        """
        request = {
            "arguments": arguments,
            "env": dict(env),
            "cwd": os.getcwd(),
            "descriptors": descriptors,
            "passed": [name for name, _ in passed],
        }
        pipes = [os.pipe() for _ in range(3)]
        try:
            # This waits for nothing: a launcher that is still importing reads it later.
            fds = [write for _, write in pipes] + [fd for _, fd in passed]
            socket.send_fds(self._requests, [json.dumps(request).encode()], fds)
        finally:
            for _, write in pipes:
                os.close(write)
        readers = [await _reading(read) for read, _ in pipes]
        return await Launched.made(*readers)

    def close(self) -> None:
        """End it. What it has forked runs on."""
        self._requests.close()
        self._process.wait()


class Launched:
    """A process that was forked, with as much of ``asyncio.subprocess.Process`` as tests use."""

    stdin = None

    def __init__(self, pid: int, streams: Sequence[tuple[asyncio.StreamReader, asyncio.BaseTransport]]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        (self.stdout, _), (self.stderr, _), (self._report, _) = streams
        self._transports = [transport for _, transport in streams]
        self._ended = asyncio.create_task(self._end())

    @classmethod
    async def made(cls, *streams: tuple[asyncio.StreamReader, asyncio.BaseTransport]) -> Launched:
        """Wait until it runs. :param streams: of its stdout, its stderr, and what the launcher reports of it"""
        line = await streams[-1][0].readline()
        assert line, "the launcher has died"
        return cls(int(line), streams)

    async def wait(self) -> int:
        """Wait for its end; its exit status, negative for a signal."""
        return await asyncio.shield(self._ended)

    def close(self) -> None:
        """Close its pipes."""
        self._ended.cancel()
        for transport in self._transports:
            transport.close()

    async def _end(self) -> int:
        line = await self._report.readline()
        assert line, "the launcher has died"
        self.returncode = int(line)
        return self.returncode


async def _reading(fd: int) -> tuple[asyncio.StreamReader, asyncio.BaseTransport]:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), io.FileIO(fd, "rb")
    )
    return reader, transport


def is_copy(package: Path) -> bool:
    """Whether a folder has the sources that the tests would import, to the nanosecond in which they were written."""
    return _sources(package) == _sources(Path(gateway.__file__).parent) != {}


def _sources(package: Path) -> dict[Path, tuple[int, int]]:
    stats = {path.relative_to(package): path.stat() for path in package.rglob("*.py")}
    return {path: (stat.st_mtime_ns, stat.st_size) for path, stat in stats.items()}


def _deciding(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(DECIDING)}


_launchers: list[Launcher] = []


def launcher(env: Mapping[str, str]) -> Launcher:
    """That of this process of tests. :param env: its variables, where it is not there yet"""
    if not _launchers:
        _launchers.append(Launcher(env))
    return _launchers[0]


def close_launcher() -> None:
    """End it, if there is one."""
    while _launchers:
        _launchers.pop().close()
