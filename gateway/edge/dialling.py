"""Connecting to a backend, with TLS if its upstream has it: one address after another, until one accepts.

A connection on the same machine stands when ``connect()`` returns, so what goes first is sent at once: that saves a
round through epoll. With TLS that is the handshake's first message (``securing.py``); the request follows behind it.
"""

from __future__ import annotations

import os
import select
from collections.abc import Collection
from errno import EAGAIN, EINTR
from functools import partial
from typing import TYPE_CHECKING, Protocol

from gateway.edge.insecure import reason_of, refusal_of
from gateway.edge.refused import Refused
from gateway.edge.securing import Securing
from gateway.edge.tls.reasons import REJECTED_BY_PEER, HandshakeFailed

if TYPE_CHECKING:
    from gateway.edge.descriptors import Descriptors
    from gateway.edge.securing import Secures
    from gateway.edge.ways import Way, Ways
    from gateway.observe.backends import Backends
    from gateway.routing.attempts import Attempt, Attempts
    from gateway.tunnels.relay.poller import Poller

NONE = -1
NOT_NOW = (EAGAIN, EINTR)


class Caller(Protocol):
    """Who wants a connection."""

    def chosen(self, attempt: Attempt) -> bool:
        """A backend was chosen. :returns: whether it is to be dialled; if not, the caller has done something else"""

    def dialling(self, deadline_ns: int) -> None:
        """An address is being dialled. :param deadline_ns: when :meth:`Dial.late` is due"""

    def dialled(self, fd: int, way: Way, attempt: Attempt, unsent: bytes, known: bool) -> None:
        """A connection stands: read it from now on.

        :param way: has what carries it
        :param unsent: what the socket did not take of what goes first
        :param known: whether epoll watches it already (:meth:`Poller.read`)
        """

    def not_dialled(self, refused: Refused) -> None:
        """No backend can be reached. :param refused: what the client is told: why the last one could not be"""

    def abandon(self) -> None:
        """Something failed: close everything."""


class Dialler:
    """What dials need, of one worker."""

    def __init__(
        self, poller: Poller, descriptors: Descriptors, backends: Backends, ways: Ways, secures: Secures
    ) -> None:
        self.poller = poller
        self.descriptors = descriptors
        self.backends = backends
        self.ways = ways
        self.secures = secures


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
        "_securing",
        "_unresolved",
        "_unsent",
        "_watched",
        "_way",
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
        self._way: Way | None = None
        self._securing: Securing | None = None
        """TLS, while it is being established"""
        self._failure: Refused | None = None

    def start(self, attempt: Attempt | None = None) -> None:
        """Dial. :param attempt: the one to begin with, where the caller has chosen it already"""
        if attempt is None:
            attempt = self._next()
            if attempt is None or not self._caller.chosen(attempt):
                return
        self._connect(attempt)

    def late(self) -> None:
        """The address that is being dialled has not accepted in time: try the next."""
        if self._securing is not None and self._securing.has_begun:
            self._securing.late()
            return
        self._failed("timeout", Refused(504, "the backend did not accept the connection in time", "timeout"))
        self.start()

    def divert(self, backends: Collection[int]) -> None:
        """Dial another backend in place of one that gets nothing new any more, if there is another one.

        Not to be called between :meth:`start` and the deferred calls of that turn.

        :param backends: numbers of those that get nothing new
        """
        attempt = self._attempt
        if attempt is None or attempt[0].number not in backends:
            return
        if self._securing is None and len(self._unsent) < len(self._preamble) + len(self._data):
            return  # it stands, and has a part of the request
        other = self._attempts.instead()
        if other is None:
            return
        self._drop()
        self._attempt = None
        if self._caller.chosen(other):
            self._connect(other)

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
            self._caller.not_dialled(self._failure or Refused(503, attempts.why_none(), "unavailable"))
        return attempt

    def _connect(self, attempt: Attempt) -> None:
        dialler = self._dialler
        target, family, _ = attempt
        try:
            self._fd = dialler.descriptors.backend_socket(dialler.poller.kernel, family)
        except Refused as error:
            self._caller.not_dialled(error)
            return
        self._attempt = attempt
        self._caller.dialling(dialler.poller.relay.now + self._connect_ns)
        way = self._way = dialler.ways.of(target.upstream)
        if way.tls is None:
            self._begin(attempt, self._data)
        else:
            self._securing = Securing(dialler.secures, self, way.tls, target.address)
            self._securing.start()

    def _begin(self, attempt: Attempt, data: bytes) -> None:
        """Begin a connection. :param data: what goes first, but for the PROXY header"""
        data = self._preamble + data
        _, family, address = attempt
        poller = self._dialler.poller
        poller.defer(
            partial(poller.kernel.connect, self._fd, family, address, data), partial(self._began, self._fd, data)
        )

    def _began(self, fd: int, data: bytes, sent: int) -> None:
        """A connection was begun. :param sent: how much was sent on it, or a negative errno"""
        if fd != self._fd or fd == NONE:
            return  # cancelled meanwhile
        if sent == len(data):
            if self._securing is None:
                self._connected(b"")
            else:
                self._stands(b"")
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
        if error:
            self._connect_failed(error)
            self.start()
            return
        self._stands(self._unsent)

    def _stands(self, unsent: bytes) -> None:
        """The connection stands. :param unsent: what its socket did not take of what goes first"""
        if self._securing is None:
            self._connected(unsent)
        else:
            watched, self._watched = self._watched, True
            self._securing.begin(self._fd, unsent, watched)

    def _connected(self, unsent: bytes) -> None:
        attempt, way = self._attempt, self._way
        assert attempt is not None
        assert way is not None
        self._dialler.backends.connect_succeeded(attempt[0])
        fd, self._fd = self._fd, NONE
        known, self._watched = self._watched, False
        self._attempt = None
        self._caller.dialled(fd, way, attempt, unsent, known)

    # --- TLS ----------------------------------------------------------------------------------------------------------

    def greet(self, hello: bytes) -> None:
        """The handshake has its first message: connect, and send that along."""
        assert self._attempt is not None
        self._begin(self._attempt, hello)

    def secured(self) -> None:
        """TLS is established: send what goes first."""
        assert self._way is not None
        self._securing = None
        sent = self._way.wire.write(self._fd, self._data)
        if sent < 0 and -sent not in NOT_NOW:
            self._way.wire.read(self._fd)  # there may be an alert that says why
            alert = self._way.wire.alert(self._fd)
            if alert:
                self.not_secured(HandshakeFailed(REJECTED_BY_PEER, f"the backend ended TLS: {alert}"))
            else:
                self._connect_failed(-sent)
                self.start()
            return
        self._connected(self._data[max(sent, 0) :])

    def not_secured(self, failure: HandshakeFailed) -> None:
        """TLS cannot be established with this address: try the next."""
        self._securing = None
        assert self._attempt is not None
        self._dialler.secures.log_failure(self._attempt[0].label, failure)
        self._failed(reason_of(failure), refusal_of(failure))
        self.start()

    # --- failures -----------------------------------------------------------------------------------------------------

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
        if self._securing is not None:
            self._securing.cancel()
            self._securing = None
        if self._fd != NONE:
            poller = self._dialler.poller
            if self._watched:
                poller.unwatch(self._fd)
                self._watched = False
            if self._way is not None:
                self._way.wire.close(self._fd)
            poller.relay.retire(self._fd)
            self._fd = NONE
