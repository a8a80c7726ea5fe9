"""Verifies passwords, which is slow by design, in a thread of its own. Imported only where a route has users."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

import argon2
import bcrypt
from argon2.low_level import Type, verify_secret

BCRYPT_BYTES = 72
"""What bcrypt looks at of a password; others cut it there, too, so that a longer one matches what they have stored."""

_ARGON2_TYPES = {"argon2id": Type.ID, "argon2i": Type.I, "argon2d": Type.D}
log = logging.getLogger("gateway")


class Unusable(Exception):
    """A hash with which no password can be compared; ``str()`` says why."""


def verify(stored: str, password: bytes) -> bool:
    """Whether a password is the one that a hash was made of.

    :param stored: of argon2 (RFC 9106) or bcrypt
    :raises Unusable: it cannot be found out
    """
    kind = stored.split("$", 2)[1]
    try:
        if kind in _ARGON2_TYPES:
            return verify_secret(stored.encode(), password, _ARGON2_TYPES[kind])
        return bcrypt.checkpw(password[:BCRYPT_BYTES], stored.encode())
    except argon2.exceptions.VerifyMismatchError:
        return False
    except (argon2.exceptions.Argon2Error, ValueError, MemoryError) as error:
        raise Unusable(f"{kind}: {error or type(error).__name__}") from None


class Job:
    """A password to be compared with a hash."""

    __slots__ = ("done", "dropped", "password", "stored")

    def __init__(self, stored: str, password: bytes, done: Callable[[bool | None], None]) -> None:
        """:param done: called on the loop's thread; with None if it could not be found out"""
        self.stored = stored
        self.password = password
        self.done = done
        self.dropped = False
        """whether nobody waits for it any more"""


class Hashing:
    """One thread, which begins with the first job. argon2 takes tens of megabytes at a time, bcrypt tens of
    milliseconds: more threads would take them from relaying."""

    def __init__(self, compare: Callable[[str, bytes], bool] = verify) -> None:
        self._compare = compare
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def add(self, job: Job) -> None:
        """Have a password compared, after those before."""
        if self._thread is None:
            # It holds nothing that must be finished, so the process may exit at any time.
            self._thread = threading.Thread(target=self._run, name="passwords", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            result = None
            if not job.dropped:
                try:
                    result = self._compare(job.stored, job.password)
                except Unusable as error:
                    log.error("a password cannot be compared with its hash: %s", error)
                except Exception:
                    log.exception("a password cannot be compared with its hash")
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process exits
                self._loop.call_soon_threadsafe(job.done, result)
            del job  # and its password
