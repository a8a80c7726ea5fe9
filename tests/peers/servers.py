"""Starting other people's servers on free ports, in directories of their own, and stopping them."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.deadline import DEADLINE_SECONDS, within
from tests.support.process import Process
from tests.support.raw import connect

# Debian's own /usr/sbin/rabbitmq-server changes the user and the directory; the one that it calls does not.
_PATH = f"/usr/lib/rabbitmq/bin:{os.environ['PATH']}:/usr/sbin:/sbin"
HERE = Path(__file__).parent
NODE_MODULES = HERE / "node_modules"


def program(name: str) -> str:
    """Where a program is; a test whose peer is missing fails, as otherwise nobody would notice."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        pytest.fail(f"{name} is not installed: run tests/peers/install.sh (make test-peers does)", pytrace=False)
    return found


def node_script(name: str) -> tuple[str, str]:
    """The command that runs a script of ``node/``."""
    if not NODE_MODULES.is_dir():
        pytest.fail("npm packages are not installed: run tests/peers/install.sh (make test-peers does)", pytrace=False)
    return program("node"), str(HERE / "node" / name)


def java_program(name: str, *options: str) -> tuple[str, ...]:
    """The command that runs a program of ``java/``, which needs the compiler of a JDK. :param options: for the JVM"""
    program("javac")
    return program("java"), *options, str(HERE / "java" / f"{name}.java")


class Servers:
    """Starts servers, and stops them in the end."""

    def __init__(self) -> None:
        self._running: list[Process] = []

    async def start(
        self,
        *command: str | Path,
        accepts: str | None = None,
        env: Mapping[str, str] | None = None,
        seconds: float = DEADLINE_SECONDS,
        stdin: bool = False,
    ) -> Process:
        """Start one.

        :param accepts: the address at which it is to accept connections before this returns
        :param stdin: as for :meth:`Process.start`
        """
        process = await Process.start(*command, env=env, stdin=stdin)
        self._running.append(process)
        if accepts is not None:
            await within(self._accepting(process, accepts), f"{process.name} to accept connections", seconds)
        return process

    async def close(self) -> None:
        for process in reversed(self._running):
            await process.end()

    @staticmethod
    async def _accepting(process: Process, address: str) -> None:
        while True:
            if process.status is not None:
                await process.stderr.end()
                said = "\n".join(process.stdout.lines + process.stderr.lines)
                raise AssertionError(f"{process.name} exited with {process.status}:\n{said}")
            try:
                connection = await connect(address)
            except OSError:
                await asyncio.sleep(0.05)  # it tells nobody when it is there
            else:
                await connection.close()
                return
