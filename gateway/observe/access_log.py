"""The access log: one line for each handshake, for each tunnel's end and for each plain request.

Lines are gathered and written every ``FLUSH_SECONDS``. What is no regular file is written by a thread: a reader that
does not read (a pipe that is full) then blocks that thread, and never a tunnel. Lines beyond ``MAX_WAITING`` are
given up and counted.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import select
import stat
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Literal

FLUSH_SECONDS = 0.05
MAX_WAITING = 50_000
MAX_LINE = 2048
MAX_TEXT = 100
"""Characters that each value keeps where the line would be longer than ``MAX_LINE``: what goes to a pipe has to be
shorter than the pipe takes in one piece, even when each character is escaped."""

Value = str | int | float | None


class Form:
    """What the lines of one event say, and in which order. Each kind of line is put together once, here."""

    def __init__(self, event: str, **fields: str) -> None:
        """
        :param fields: how each value is printed, ``printf``'s way: ``%s`` for a text and for whatever may be missing
        """
        self.event = event
        self.fields = fields
        self._json = '{"time":"%s","event":"' + event + '"' + "".join(f',"{n}":{c}' for n, c in fields.items()) + "}\n"

    def json(self, when: str, values: Sequence[Value]) -> str:
        """A line of JSON. What is missing is null."""
        return self._json % (
            when,
            *[_escaped(v) if v.__class__ is str else "null" if v is None else v for v in values],
        )

    def text(self, when: str, values: Sequence[Value]) -> str:
        """A line for people: the time and the event, then ``key=value``. What is missing is left out."""
        words = [when, self.event]
        for (name, conversion), value in zip(self.fields.items(), values, strict=True):
            if value is not None:
                words.append(f"{name}={_quoted(value) if isinstance(value, str) else conversion % value}")
        return " ".join(words) + "\n"


_FRACTIONS = [f".{millisecond:03d}+00:00" for millisecond in range(1000)]
_escaped = json.encoder.encode_basestring_ascii


def _quoted(text: str) -> str:
    plain = text and text.isascii() and text.isprintable() and not set(text) & {" ", '"', "\\"}
    return text if plain else _escaped(text)


class AccessLog:
    """Where a worker's lines go."""

    def __init__(self, path: str | None, form: Literal["json", "text"], on_lost: Callable[[int], None]) -> None:
        """
        :param path: a file, ``-`` for stdout, None for no log
        :param on_lost: told how many lines were given up
        :raises OSError: the file cannot be opened
        """
        self.enabled = path is not None
        self._path = path
        self._format = Form.json if form == "json" else Form.text
        self._on_lost = on_lost
        self._lines: list[str] = []
        self._waiting = 0
        self._second = -1
        self._second_text = ""
        self._timer: asyncio.TimerHandle | None = None
        self._queue: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._fd = self._open()
        self._thread: threading.Thread | None = None
        if self.enabled and not stat.S_ISREG(os.fstat(self._fd).st_mode):
            self._thread = threading.Thread(target=self._write_all, name="access-log", daemon=True)
            self._thread.start()

    def write(self, form: Form, values: Sequence[Value], at: float | None = None) -> None:
        """Log one event. A line that is too long has its texts cut to ``MAX_TEXT``.

        :param values: in the order of the form's fields
        :param at: when it happened, in Unix seconds; now if not given
        """
        if not self.enabled:
            return
        if self._waiting >= MAX_WAITING:
            self._on_lost(1)
            return
        when = self._timestamp(time.time() if at is None else at)
        line = self._format(form, when, values)
        if len(line) > MAX_LINE:
            line = self._format(form, when, [v[:MAX_TEXT] if isinstance(v, str) else v for v in values])
        self._lines.append(line)
        self._waiting += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def _timestamp(self, at: float) -> str:
        """RFC 3339, with milliseconds. Lines of one second share what is made of it."""
        second = int(at)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second_text}{_FRACTIONS[int((at - second) * 1000)]}"

    def flush(self) -> None:
        """Write what was gathered, or hand it to the thread that does."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lines:
            count, data = len(self._lines), "".join(self._lines).encode()
            self._lines.clear()
            if self._thread is None:
                self._write_lines(count, data)
            else:
                self._queue.put((count, data))

    def reopen(self) -> None:
        """Open the file anew, after it was moved away. :raises OSError: it cannot be opened"""
        if self.enabled and self._path != "-":
            new = self._open()
            os.dup2(new, self._fd, inheritable=False)
            os.close(new)

    def close(self, wait_seconds: float = 2) -> None:
        """Write what there is, as far as that is done in ``wait_seconds``."""
        self.flush()
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(wait_seconds)
        elif self.enabled and self._path != "-":
            os.close(self._fd)
        self._thread = None
        self.enabled = False

    def _open(self) -> int:
        if self._path is None:
            return -1
        if self._path == "-":
            return sys.stdout.fileno() if sys.stdout is not None else 1
        # Without O_NONBLOCK a FIFO that nobody reads yet would hold the worker in open(); with it, that is an error.
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
        os.set_blocking(fd, True)
        return fd

    def _write_all(self) -> None:
        """What the thread does."""
        while (item := self._queue.get()) is not None:
            self._write_lines(*item)
        if self._path != "-":
            os.close(self._fd)

    def _write_lines(self, count: int, data: bytes) -> None:
        try:
            _write(self._fd, data)
        except OSError:
            self._on_lost(count)  # nobody reads any more, or the disk is full
        self._waiting -= count


def _write(fd: int, data: bytes) -> None:
    """Write lines whole. What goes to a pipe goes in pieces that the kernel does not mix with another worker's."""
    pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)
    while data:
        piece = data
        if pipe and len(data) > select.PIPE_BUF:
            end = data.rfind(b"\n", 0, select.PIPE_BUF) + 1
            piece = data[: end or select.PIPE_BUF]
        try:
            written = os.write(fd, piece)
        except BlockingIOError:
            select.select((), (fd,), (), 1)
            continue
        data = data[written:]
