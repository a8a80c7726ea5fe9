"""The destination of log lines: a file, a FIFO or stdout. Every line is written completely or counted as lost.

A write can fail in the middle of a line, when a disk is full or a reader goes away. The partial line cannot be removed,
since other workers append to the same file. The next write then starts with a newline, so no other line is damaged.
"""

from __future__ import annotations

import os
import select
import stat
import sys

MODE = 0o640


class LogFile:
    """One open log of this process. Calls must not overlap, except :meth:`reopen`."""

    def __init__(self, path: str) -> None:
        """:param path: of a file or FIFO; ``-`` is stdout. :raises OSError: it cannot be opened"""
        self.path = path
        self._fd = self._open()
        self._cut = False
        """whether this process's last write ended in a partial line"""

    @property
    def is_regular(self) -> bool:
        """Whether writes do not block."""
        return stat.S_ISREG(os.fstat(self._fd).st_mode)

    def write(self, lines: bytes) -> tuple[int, OSError | None]:
        """Append lines.

        :param lines: each with its newline
        :returns: how many were lost, including a partial one, and why
        """
        head = b"\n" if self._is_cut() else b""
        data = head + lines
        written, error = self._write(data)
        if written:
            self._cut = data[written - 1] != ord("\n")
        if error is None:
            return 0, None
        return lines.count(b"\n") - lines.count(b"\n", 0, max(0, written - len(head))), error

    def reopen(self) -> None:
        """Reopen the path after the file was moved away. :raises OSError: it cannot be opened"""
        if self.path != "-":
            new = self._open()
            os.dup2(new, self._fd, inheritable=False)
            self._cut = False
            os.close(new)

    def close(self) -> None:
        """Close it; stdout stays open."""
        if self.path != "-":
            os.close(self._fd)

    def _open(self) -> int:
        if self.path == "-":
            return sys.stdout.fileno() if sys.stdout is not None else 1
        # Without O_NONBLOCK, opening a FIFO without a reader would block; with it, that is an error. A regular file is
        # reopened for reading too, if permitted, for _is_cut(). A FIFO must not be: it would be its own reader.
        flags = os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(self.path, flags | os.O_WRONLY, MODE)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            try:
                readable = os.open(f"/proc/self/fd/{fd}", flags & ~os.O_CREAT | os.O_RDWR)
            except OSError:
                pass
            else:
                os.close(fd)
                fd = readable
        os.set_blocking(fd, True)
        return fd

    def _is_cut(self) -> bool:
        """Whether the file ends in a partial line, from any worker."""
        try:
            status = os.fstat(self._fd)
            if stat.S_ISREG(status.st_mode):
                return os.pread(self._fd, 1, max(0, status.st_size - 1)) not in (b"\n", b"")
        except OSError:
            pass  # not open for reading
        return self._cut

    def _write(self, data: bytes) -> tuple[int, OSError | None]:
        """Write as much as possible. :returns: how many bytes were written, and the error if not all were"""
        written = 0
        try:
            # Write to a pipe in pieces of at most PIPE_BUF: the kernel does not interleave those of workers (pipe(7)).
            pipe = stat.S_ISFIFO(os.fstat(self._fd).st_mode)
            while written < len(data):
                end = len(data)
                if pipe and end - written > select.PIPE_BUF:
                    most = written + select.PIPE_BUF
                    end = data.rfind(b"\n", written, most) + 1 or most
                try:
                    written += os.write(self._fd, data[written:end])
                except BlockingIOError:
                    select.select((), (self._fd,), (), 1)
        except OSError as error:
            return written, error
        return written, None
