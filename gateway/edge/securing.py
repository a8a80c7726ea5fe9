"""TLS toward a backend: from a connection that stands to one that carries requests, or to a reason why not."""

from __future__ import annotations

import logging
from errno import EAGAIN, EINTR
from select import EPOLLOUT
from typing import TYPE_CHECKING, Protocol

from gateway.edge.tls.handshake import MOST_BYTES
from gateway.edge.tls.reasons import CLOSED, OK, PROTOCOL_ERROR, TIMEOUT, TOO_LARGE, HandshakeFailed
from gateway.edge.wire.tls import TlsStream
from gateway.observe.seldom import Seldom
from gateway.observe.tls import BACKEND, NO_VERSION
from gateway.tunnels.table.layout import READING

if TYPE_CHECKING:
    from gateway.config.address import Address
    from gateway.edge.tls.backends import BackendTls
    from gateway.edge.tls.handshake import Handshake
    from gateway.edge.tls.turns import Turns
    from gateway.edge.wire.tls import TlsWire
    from gateway.observe.tls import TlsHandshakes
    from gateway.tunnels.relay.poller import Poller

RECEIVE_BYTES = 64 * 1024
NOT_NOW = (EAGAIN, EINTR)
NONE = -1
log = logging.getLogger("gateway")


class Owner(Protocol):
    """The dial that a handshake belongs to. It has the descriptor, and closes it."""

    def greet(self, hello: bytes) -> None:
        """Connect. :param hello: what goes first on the connection; then :meth:`Securing.begin` follows"""

    def secured(self) -> None:
        """The wire carries the connection from now on."""

    def not_secured(self, failure: HandshakeFailed) -> None:
        """The handshake failed, or was not completed in time."""

    def abandon(self) -> None:
        """Something failed: close everything."""


class Secures:
    """Everything outside of itself that a handshake with a backend uses."""

    def __init__(self, poller: Poller, wire: TlsWire, turns: Turns, reports: TlsHandshakes) -> None:
        self.poller = poller
        self.wire = wire
        self.turns = turns
        self.reports = reports
        self._seldom: dict[tuple[str, str], Seldom] = {}

    def log_failure(self, backend: str, failure: HandshakeFailed) -> None:
        """Log why TLS with a backend cannot be established; not each time, where it happens with each request."""
        say = self._seldom.get((backend, failure.reason))
        if say is None:
            say = self._seldom[backend, failure.reason] = Seldom(log.warning)
        say("backend %s: TLS cannot be established: %s", backend, failure)


