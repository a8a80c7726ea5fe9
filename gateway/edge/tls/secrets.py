"""The way in which keys leave OpenSSL: its key log, which never is in a file.

In the compiled build OpenSSL calls back with each line (``callback.pyx``). In the other, and for contexts in which
OpenSSL's part cannot be found for certain (``openssl.py``), the log goes to a pipe of this process:
``SSLContext.keylog_filename`` wants a path, and ``/proc/self/fd`` has one. That costs 30 us more a handshake.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping

from gateway.edge.tls import callback
from gateway.edge.tls.openssl import pointer_of
from gateway.protocol.tls.keylog import secrets_of

MOST_BYTES = 64 * 1024
"""What a pipe holds; one step of a handshake logs about 1 KiB."""


class KeyLog:
    """The key log of all handshakes of one thread, which makes their steps one after another."""

    def __init__(self, uses_callback: bool = True) -> None:
        """:param uses_callback: False for the pipe in the compiled build, too"""
        self._uses_callback = uses_callback and callback.COMPILED
        self._read_fd = self._write_fd = -1

    def attach(self, context: ssl.SSLContext) -> None:
        """Log the keys of handshakes with a context from now on. :raises OSError: descriptors are short"""
        if self._uses_callback:
            pointer = pointer_of(context)
            if pointer is not None and callback.attach(pointer):
                return
        if self._read_fd < 0:  # most gateways need none
            self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        context.keylog_filename = f"/proc/self/fd/{self._write_fd}"  # OpenSSL opens it at once and keeps it open

    def take(self) -> Mapping[str, bytes]:
        """The secrets of the step that was just made, by label (``protocol/tls/keylog.py``). To be called after each
        step, so that those of two handshakes do not mix.

        :raises ValueError: what OpenSSL has logged cannot be read
        """
        found = callback.take() if self._uses_callback else {}
        if self._read_fd < 0:
            return found
        try:
            return {**found, **secrets_of(os.read(self._read_fd, MOST_BYTES))}
        except BlockingIOError:
            return found

    def close(self) -> None:
        """Close the pipe. Contexts that use it must make no more handshakes."""
        if self._read_fd >= 0:
            os.close(self._read_fd)
            os.close(self._write_fd)
            self._read_fd = self._write_fd = -1
