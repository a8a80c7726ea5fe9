"""Connecting to a backend: one address after another, until one accepts, with the first bytes sent along.

A connection on the same machine stands when ``connect()`` returns, so what goes first is sent at once: that saves a
round through epoll.
"""

from __future__ import annotations

import os
import select
from functools import partial
from typing import TYPE_CHECKING, Protocol

from gateway.edge.refused import Refused
from gateway.tunnels.table.layout import NEVER

if TYPE_CHECKING:
    from gateway.edge.descriptors import Descriptors
    from gateway.observe.backends import Backends
    from gateway.routing.attempts import Attempt, Attempts
    from gateway.tunnels.relay.poller import Poller

NONE = -1


class Caller(Protocol):
    """Who wants a connection."""

    def chosen(self, attempt: Attempt) -> bool:
        """A backend was chosen. :returns: whether it is to be dialled; if not, the caller has done something else"""

    def dialled(self, fd: int, attempt: Attempt, unsent: bytes, known: bool) -> None:
        """A connection stands: read it from now on.

        :param unsent: what the socket did not take of what goes first
        :param known: whether epoll watches it already (:meth:`Poller.read`)
        """

    def not_dialled(self, refused: Refused) -> None:
        """No backend can be reached. :param refused: what the client is told: why the last one could not be"""

    def abandon(self) -> None:
        """Something failed: close everything."""


class Dialler:
    """What dials need, of one worker."""

    def __init__(self, poller: Poller, descriptors: Descriptors, backends: Backends) -> None:
        self.poller = poller
        self.descriptors = descriptors
        self.backends = backends


class Dial:
    """One connection to be made."""

    __slots__ = (
        "_attempt",
        "_attempts",
        "_caller",
        "_connect_ns",
        "_data",
        "_dialler",
        "_failure",
        "_fd",
        "_preamble",
        "_unresolved",
        "_unsent",
        "_watched",
        "deadline_ns",
    )

    def __init__(
        self,
        dialler: Dialler,
        caller: Caller,
        attempts: Attempts,
        data: bytes,
        connect_ns: int,
        preamble: bytes = b"",
    ) -> None:
        """
        :param data: what goes first on the connection
        :param connect_ns: how long each attempt may take, in nanoseconds
        :param preamble: a PROXY header, which precedes even that
        """
        self._dialler = dialler
        self._caller = caller
        self._attempts = attempts
        self._data = data
        self._preamble = preamble
        self._unsent = b""
        self._unresolved = 0  # how many were reported
        self._connect_ns = connect_ns
        self._attempt: Attempt | None = None
        self._fd = NONE
        self._watched = False
        self._failure: Refused | None = None
        self.deadline_ns = NEVER
        """when :meth:`late` is due; the caller copies it"""

    def start(self, attempt: Attempt | None = None) -> None:
        """Dial. :param attempt: the one to begin with, where the caller has chosen it already"""
        if attempt is None:
            attempt = self._next()
            if attempt is None or not self._caller.chosen(attempt):
                return
        self._connect(attempt)

    def late(self) -> None:
        """The address that is being dialled has not accepted in time: try the next."""
        self._failed("timeout", Refused(504, "the backend did not accept the connection in time", "timeout"))
        self.start()

    def cancel(self) -> None:
        """Nobody wants the connection any more."""
        self._drop()
        self._attempt = None

    def abandon(self) -> None:
        """Something in here failed, or in the caller when it was called: both end."""
        self.cancel()
        self._caller.abandon()

    def _next(self) -> Attempt | None:
        """The next attempt; None when there is none, which the caller was told."""
        attempts = self._attempts
        attempt = attempts.next()
        for target in attempts.unresolved[self._unresolved :]:
            self._dialler.backends.connect_failed(target, "unresolved")
            self._failure = Refused(502, "the backend's name does not resolve", "connect_error")
        self._unresolved = len(attempts.unresolved)
        if attempt is None:
            self._caller.not_dialled(self._failure or Refused(503, "no backend", "unavailable"))
        return attempt

    def _connect(self, attempt: Attempt) -> None:
        dialler = self._dialler
        kernel = dialler.poller.kernel
        _, family, address = attempt
        try:
            self._fd = dialler.descriptors.backend_socket(kernel, family)
        except Refused as error:
            self._caller.not_dialled(error)
            return
        self._attempt = attempt
        self.deadline_ns = dialler.poller.relay.now + self._connect_ns
        data = self._preamble + self._data
        dialler.poller.defer(partial(kernel.connect, self._fd, family, address, data), partial(self._began, data))

    def _began(self, data: bytes, sent: int) -> None:
        """A connection was begun. :param sent: how much was sent on it, or a negative errno"""
        attempt = self._attempt
        fd = self._fd
        if fd == NONE or attempt is None:
            return  # cancelled meanwhile
        if sent == len(data):
            self._connected(attempt, b"")
        elif sent >= 0:
            self._unsent = data[sent:]
            self._watched = True
            self._dialler.poller.watch(fd, select.EPOLLOUT, self._ready)
        else:
            self._connect_failed(-sent)
            self.start()

    def _ready(self, mask: int) -> None:
        """The connection stands, or failed."""
        error = self._dialler.poller.kernel.error_of(self._fd)
        attempt = self._attempt
        assert attempt is not None
        if error:
            self._connect_failed(error)
            self.start()
            return
        self._connected(attempt, self._unsent)

    def _connected(self, attempt: Attempt, unsent: bytes) -> None:
        self._dialler.backends.connect_succeeded(attempt[0])
        fd, self._fd = self._fd, NONE
        known, self._watched = self._watched, False
        self._attempt = None
        self.deadline_ns = NEVER
        self._caller.dialled(fd, attempt, unsent, known)

    def _connect_failed(self, error: int) -> None:
        why = os.strerror(error)
        self._failed(
            why.lower().replace(" ", "_"), Refused(502, f"the backend cannot be reached: {why}", "connect_error")
        )

    def _failed(self, reason: str, refused: Refused) -> None:
        """Count a failure, and let go of the socket. The last failure is what the client is told."""
        assert self._attempt is not None
        self._dialler.backends.connect_failed(self._attempt[0], reason)
        self._failure = refused
        self._drop()

    def _drop(self) -> None:
        if self._fd != NONE:
            poller = self._dialler.poller
            if self._watched:
                poller.unwatch(self._fd)
                self._watched = False
            poller.relay.retire(self._fd)
            self._fd = NONE
        self.deadline_ns = NEVER