class Securing:
    """A handshake with a backend."""

    __slots__ = (
        "_address",
        "_fd",
        "_handshake",
        "_is_due",
        "_over",
        "_owner",
        "_shared",
        "_started_ns",
        "_tls",
        "_unsent",
    )

    def __init__(self, shared: Secures, owner: Owner, tls: BackendTls, address: Address) -> None:
        """:param address: of the backend, as it is configured"""
        self._shared = shared
        self._owner = owner
        self._tls = tls
        self._address = address
        self._handshake: Handshake | None = None
        self._fd = NONE
        self._unsent = b""
        self._is_due = False
        self._over = False
        self._started_ns = 0

    def start(self) -> None:
        """Have :meth:`Owner.greet` called when it is this handshake's turn."""
        self._wait_for_turn()

    def begin(self, fd: int, unsent: bytes, known: bool) -> None:
        """The connection stands.

        :param unsent: what the socket did not take of the hello
        :param known: whether epoll watches it already
        """
        self._fd = fd
        self._started_ns = self._shared.poller.relay.now
        self._shared.poller.read(fd, self._read, known)
        if unsent:
            self._send(unsent)

    @property
    def has_begun(self) -> bool:
        """Whether the connection stands."""
        return self._fd != NONE

    def cancel(self) -> None:
        """Nobody wants the connection any more."""
        self._over = True

    def late(self) -> None:
        """The time is up."""
        self._fail(HandshakeFailed(TIMEOUT, "it was not completed in time"))

    def abandon(self) -> None:
        """Something in here failed."""
        self._over = True
        self._owner.abandon()

    # --- what the poller calls ----------------------------------------------------------------------------------------

    def _read(self, data: bytes | int) -> None:
        """Take what has come, or an errno."""
        if self._over:
            return
        if isinstance(data, int):
            if data not in NOT_NOW:
                self._fail(HandshakeFailed(CLOSED, "the backend closed the connection in the middle of the handshake"))
            return
        if not data:
            self._fail(HandshakeFailed(CLOSED, "the backend closed the connection in the middle of the handshake"))
            return
        handshake = self._handshake
        assert handshake is not None
        handshake.receive(data)
        if handshake.waiting_bytes > MOST_BYTES:  # it is not read any more, so that it cannot fill the memory
            self._fail(HandshakeFailed(TOO_LARGE, f"{handshake.waiting_bytes} bytes at once"))
        elif handshake.has_record:
            self._wait_for_turn()

    def _ready(self, mask: int) -> None:
        """The socket takes more, or something has come."""
        poller = self._shared.poller
        if mask & EPOLLOUT:
            self._send(b"")
        if mask & ~EPOLLOUT and not self._over:
            data = poller.kernel.receive(self._fd, RECEIVE_BYTES)
            poller.ask_again(self._fd, READING | EPOLLOUT if self._unsent else READING)
            self._read(data)

    # --- steps --------------------------------------------------------------------------------------------------------

    def _wait_for_turn(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._shared.turns.add(self)

    def turn(self) -> None:
        """Make one step: this is what costs CPU."""
        self._is_due = False
        if self._over:
            return
        handshake = self._handshake
        try:
            if handshake is None:
                handshake = self._handshake = self._tls.handshake(self._address)
                handshake.start()
                self._owner.greet(handshake.take_output())
                return
            handshake.step()
        except HandshakeFailed as failure:
            self._fail(failure)
            return
        output = handshake.take_output()
        if handshake.established is not None:
            self._complete(handshake, output)
            return
        if output:
            self._send(output)
        if handshake.has_record and not self._over:
            self._wait_for_turn()

    def _send(self, data: bytes) -> None:
        waited = bool(self._unsent)
        data = self._unsent + data
        sent = self._shared.poller.kernel.write(self._fd, data)
        if sent < 0 and -sent not in NOT_NOW:
            sent = len(data)  # its end is reported to the reader, behind the alert that says why
        self._unsent = data[max(sent, 0) :]
        if waited != bool(self._unsent):
            poller = self._shared.poller
            if self._unsent:
                received = poller.rewatch(self._fd, READING | EPOLLOUT, self._ready)
                if received is not None:
                    self._read(received)
            else:
                poller.read(self._fd, self._read, known=True)

    def _complete(self, handshake: Handshake, output: bytes) -> None:
        """:param output: the last of what this end says; it goes with the first data"""
        established = handshake.established
        assert established is not None
        shared = self._shared
        self._over = True
        wire = shared.wire
        wire.attach(self._fd, TlsStream(established.cells, handshake.rest(), self._unsent + output))
        unasked = wire.early(self._fd)
        if unasked not in NOT_NOW:
            self._over = False
            self._fail(HandshakeFailed(PROTOCOL_ERROR, "the backend said something before it was asked"))
            return
        shared.reports.ended(BACKEND, OK, established.version, self._started_ns)
        self._owner.secured()

    def _fail(self, failure: HandshakeFailed) -> None:
        self._over = True
        shared = self._shared
        shared.reports.ended(BACKEND, failure.reason, NO_VERSION, self._started_ns or shared.poller.relay.now)
        if self._fd != NONE and self._handshake is not None:
            alert = self._unsent + self._handshake.take_output()
            if alert:
                shared.poller.kernel.write(self._fd, alert)
            shared.wire.close(self._fd)
        self._owner.not_secured(failure)
