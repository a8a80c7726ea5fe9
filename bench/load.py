"""Drives the load program: the backend, and one client for each measurement."""

import contextlib
import json
import os
import select
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from bench.errors import BenchError
from bench.process import Group


class Load:
    """One run of the load program, read line by line."""

    def __init__(
        self, program: Path, arguments: list[str], cores: set[int] | None, errors: IO[bytes], fields: str = ""
    ) -> None:
        self._errors = errors
        self._group = Group(
            [program, *arguments],
            cores=cores,
            stdin=subprocess.PIPE,
            output=subprocess.PIPE,
            errors=errors,
            environment={"LOAD_FIELDS": fields},
        )
        self._arguments = arguments
        self._mode = arguments[3 if arguments[0] == "--tls" else 0]
        self._received = b""

    def expect(self, word: str, seconds: float) -> None:
        """Waits for the line `word`."""
        if (line := self._line(seconds)) != word:
            raise BenchError(f"load {self._mode}: said {line!r} instead of {word!r}")

    def result(self, seconds: float) -> dict[str, Any]:
        """Waits for the line of JSON that ends a measurement: figures, and of silent tunnels `tenths`.

        `tenths` counts the Pings that came in each tenth of a second from the first Ping on.
        """
        return cast("dict[str, Any]", json.loads(self._line(seconds)))

    def go(self) -> None:
        """Lets the program go on."""
        assert self._group.process.stdin is not None
        self._group.process.stdin.write(b"go\n")
        self._group.process.stdin.flush()

    @property
    def pid(self) -> int:
        return self._group.pid

    def stop(self) -> None:
        self._group.stop()

    def _line(self, seconds: float) -> str:
        output = self._group.process.stdout
        assert output is not None
        while b"\n" not in self._received:
            if not select.select([output], [], [], seconds)[0]:
                raise BenchError(f"load {' '.join(self._arguments)}: nothing for {seconds:.0f} s")
            if not (more := os.read(output.fileno(), 4096)):
                self._errors.seek(0)
                said = self._errors.read().decode(errors="replace").strip()
                raise BenchError(f"{self._mode} load: {said or 'ended'}")
            self._received += more
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()


@contextlib.contextmanager
def running_load(program: Path, *arguments: str | float, cores: set[int] | None, fields: str = "") -> Iterator[Load]:
    """Runs the load program with `arguments` (the modes are at the top of load.c) and ends it.

    `fields` are lines for its requests to upgrade.
    """
    with tempfile.TemporaryFile() as errors:
        load = Load(program, [str(argument) for argument in arguments], cores, errors, fields)
        try:
            yield load
        finally:
            load.stop()


@contextlib.contextmanager
def running_backend(program: Path, cores: set[int] | None) -> Iterator[tuple[int, int]]:
    """Runs the server (a WebSocket echo, and plain HTTP) on a port of 127.0.0.1, and gives the port and its pid."""
    with running_load(program, "backend", cores=cores) as backend:
        yield int(backend.result(5)["port"]), backend.pid
