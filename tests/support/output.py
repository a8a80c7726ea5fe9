"""Lines of a process as they come, and a way to wait for one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from tests.support.deadline import DEADLINE_SECONDS, within

T = TypeVar("T")


class Lines:
    """Every line of a stream."""

    def __init__(self, stream: asyncio.StreamReader, name: str) -> None:
        self.lines: list[str] = []
        self.name = name
        self._stream = stream
        self._ended = False
        self._more = asyncio.Event()
        self._task = asyncio.create_task(self._read())

    async def first(
        self, match: Callable[[str], T | None], what: str, start: int = 0, seconds: float = DEADLINE_SECONDS
    ) -> T:
        """What ``match`` makes of the first line, from line ``start`` on, of which it makes anything."""
        return await within(self._first(match, what, start), f"{what} on {self.name}", seconds)

    async def containing(self, text: str, start: int = 0, seconds: float = DEADLINE_SECONDS) -> str:
        """The first line with a text in it."""
        return await self.first(lambda line: line if text in line else None, repr(text), start, seconds)

    async def end(self) -> None:
        """Wait until the writer has closed the stream."""
        await within(asyncio.shield(self._task), f"the end of {self.name}")

    def stop(self) -> None:
        """Read no more."""
        self._task.cancel()

    async def _first(self, match: Callable[[str], T | None], what: str, at: int) -> T:
        while True:
            while at < len(self.lines):
                found = match(self.lines[at])
                if found is not None:
                    return found
                at += 1
            assert not self._ended, f"{self.name} ended without {what}:\n" + "\n".join(self.lines[-40:])
            self._more.clear()
            await self._more.wait()

    async def _read(self) -> None:
        rest = b""
        try:
            while data := await self._stream.read(65536):
                *whole, rest = (rest + data).split(b"\n")
                self.lines += (line.decode("utf-8", "replace") for line in whole)
                self._more.set()
        finally:
            if rest:
                self.lines.append(rest.decode("utf-8", "replace"))
            self._ended = True
            self._more.set()
