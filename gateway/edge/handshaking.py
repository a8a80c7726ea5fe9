"""TLS toward a client: from an accepted connection to one that carries requests, or to a reason why not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from select import EPOLLET, EPOLLOUT, EPOLLRDHUP
from typing import TYPE_CHECKING

from gateway.edge.admissions import admission_of
from gateway.edge.client import Client
from gateway.edge.entering import NOT_NOW, Entering
from gateway.edge.refused import Refused
from gateway.edge.tls.handshake import Handshake
from gateway.edge.tls.names import ServerNames
from gateway.edge.tls.reasons import CLOSED, OK, PLAIN_HTTP, TIMEOUT, HandshakeFailed
from gateway.edge.tls.secrets import KeyLog
from gateway.edge.tls.turns import Turns
from gateway.edge.wire.tls import TlsStream, TlsWire
from gateway.observe.tls import CLIENT
from gateway.tunnels.table.layout import READING

if TYPE_CHECKING:
    from gateway.config.address import Address
    from gateway.config.settings import ListenerTls
    from gateway.edge.clients import Clients
    from gateway.edge.trust import Peer
    from gateway.observe.tls import TlsHandshakes

MOST_WAITING_BYTES = 64 * 1024
"""Of what was received and is not looked at yet; beyond it the client is not read. It may send its request along."""


class Handshakings:
    """Everything outside of itself that a handshake with a client uses."""

    def __init__(self, clients: Clients, wire: TlsWire, turns: Turns, key_log: KeyLog, reports: TlsHandshakes) -> None:
        self.clients = clients
        self.wire = wire
        self.turns = turns
        self.key_log = key_log
        self.reports = reports
        self._names: dict[ListenerTls, ServerNames] = {}
        self._entrances: dict[Address, tuple[ServerNames, str]] = {}
        """by address of a listener: its certificates, and what stands for those that it asks clients for"""

    def prepare(self, settings: Iterable[ListenerTls]) -> dict[ListenerTls, ServerNames]:
        """Make what the listeners of a configuration need, for :meth:`use`. Nothing changes yet.

        :raises OSError: OpenSSL does not take a certificate, or descriptors are short
        """
        return {each: self._names.get(each) or ServerNames(each, self.key_log) for each in settings}

    def use(self, prepared: dict[ListenerTls, ServerNames]) -> None:
        """Put a configuration in force for handshakes from now on."""
        self._names = prepared
        for address, (names, admission) in list(self._entrances.items()):
            if admission and names not in prepared.values():
                # A connection may wait for its PROXY header, or in the queue: by this CA it does not come in any more.
                del self._entrances[address]

    def entrance(self, address: Address, settings: ListenerTls) -> Callable[[int, Peer, bytes | int], None]:
        """How a listener with TLS serves what it accepts, by descriptor (non-blocking and not watched), peer, and what
        has come already or an errno. :param settings: in force"""
        self._entrances[address] = (self._names[settings], admission_of(settings))
        return partial(self._begin, address)

    def _begin(self, address: Address, fd: int, peer: Peer, received: bytes | int) -> None:
        entrance = self._entrances.get(address)
        if entrance is None:
            self.clients.relay.retire(fd)
            return
        names, peer.admission = entrance
        handshake = Handshake(self.key_log, choose=names.choose)
        self.clients.poller.give(fd, Handshaking(self, fd, peer, handshake).start, received)


class Handshaking(Entering):
    """A client's connection whose TLS handshake is under way."""

    __slots__ = ("_handshake", "_is_due", "_is_full", "_shared", "_tickets", "_unsent")

    def __init__(self, shared: Handshakings, fd: int, peer: Peer, handshake: Handshake) -> None:
        """:param fd: a connection, non-blocking and not watched; this owns it until it is a :class:`Client`'s"""
        super().__init__(shared.clients, fd, peer)
        self._shared = shared
        self._handshake = handshake
        self._unsent = b""
        self._tickets = b""
        self._is_due = False
        self._is_full = False

    # --- what the poller calls ----------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        handshake = self._handshake
        handshake.receive(data)
        if handshake.has_record:
            self._wait_for_turn()
            if handshake.waiting_bytes > MOST_WAITING_BYTES and not self._is_full and self._watched:
                self._is_full = True
                self._watch()

    def _ready(self, mask: int) -> None:
        """The socket takes more, or the client went away."""
        if mask & EPOLLOUT:
            self._send(b"")
        if mask & ~EPOLLOUT and not self._over:
            if self._is_full:
                self._gone(0)
                return
            poller = self._clients.poller
            data = poller.kernel.receive(self._fd, MOST_WAITING_BYTES)
            poller.ask_again(self._fd, READING | EPOLLOUT)
            self._read(data)

    def _watch(self) -> None:
        """Have epoll watch for what can be done now."""
        poller = self._clients.poller
        if self._unsent or self._is_full:
            events = (EPOLLRDHUP | EPOLLET if self._is_full else READING) | (EPOLLOUT if self._unsent else 0)
            received = poller.rewatch(self._fd, events, self._ready)
            if received is not None:
                self._read(received)
        else:
            poller.read(self._fd, self._read, known=True)

    # --- steps --------------------------------------------------------------------------------------------------------

    def _wait_for_turn(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._shared.turns.add(self)

    def turn(self) -> None:
        """Make one step: this is what costs CPU."""
        self._is_due = False
        handshake = self._handshake
        if self._over or handshake.established is not None:
            return
        try:
            handshake.step()
        except HandshakeFailed as failure:
            self._failed(failure)
            return
        output = handshake.take_output()
        established = handshake.established
        if established is not None and established.version == "1.3":
            self._tickets = output  # they go with the first answer
        elif output:
            self._send(output)
        if self._over:
            return
        if handshake.established is not None:
            self._shared.turns.after(self._finish)
        elif handshake.has_record:
            self._wait_for_turn()
        elif self._is_full:
            self._is_full = False
            self._watch()

    def _send(self, data: bytes) -> None:
        waited = bool(self._unsent)
        data = self._unsent + data
        sent = self._clients.kernel.write(self._fd, data)
        if sent < 0 and -sent not in NOT_NOW:
            self._gone(-sent)
            return
        self._unsent = data[max(sent, 0) :]
        if waited != bool(self._unsent) and self._watched:
            self._watch()
        if waited and not self._unsent and self._handshake.established is not None:
            self._finish()

    def _finish(self) -> None:
        """It is complete: once all is sent, the connection carries requests."""
        established = self._handshake.established
        if self._unsent or established is None or self._over:
            return
        shared = self._shared
        clients = shared.clients
        shared.reports.ended(CLIENT, OK, established.version, self._started_ns)
        fd, peer = self._fd, self._peer
        peer.is_tls = True
        peer.certificate_fields = established.client_fields
        self._hand_over()
        shared.wire.attach(fd, TlsStream(established.cells, self._handshake.rest(), self._tickets))
        client = Client(clients, fd, peer, shared.wire, watched=True)
        client.deadline_ns = self.deadline_ns
        clients.poller.call(client.begin)

    def _hand_over(self) -> None:
        """Forget the connection, which stays open. Epoll goes on watching it, for its next owner."""
        self._over = True
        self._clients.deadlines.discard(self)
        poller = self._clients.poller
        if self._is_full:
            poller.ask_again(self._fd)
        received = poller.let_go(self._fd)
        if received and isinstance(received, bytes):
            self._handshake.receive(received)
        elif received is not None:
            poller.recall(self._fd)  # its end, which epoll does not report again

    # --- the end ------------------------------------------------------------------------------------------------------

    def _failed(self, failure: HandshakeFailed) -> None:
        shared = self._shared
        reports = shared.reports
        reports.refused(str(self._peer), self._handshake.server_name, failure.reason, str(failure), self._started_ns)
        alert = self._unsent + self._handshake.take_output()
        self._let_go()
        client = Client(shared.clients, self._fd, self._peer)
        if failure.reason == PLAIN_HTTP:
            why = "plain HTTP was sent to an address that speaks TLS: use https:// or wss://"
            client.answer(Refused(400, why, "bad_request"), keep=False)
        else:
            client.dismiss(alert)

    def _gone(self, error: int) -> None:
        self._end(CLOSED if self._touched else "", "the client went away")

    @property
    def fd(self) -> int:
        """The connection."""
        return self._fd

    @property
    def peer(self) -> Peer:
        """The client."""
        return self._peer

    def late(self) -> None:
        """The deadline has passed."""
        self._end(TIMEOUT, "the client did not complete the handshake in time")

    def outdated(self) -> None:
        """The listener asks for other certificates now: see :meth:`Client.outdated`."""
        self._end(CLOSED, "the listener asks clients for other certificates since a moment ago")

    def _end(self, result: str, reason: str) -> None:
        if result:
            name = self._handshake.server_name
            self._shared.reports.refused(str(self._peer), name, result, reason, self._started_ns)
        self._close()
