"""The access log: one line per handshake, per tunnel's end and per plain request.

Lines are batched and written every ``FLUSH_SECONDS``. Anything but a regular file is written by a thread, so a stalled
reader (a full pipe) blocks that thread and never a tunnel. Lines beyond ``MAX_WAITING`` are dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

from gateway.observe.forms import Clock, Form, Value
from gateway.observe.log_file import LogFile
from gateway.observe.seldom import Seldom

FLUSH_SECONDS = 0.05
MAX_WAITING = 50_000
MAX_LINE = 2048
MAX_TEXT = 100
"""Maximum length of each value if the line would be longer than ``MAX_LINE``. A line must be shorter than what a pipe
takes in one piece, even if every character is escaped."""

_complain = Seldom(logging.getLogger("gateway").warning)
_losing = threading.Lock()
"""Held while lost lines are counted: by the event loop's thread, this log's thread, and that of a log it replaces."""


class AccessLog:
    """The access log of one worker."""

    def __init__(self, path: str | None, form: Literal["json", "text"], on_lost: Callable[[int], None]) -> None:
        """
        :param path: a file, ``-`` for stdout, None for no log
        :param on_lost: called with the number of lost lines, by one thread at a time
        :raises OSError: the file cannot be opened
        """
        self.enabled = path is not None
        self._format = Form.json if form == "json" else Form.text
        self._on_lost = on_lost
        self._lines: list[str] = []
        self._handed_over = 0
        """lines handed to the log's thread; written by the loop's thread only"""
        self._dealt_with = 0
        """how many of these were written or lost; written by the log's thread only"""
        self._abandoned = False
        """the process is exiting: lines that the thread has not processed were counted as lost"""
        self._clock = Clock()
        self._timer: asyncio.TimerHandle | None = None
        self._queue: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._file = None if path is None else LogFile(path)
        self._thread: threading.Thread | None = None
        self._start_thread()

    def write(self, form: Form, values: Sequence[Value], at: float | None = None) -> None:
        """Log one event. If the line is too long, its texts are cut to ``MAX_TEXT``.

        :param values: in the order of the form's fields
        :param at: when it happened, in Unix seconds; now if not given
        """
        if not self.enabled:
            return
        if len(self._lines) + self._handed_over - self._dealt_with >= MAX_WAITING:
            # Log nothing here: stderr may have the same stalled reader.
            with _losing:
                self._on_lost(1)
            return
        when = self._clock.text(time.time() if at is None else at)
        line = self._format(form, when, values)
        if len(line) > MAX_LINE:
            line = self._format(form, when, [v[:MAX_TEXT] if isinstance(v, str) else v for v in values])
        self._lines.append(line)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write the batched lines, or hand them to the thread."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lines:
            count, data = len(self._lines), "".join(self._lines).encode()
            self._lines.clear()
            if self._thread is None:
                self._write_lines(data)
            else:
                self._handed_over += count
                self._queue.put((count, data))

    def reopen(self) -> None:
        """Reopen the file after it was moved away. :raises OSError: it cannot be opened"""
        if self.enabled and self._file is not None:
            self._file.reopen()
            self._start_thread()

    def close(self, wait_seconds: float = 2, process_ends: bool = True) -> None:
        """Write what is pending, and wait for that at most ``wait_seconds``.

        :param process_ends: lines not written by then are lost, and counted as lost; otherwise the thread goes on
        """
        self.flush()
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(wait_seconds)
            if process_ends:
                with _losing:
                    self._abandoned = True
                    if self._handed_over > self._dealt_with:
                        self._on_lost(self._handed_over - self._dealt_with)
        elif self.enabled and self._file is not None:
            self._file.close()
        self._thread = None
        self.enabled = False

    def _start_thread(self) -> None:
        if self._thread is None and self._file is not None and not self._file.is_regular:
            self._thread = threading.Thread(target=self._write_all, name="access-log", daemon=True)
            self._thread.start()

    def _write_all(self) -> None:
        """The log's thread: write batches until the log is closed."""
        assert self._file is not None
        while (item := self._queue.get()) is not None:
            count, data = item
            self._write_lines(data, count)
        self._file.close()

    def _write_lines(self, data: bytes, handed_over: int = 0) -> None:
        """Write lines. :param handed_over: how many they are, if the log's thread writes them"""
        assert self._file is not None
        lost, error = self._file.write(data)
        with _losing:
            if self._abandoned:
                return  # already counted as lost
            self._dealt_with += handed_over
            if lost:
                self._on_lost(lost)
        if error is not None:
            _complain("access log %s: %s; lost %d lines", self._file.path, error.strerror, lost)
