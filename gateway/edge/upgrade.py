"""One upgrade, from a request that asks for it to a tunnel: dial, forward the handshake, check the answer, splice.

Its state is the callback that the poller calls next for the backend's socket: ``_connected``, ``_sending`` or
``_answer``.
"""

from __future__ import annotations

import os
import select
import socket
from errno import EAGAIN, EINTR
from functools import partial
from typing import TYPE_CHECKING

from gateway.edge.addresses import SocketAddress
from gateway.edge.declined import relay_answer
from gateway.edge.forwarding import answer_to_client, upgrade_to_backend
from gateway.edge.request import Refused, Request
from gateway.edge.splicing import fill_row, give_up_unacknowledged
from gateway.observe.events import CLIENT_GONE
from gateway.protocol.http import BadResponse, ResponseReader
from gateway.protocol.websocket import accept_of, refusal_of_101
from gateway.routing.balancing import Target
from gateway.tunnels.table.layout import BACKEND_SIDE, CLIENT, LIVE, NEVER, STATE

if TYPE_CHECKING:
    from gateway.edge.edge import Edge

MAX_EARLY_BYTES = 64 * 1024
"""What a client may send ahead of the answer; beyond it, it is not read until the tunnel is open."""

MOST_ADDRESSES = 3
"""Addresses that a backend's name may have to be tried."""

WATCH_END = select.EPOLLRDHUP
NOT_NOW = (EAGAIN, EINTR)
NONE = -1


