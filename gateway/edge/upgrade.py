"""One upgrade, from a request that asks for it to a tunnel: dial, forward the handshake, check the answer, splice."""

from __future__ import annotations

import os
import select
from collections.abc import Collection
from errno import EAGAIN, EINTR
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from gateway.edge.accepted import Accepted
from gateway.edge.access.expiries import Expiries
from gateway.edge.dialling import Dial
from gateway.edge.exchange.exchange import Exchange
from gateway.edge.exchange.sides import Downstream
from gateway.edge.forwarding import interim_to_client, switch_to_client
from gateway.edge.proxied import header_for
from gateway.edge.refused import Refused
from gateway.edge.splicing import Rows, give_up_unacknowledged
from gateway.edge.stickiness import key_of, with_cookie
from gateway.edge.to_backend import upgrade_to_backend
from gateway.observe.backends import DIAL, TUNNEL
from gateway.observe.events import CLIENT_GONE
from gateway.protocol.answers import ResponseReader
from gateway.protocol.heads import BadResponse
from gateway.protocol.websocket import accept_of, refusal_of_101
from gateway.routing.attempts import Attempts
from gateway.tunnels.table.layout import BACKEND_SIDE, CLIENT, LIVE, NEVER, STATE

if TYPE_CHECKING:
    from gateway.edge.addresses import Addresses
    from gateway.edge.dialling import Dialler
    from gateway.edge.exchange.shared import Exchanges
    from gateway.edge.in_force import InForce
    from gateway.edge.limiting import Limiting
    from gateway.edge.owner import Owner
    from gateway.edge.request import Request
    from gateway.edge.ways import Way
    from gateway.edge.wire import Wire
    from gateway.observe.handshakes import Handshakes
    from gateway.routing.attempts import Attempt
    from gateway.tunnels.relay.poller import Poller, Received
    from gateway.tunnels.table.slice import Slice

NOT_NOW = (EAGAIN, EINTR)
NONE = -1


class Upgrading(Downstream, Protocol):
    """The client's connection, as its upgrade sees it (``edge/client.py``)."""

    task: Any

    def handed_over(self) -> None:
        """The connection is a tunnel's now."""


class Upgrades:
    """Everything outside of itself that an upgrade uses."""

    def __init__(
        self,
        poller: Poller,
        wire: Wire,
        config: InForce,
        limiting: Limiting,
        dialler: Dialler,
        addresses: Addresses,
        slice_: Slice,
        owner: Owner,
        handshakes: Handshakes,
        exchanges: Exchanges,
    ) -> None:
        """:param exchanges: relay the answer of a backend that declines"""
        self.poller = poller
        self.kernel = poller.kernel
        self.relay = poller.relay
        self.wire = wire
        self.config = config
        self.limiting = limiting
        self.dialler = dialler
        self.backends = dialler.backends
        self.addresses = addresses
        self.slice = slice_
        self.owner = owner
        self.rows = Rows(slice_, owner.intervals)
        self.handshakes = handshakes
        self.exchanges = exchanges
        self.accepted = Accepted()
        self.expiries = Expiries()


