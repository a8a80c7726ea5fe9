"""The way in which keys leave OpenSSL: its key log, written to a pipe of this process.

``SSLContext.keylog_filename`` wants a path, and ``/proc/self/fd`` has one for a pipe. So the log is never in a file.
"""

from __future__ import annotations

import os

MOST_BYTES = 64 * 1024
"""What a pipe holds; one step of a handshake logs about 1 KiB."""


class KeyLog:
    """The key log of all handshakes of one process, which make their steps one after another."""

    def __init__(self) -> None:
        self._read_fd = self._write_fd = -1

    @property
    def path(self) -> str:
        """For ``SSLContext.keylog_filename``. OpenSSL opens it at once and keeps it open.

        :raises OSError: descriptors are short
        """
        if self._read_fd < 0:  # most gateways need none
            self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._write_fd}"

    def take(self) -> bytes:
        """The lines of the step that was just made. To be called after each step, so that they do not mix."""
        try:
            return os.read(self._read_fd, MOST_BYTES)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Close the pipe. Contexts that use it must make no more handshakes."""
        if self._read_fd >= 0:
            os.close(self._read_fd)
            os.close(self._write_fd)
            self._read_fd = self._write_fd = -1