class Upgrade:
    """An upgrade on its way."""

    __slots__ = (
        "_addresses",
        "_backend_fd",
        "_client_fd",
        "_connecting",
        "_dialling",
        "_early",
        "_edge",
        "_failure",
        "_head",
        "_reader",
        "_request",
        "_row",
        "_target",
        "_tried",
        "deadline_ns",
    )

    def __init__(self, edge: Edge, client_fd: int, request: Request, early: bytes, watched: bool) -> None:
        """
        :param client_fd: the client's connection; the upgrade owns it from now on
        :param early: what the client has sent behind its request
        :param watched: whether the poller reads from ``client_fd`` already
        """
        self._edge = edge
        self._client_fd = client_fd
        self._request = request
        self._early = early
        self._tried: list[Target] = []
        self._addresses: list[SocketAddress] = []
        self._backend_fd = NONE
        self._target: Target | None = None
        self._failure: Refused | None = None
        self._reader: ResponseReader | None = None
        self._head = b""
        self._row = -1
        self.deadline_ns = NEVER
        self._connecting = True
        self._dialling = False  # whether a connection to the backend is about to be begun
        edge.waiting.add(self)
        if watched:
            edge.poller.read_on(client_fd, self._client_sent)
        else:
            edge.poller.read(client_fd, self._client_sent)
        self._dial()

    def late(self) -> None:
        """The deadline has come."""
        if self._connecting:
            self._connect_late()
        else:
            self._refuse(Refused(504, "the backend did not answer the handshake in time", "timeout"))

    # --- the client, while it waits --------------------------------------------------------------------------------

    def _client_sent(self, data: bytes | int) -> None:
        """The client sent something ahead of the answer, or went away."""
        if isinstance(data, bytes) and data:
            self._early += data
            if len(self._early) >= MAX_EARLY_BYTES:
                self._edge.poller.rewatch(self._client_fd, WATCH_END, self._client_ended)
        elif data not in NOT_NOW:
            self._client_gone()

    def _client_ended(self, mask: int) -> None:
        """The client went away while nothing more of it was read."""
        self._client_gone()

    def _client_gone(self) -> None:
        self._tell(CLIENT_GONE, None, "the client went away before the answer")
        self._let_go()
        self._edge.poller.unwatch(self._client_fd)
        self._edge.drop(self._client_fd)

    # --- connecting ------------------------------------------------------------------------------------------------

    def _dial(self) -> None:
        """Connect to the next address that may do."""
        while True:
            if not self._addresses and not self._next_target():
                self._refuse(self._failure or Refused(503, "no backend", "unavailable"))
                return
            edge = self._edge
            family, address = self._addresses.pop(0)
            try:
                fd = edge.descriptors.backend_socket(edge.kernel, family)
            except Refused as refused:
                self._refuse(refused)
                return
            self._backend_fd = fd
            self._head = head = upgrade_to_backend(self._request)
            self._dialling = True
            edge.poller.put_off(partial(edge.kernel.connect, fd, family, address, head), self._dialled)
            return

    def _dialled(self, sent: int) -> None:
        """A connection was begun. :param sent: how much of the head it took, or a negative errno"""
        edge = self._edge
        fd = self._backend_fd
        self._dialling = False
        if fd == NONE:
            return  # the client has gone meanwhile
        if sent == len(self._head):
            edge.poller.read(fd, self._answer)
            self._answer_due()
        elif sent >= 0:
            self._head = self._head[sent:]
            self.deadline_ns = edge.relay.now + self._request.route.limits.connect_ns
            self._connecting = True
            edge.poller.watch(fd, select.EPOLLOUT, self._connected)
        else:
            edge.kernel.close(fd)
            self._connect_failed(-sent)
            self._dial()

    def _next_target(self) -> bool:
        """Choose a backend that was not tried; False when there is none, or enough were tried."""
        upstream = self._request.route.upstream
        if len(self._tried) > upstream.connect_retries:
            return False
        target = upstream.balancer.pick(self._tried)
        if target is None:
            return False
        slice_ = self._edge.slice
        if self._row < 0:
            row = slice_.allocate(self._request.route.number, target.number)
            if row is None:
                self._failure = Refused(503, "this gateway is full (max_tunnels)", "unavailable", self._request.route)
                return False
            self._row = row
        else:
            slice_.use_backend(self._row, target.number)
        self._tried.append(target)
        self._target = target
        self._addresses = self._edge.addresses.of(target.address)[:MOST_ADDRESSES]
        if not self._addresses:
            self._failed("unresolved", Refused(502, "the backend's name does not resolve", "connect_error"))
            return self._next_target()
        return True

    def _connect_failed(self, error: int) -> None:
        self._backend_fd = NONE
        self._failed(
            os.strerror(error).lower().replace(" ", "_"),
            Refused(502, f"the backend cannot be reached: {os.strerror(error)}", "connect_error"),
        )

    def _connect_late(self) -> None:
        """The backend did not accept the connection in time."""
        self._drop_backend()
        self._failed("timeout", Refused(504, "the backend did not accept the connection in time", "timeout"))
        self._dial()

    def _failed(self, reason: str, failure: Refused) -> None:
        """Note that a backend cannot be reached; the last failure is what the client is told."""
        assert self._target is not None
        failure.route = self._request.route
        self._failure = failure
        self._edge.connect_failed(self._target, reason)

    def _connected(self, mask: int) -> None:
        """The connection was made, or failed."""
        error = self._edge.kernel.error_of(self._backend_fd)
        if error:
            self._drop_backend()
            self._connect_failed(error)
            self._dial()
            return
        self._answer_due()
        self._sending(mask)

    def _answer_due(self) -> None:
        """The connection stands: from now on the backend has to answer."""
        assert self._target is not None
        self._edge.connect_succeeded(self._target)
        self.deadline_ns = self._edge.relay.now + self._request.route.limits.handshake_ns
        self._connecting = False

    # --- the handshake ---------------------------------------------------------------------------------------------

    def _sending(self, mask: int) -> None:
        """Send the backend the request's head."""
        sent = self._edge.kernel.write(self._backend_fd, self._head)
        if sent < 0:
            if -sent not in NOT_NOW:
                self._closed_by_backend(os.strerror(-sent))
                return
            sent = 0
        self._head = self._head[sent:]
        if self._head:
            self._edge.poller.rewatch(self._backend_fd, select.EPOLLOUT, self._sending)
        else:
            self._edge.poller.read(self._backend_fd, self._answer, known=True)

    def _closed_by_backend(self, why: str | None) -> None:
        self._refuse(Refused(502, f"the backend closed the connection: {why}", "connect_error"))

    def _answer(self, data: bytes | int) -> None:
        """Read the backend's answer. :param data: what has come, or an errno"""
        assert self._target is not None
        if isinstance(data, int):
            if data not in NOT_NOW:
                self._closed_by_backend(os.strerror(data))
            return
        if not data:
            self._refuse(Refused(502, "the backend closed the connection without an answer", "connect_error"))
            return
        request = self._request
        reader = self._reader
        accept = accept_of(request.key) if reader is None and request.key is not None else b""
        if accept:
            subprotocol = self._edge.accepted.subprotocol(data, accept)
            if subprotocol is not None:
                self._accepted(data, subprotocol, b"")
                return
        if reader is None:
            reader = self._reader = ResponseReader()
        try:
            head = reader.feed(data)
            while head is not None and head.status < 200 and head.status != 101:
                if not self._pass_interim(answer_to_client(head)):
                    return
                head = reader.feed(b"")
        except BadResponse as error:
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
            self._refuse(Refused(502, f"the backend's 101 is not valid: {refusal}", "refused_by_backend"))
            return
        answer = answer_to_client(head)
        subprotocol = head.first.get(b"sec-websocket-protocol", b"")
        if accept and answer == data:
            self._edge.accepted.remember(answer, accept, subprotocol)
        # What refers to itself is left to the garbage collector, which costs a handshake a tenth of its time.
        reader.release()
        self._accepted(answer, subprotocol, reader.received)

    def _accepted(self, answer: bytes, subprotocol: bytes, early: bytes) -> None:
        """The backend has accepted. :param early: what it said behind its answer"""
        assert self._target is not None
        if self._edge.draining:
            self._refuse(Refused(503, "this gateway is shutting down", "unavailable"))
        elif self._target.number in self._edge.drained_backends:
            self._refuse(Refused(503, "the backend is being taken out of service", "unavailable"))
        else:
            self._open(answer, subprotocol, early)

    def _pass_interim(self, data: bytes) -> bool:
        """Send the client an interim answer; False if it is gone."""
        if self._edge.kernel.write(self._client_fd, data) == len(data):
            return True
        # A client that does not even take a few hundred bytes.
        self._client_gone()
        return False

    # --- the end of it ---------------------------------------------------------------------------------------------

    def _open(self, answer: bytes, subprotocol: bytes, early: bytes) -> None:
        """Splice: from here on the relay has both sockets. Arguments as of :meth:`_accepted`."""
        edge = self._edge
        request = self._request
        row = self._row
        give_up_unacknowledged(edge.kernel, request, self._client_fd, self._backend_fd)
        fill_row(edge, row, request, subprotocol)
        poller = edge.poller
        client_fd = self._client_fd
        if len(self._early) >= MAX_EARLY_BYTES:
            poller.read(client_fd, self._client_sent, known=True)
        poller.let_go(client_fd)
        poller.let_go(self._backend_fd)
        edge.relay.open(row, client_fd, self._backend_fd)
        edge.waiting.discard(self)
        self._tell("upgraded", 101, None)
        poller.put_off(partial(self._say_it, answer), partial(self._opened, early))

    def _say_it(self, answer: bytes) -> int:
        """Tell the client."""
        self._edge.relay.write(self._row, CLIENT, answer)
        return 0

    def _opened(self, early: bytes, result: int) -> None:
        """The client was told: what both have said ahead of that goes on its way."""
        edge = self._edge
        row = self._row
        for side, data in ((BACKEND_SIDE, early), (CLIENT, self._early)):
            if data and edge.slice.cells[row + STATE] == LIVE:
                edge.relay.feed(row, side, data)
        edge.tunnel_opened(row)

    def _relay_answer(self, reader: ResponseReader) -> None:
        """The backend declined: relay its answer whole, then close. :param reader: has read the answer's head"""
        edge = self._edge
        edge.poller.unwatch(self._client_fd)
        edge.poller.unwatch(self._backend_fd)
        self._tell("refused_by_backend", reader.head.status, None)
        client, backend = socket.socket(fileno=self._client_fd), socket.socket(fileno=self._backend_fd)
        client.setblocking(False)
        backend.setblocking(False)
        self._backend_fd = NONE
        self._let_go()
        edge.spawn(relay_answer(edge, client, backend, reader, self._request.route.timeouts.write_stall))

    def _refuse(self, refused: Refused) -> None:
        refused.route = self._request.route
        self._let_go()
        self._edge.poller.unwatch(self._client_fd)
        self._tell(refused.result, refused.status, refused.reason)
        self._edge.answer(self._client_fd, refused)

    def _drop_backend(self) -> None:
        if self._backend_fd != NONE:
            if not self._dialling:
                self._edge.poller.unwatch(self._backend_fd)
            self._edge.drop(self._backend_fd)
            self._backend_fd = NONE

    def _let_go(self) -> None:
        """Give back everything but the client's connection."""
        self._drop_backend()
        self._edge.waiting.discard(self)
        if self._row >= 0:
            self._edge.slice.release(self._row)
            self._row = -1

    def _tell(self, result: str, status: int | None, reason: str | None) -> None:
        self._edge.tell_handshake(self._request, result, status, reason, self._target)