class Upgrade:
    """An upgrade on its way."""

    __slots__ = (
        "_attempt",
        "_backend_fd",
        "_client",
        "_dial",
        "_hash_key",
        "_over",
        "_reader",
        "_request",
        "_row",
        "_shared",
        "_unsent",
        "_way",
    )

    def __init__(self, shared: Upgrades, client: Upgrading, request: Request) -> None:
        """:param client: read by the poller; what it sends ahead is kept there"""
        self._shared = shared
        self._client = client
        self._request = request
        self._attempt: Attempt | None = None
        self._dial: Dial | None = None
        self._backend_fd = NONE
        self._way: Way | None = None
        """that the backend was dialled with"""
        self._reader: ResponseReader | None = None
        self._unsent = b""
        self._hash_key = 0
        self._row = -1
        self._over = False

    def start(self) -> None:
        """Dial."""
        shared = self._shared
        request = self._request
        upstream = request.upstream
        key = key_of(request, shared.config.trust)
        if upstream.hashes:
            self._hash_key = upstream.hash_key(key)
        attempts = Attempts(upstream, shared.addresses.of, key)
        head = upgrade_to_backend(request, shared.config)
        preamble = header_for(upstream, request.peer, self._client.fd)
        dial = self._dial = Dial(shared.dialler, self, attempts, head, request.route.limits.connect_ns, preamble)
        dial.start()

    def late(self) -> None:
        """The deadline has passed."""
        if self._dial is not None:
            self._dial.late()
        else:
            self._count_failure()
            self._refuse(Refused(504, "the backend did not answer the handshake in time", "timeout"))

    def divert(self, backends: Collection[int], _: int = 0) -> None:
        """As of :meth:`Dial.divert`. A backend that has the handshake already may answer it."""
        if self._dial is not None:
            self._dial.divert(backends)

    def shut_down(self) -> None:
        """The gateway exits."""
        self._refuse(Refused(503, "this gateway is shutting down", "unavailable"))

    def client_gone(self, error: int) -> None:
        """The client went away."""
        self._report(CLIENT_GONE, None, "the client went away before the answer")
        self._let_go()
        self._client.gone()

    def abandon(self) -> None:
        """Something in here failed: close both connections."""
        if self._over:
            self._client.abandon()  # the answer that is relayed failed
        else:
            self._let_go()
            self._client.gone()

    # --- the backend --------------------------------------------------------------------------------------------------

    def chosen(self, attempt: Attempt) -> bool:
        """A backend was chosen: it counts as the tunnel's from now on."""
        shared = self._shared
        self._attempt = attempt
        if self._row >= 0:
            shared.slice.use_backend(self._row, attempt[0].number)
            return True
        row = shared.slice.allocate(self._request.route.number, attempt[0].number)
        if row is None:
            self._dial = None
            self._refuse(Refused(503, "this gateway is full (max_tunnels)", "unavailable"))
            return False
        self._row = row
        if self._request.route.number in shared.limiting.most_tunnels:
            try:
                shared.limiting.take_tunnel(self._request, row)
            except Refused as refused:
                self._dial = self._attempt = None
                self._refuse(refused)
                return False
        return True

    def dialling(self, deadline_ns: int) -> None:
        """A backend is being dialled."""
        self._client.deadline_ns = deadline_ns

    def not_dialled(self, refused: Refused) -> None:
        """No backend can be reached."""
        self._dial = None
        self._refuse(refused)

    def dialled(self, fd: int, way: Way, attempt: Attempt, unsent: bytes, known: bool) -> None:
        """The connection stands: from now on the backend has to answer."""
        shared = self._shared
        self._dial = None
        self._backend_fd = fd
        self._way = way
        self._client.deadline_ns = shared.relay.now + self._request.route.limits.handshake_ns
        shared.backends.used(attempt[0], TUNNEL, DIAL)
        if not unsent:
            shared.poller.read(fd, self._answer, known)
            return
        self._unsent = unsent
        if known:
            shared.poller.rewatch(fd, select.EPOLLOUT, self._sending)
            self._sending(select.EPOLLOUT)
        else:
            shared.poller.watch(fd, select.EPOLLOUT, self._sending)

    def _sending(self, mask: int) -> None:
        """Send the backend what is left of the request's head."""
        shared = self._shared
        assert self._way is not None
        sent = self._way.wire.write(self._backend_fd, self._unsent)
        if sent < 0:
            if -sent not in NOT_NOW:
                self._closed_by_backend(-sent)
            return
        self._unsent = self._unsent[sent:]
        if not self._unsent:
            shared.poller.read(self._backend_fd, self._answer, known=True)

    def _closed_by_backend(self, error: int) -> None:
        """:param error: an errno; 0 for the end of the stream"""
        why = f": {os.strerror(error)}" if error else " without an answer"
        text = f"the backend closed the connection{why}"
        if self._way is not None and (alert := self._way.wire.alert(self._backend_fd)):
            text = f"the backend ended TLS: {alert}"
            assert self._attempt is not None
            # With TLS 1.3 that is how it refuses a client's certificate, or wants one.
            self._shared.backends.connect_failed(self._attempt[0], "refused_by_backend")
        else:
            self._count_failure()
        self._refuse(Refused(502, text, "connect_error"))

    def _count_failure(self) -> None:
        """The backend has failed the handshake, which may eject it. Answers of 5xx are counted by the exchange."""
        if self._attempt is not None:
            self._shared.backends.failed(self._attempt[0])

    # --- the answer ---------------------------------------------------------------------------------------------------

    def _answer(self, data: bytes | int) -> None:
        """Read the backend's answer. :param data: what has come, or an errno"""
        if isinstance(data, int):
            if data not in NOT_NOW:
                self._closed_by_backend(data)
            return
        if not data:
            self._closed_by_backend(0)
            return
        shared = self._shared
        request = self._request
        reader = self._reader
        accept = accept_of(request.key) if reader is None and request.key is not None else b""
        if accept:
            subprotocol = shared.accepted.subprotocol(data, accept)
            if (
                subprotocol is not None
                and (subprotocol or request.granted is None or not self._marker())
                and request.route.answer_changes is None
            ):
                self._open(data, subprotocol, b"")
                return
        try:
            if reader is None:
                reader = self._reader = ResponseReader(shared.config.max_answer_head, shared.config.max_answer_fields)
            head = reader.feed(data)
            while head is not None and head.status < 200 and head.status != 101:
                if not self._pass_interim(interim_to_client(head)):
                    return
                head = reader.feed(b"")
        except BadResponse as error:
            self._count_failure()
            self._refuse(Refused(502, f"the backend's answer is {error}", "refused_by_backend"))
            return
        if head is None:
            return
        if head.status != 101:
            self._relay_answer(reader)
            return
        assert request.upgrade is not None
        refusal = refusal_of_101(head, request.upgrade, request.key)
        if refusal is not None:
            self._count_failure()
            self._refuse(Refused(502, f"the backend's 101 is not valid: {refusal}", "refused_by_backend"))
            return
        answer = switch_to_client(head, request.route.answer_changes)
        subprotocol = head.first.get(b"sec-websocket-protocol", b"")
        if not subprotocol and (marker := self._marker()):
            answer = b"%bSec-WebSocket-Protocol: %b\r\n\r\n" % (answer[:-2], marker)
        if accept and answer == data:
            shared.accepted.remember(answer, accept, subprotocol)
        self._open(answer, subprotocol, reader.received)

    def _marker(self) -> bytes:
        """The subprotocol that the client is answered if the backend selects none."""
        granted = self._request.granted
        return b"" if granted is None else granted.marker

    def _pass_interim(self, data: bytes) -> bool:
        """Send the client an interim answer; False if it is gone."""
        if self._client.wire.write(self._client.fd, data) == len(data):
            return True
        self.client_gone(0)  # a client that does not even take a few hundred bytes
        return False

    def _relay_answer(self, reader: ResponseReader) -> None:
        """The backend declined: relay its answer whole, then close. :param reader: has read the answer's head

        What the client sent ahead is of a protocol that was not agreed on: no request is looked for in it.
        """
        assert self._attempt is not None
        assert self._way is not None
        self._report("refused_by_backend", reader.head.status, None)
        fd, self._backend_fd = self._backend_fd, NONE
        data = reader.head.raw + reader.received
        self._let_go()
        exchange = Exchange(self._shared.exchanges, self._client, self._request)
        self._client.task = exchange
        exchange.take_declined(fd, self._way, self._attempt, data)

    # --- the end of it ------------------------------------------------------------------------------------------------

    def _open(self, answer: bytes, subprotocol: bytes, early: bytes) -> None:
        """The backend has accepted: splice. From here on the relay has both sockets.

        :param answer: the backend's, as the client is sent it but for a cookie
        :param early: what the backend sent behind its answer
        """
        shared = self._shared
        request = self._request
        assert self._attempt is not None
        answer = with_cookie(answer, request, self._attempt[0])
        client = self._client
        client_fd, backend_fd, row = client.fd, self._backend_fd, self._row
        assert self._way is not None
        plain, client_wire, backend_wire = shared.wire, client.wire, self._way.wire
        if client_wire is not plain and client_wire.has_ended(client_fd):
            self.client_gone(0)
            return
        give_up_unacknowledged(shared.kernel, request.route.limits.write_stall_ns, client_fd, backend_fd)
        now_ns = shared.relay.now
        granted = request.granted
        expires_ns, code = (NEVER, 0) if granted is None else shared.expiries.end_of(granted.expiry, now_ns)
        shared.rows.fill(
            row,
            request,
            subprotocol,
            now_ns,
            expires_ns=expires_ns,
            expiry_code=code,
            hash_key=self._hash_key,
        )
        if client.is_full:
            client.is_full = False
            client.watch()
        from_client = client.ahead + self._take(client_fd)
        from_backend = early + self._take(backend_fd)
        if client_wire is plain and backend_wire is plain:
            backend_ended = False
            shared.relay.open(row, client_fd, backend_fd)
        else:
            backend_ended = backend_wire.has_ended(backend_fd)
            client_pending, client_half = self._hand_over(CLIENT, client_wire, client_fd)
            backend_pending, backend_half = self._hand_over(BACKEND_SIDE, backend_wire, backend_fd)
            shared.relay.open(row, client_fd, backend_fd, client_pending, backend_pending, client_half, backend_half)
        if shared.limiting.most_tunnels:
            shared.limiting.opened(row)
        self._over = True
        client.handed_over()
        opened = partial(self._opened, from_client, from_backend, backend_ended)
        shared.poller.defer(partial(self._say, answer), opened)
        self._report("upgraded", 101, None)

    def _hand_over(self, side: int, wire: Wire, fd: int) -> tuple[bytes, bytes]:
        """Move the TLS session of a connection into the row.

        :returns: what its socket did not take yet of sealed bytes, and half a record that was received
        """
        session = wire.detach(fd)
        if session is None:
            return b"", b""
        self._shared.slice.begin_session(self._row, side, session.cells)
        pending, half = session.unsent, session.half
        session.wipe()
        return pending, half

    def _take(self, fd: int) -> bytes:
        """Take a connection from its reader. :returns: what has come in this turn, and was not read yet"""
        received: Received = self._shared.poller.let_go(fd)
        if received is None:
            return b""
        if isinstance(received, bytes) and received:
            return received
        self._shared.poller.ask_again(fd)  # its end, which the relay has to see, too
        return b""

    def _say(self, answer: bytes) -> int:
        """Send the client the answer."""
        relay = self._shared.relay
        try:
            relay.write(self._row, CLIENT, answer)
        except Exception as error:  # nothing may follow what was not sent
            relay.fail(self._row, "opening", error)
        return 0

    def _opened(self, from_client: bytes, from_backend: bytes, backend_ended: bool, result: int) -> None:
        """The client has the answer: what both have sent ahead of that goes on its way.

        :param backend_ended: whether the backend has ended its records; only a socket's end is still to be read
        """
        shared = self._shared
        row = self._row
        try:
            for side, data in ((BACKEND_SIDE, from_backend), (CLIENT, from_client)):
                if data and shared.slice.cells[row + STATE] == LIVE:
                    shared.relay.feed(row, side, data)
            if backend_ended:
                shared.relay.end_records(row, BACKEND_SIDE)
            shared.owner.tunnel_opened(row)
        except Exception as error:
            shared.relay.fail(row, "opening", error)

    def _refuse(self, refused: Refused) -> None:
        refused.route = self._request.route
        self._let_go()
        self._report(refused.result, refused.status, refused.reason)
        self._client.answer(refused, keep=False)

    def _let_go(self) -> None:
        """Give back everything but the client's connection."""
        self._over = True
        shared = self._shared
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        if self._backend_fd != NONE:
            shared.poller.unwatch(self._backend_fd)
            if self._way is not None:
                self._way.wire.close(self._backend_fd)
            shared.relay.retire(self._backend_fd)
            self._backend_fd = NONE
        if self._row >= 0:
            shared.slice.release(self._row)
            self._row = -1
            shared.owner.note_if_drained()

    def _report(self, result: str, status: int | None, reason: str | None) -> None:
        request = self._request
        self._shared.handshakes.ended(
            request.logged(),
            result,
            status,
            reason,
            self._attempt[0].label if self._attempt is not None else None,
        )
