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

from gateway.edge.declined import relay_answer
from gateway.edge.forwarding import answer_to_client, upgrade_to_backend
from gateway.edge.names import SocketAddress
from gateway.edge.networks import network_of
from gateway.edge.request import Refused, Request
from gateway.protocol.http import BadResponse, ResponseReader
from gateway.protocol.websocket import WEBSOCKET, refusal_of_101
from gateway.routing.balancing import Target
from gateway.tunnels.layout import (
    BACKEND,
    BACKEND_SIDE,
    CLIENT,
    CLOSE_NS,
    IDLE_NS,
    KIND,
    LIFETIME_NS,
    LIVE,
    NEVER,
    ON_LOSS_CODE,
    OPAQUE,
    OPENED_UNIX_NS,
    PING_AFTER_NS,
    PONG_TIMEOUT_NS,
    SIDE_0,
    SIDE_CELLS,
    STATE,
    WRITE_STALL_NS,
)
from gateway.tunnels.layout import WEBSOCKET as WEBSOCKET_KIND
from gateway.tunnels.sweep import set_deadline

if TYPE_CHECKING:
    from gateway.edge.edge import Edge

MAX_EARLY_BYTES = 64 * 1024
"""What a client may send ahead of the answer; beyond it, it is not read until the tunnel is open."""

RECEIVE_BYTES = 64 * 1024
MOST_ADDRESSES = 3
"""Addresses that a backend's name may have to be tried."""

STALL_SLACK_MS = 2000
MAX_USER_TIMEOUT_MS = 2**31 - 1
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
        :param watched: whether the poller watches ``client_fd`` already
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
        self._reader = ResponseReader()
        self._head = b""
        self._row = -1
        self.deadline_ns = NEVER
        self._connecting = True
        self._dialling = False  # whether a connection to the backend is about to be begun
        edge.waiting.add(self)
        if watched:
            edge.poller.recall(client_fd, self._client_ready)
        else:
            edge.poller.watch(client_fd, select.EPOLLIN, self._client_ready)
        self._dial()

    def late(self) -> None:
        """The deadline has come."""
        if self._connecting:
            self._connect_late()
        else:
            self._refuse(Refused(504, "the backend did not answer the handshake in time", "timeout"))

    # --- the client, while it waits --------------------------------------------------------------------------------

    def _client_ready(self, mask: int) -> None:
        """The client sent something ahead of the answer, or went away."""
        if len(self._early) >= MAX_EARLY_BYTES:
            if mask & (select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP):
                self._client_gone()
            else:
                self._edge.poller.rewatch(self._client_fd, WATCH_END, self._client_ready)
            return
        data = self._edge.kernel.receive(self._client_fd, MAX_EARLY_BYTES - len(self._early))
        if isinstance(data, bytes) and data:
            self._early += data
        elif data not in NOT_NOW:
            self._client_gone()

    def _client_gone(self) -> None:
        self._log("client_gone", None, "the client went away before the answer")
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
        self._addresses = self._edge.names.addresses(target.address)[:MOST_ADDRESSES]
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
            self._edge.poller.rewatch(self._backend_fd, select.EPOLLIN, self._answer_later)

    def _answer_later(self, mask: int) -> None:
        self._answer(self._edge.kernel.receive(self._backend_fd, RECEIVE_BYTES))

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
        reader = self._reader
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
            self._relay_answer()
            return
        if self._edge.draining:
            self._refuse(Refused(503, "this gateway is shutting down", "unavailable"))
            return
        if self._target.number in self._edge.drained_backends:
            self._refuse(Refused(503, "the backend is being taken out of service", "unavailable"))
            return
        assert self._request.upgrade is not None
        refusal = refusal_of_101(head, self._request.upgrade, self._request.key)
        if refusal is None:
            self._open()
        else:
            self._refuse(Refused(502, f"the backend's 101 is not valid: {refusal}", "refused_by_backend"))

    def _pass_interim(self, data: bytes) -> bool:
        """Send the client an interim answer; False if it is gone."""
        if self._edge.kernel.write(self._client_fd, data) == len(data):
            return True
        # A client that does not even take a few hundred bytes.
        self._client_gone()
        return False

    # --- the end of it ---------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Splice: from here on the relay has both sockets."""
        edge = self._edge
        request = self._request
        answer = answer_to_client(self._reader.head)
        self._give_up_unacknowledged()
        subprotocol = self._reader.head.first.get(b"sec-websocket-protocol", b"")
        self._fill_row(subprotocol)
        poller = edge.poller
        client_fd = self._client_fd
        if len(self._early) >= MAX_EARLY_BYTES:
            poller.rewatch(client_fd, select.EPOLLIN, self._client_ready)
        poller.let_go(client_fd)
        poller.let_go(self._backend_fd)
        row = self._row
        relay = edge.relay
        relay.open(row, client_fd, self._backend_fd)
        set_deadline(edge.slice.cells, row)
        edge.waiting.discard(self)
        # What refers to itself is left to the garbage collector, which costs a handshake a tenth of its time.
        self._reader.release()
        edge.count_handshake(request.route, "upgraded", request.started_ns)
        self._log("upgraded", 101, None)
        poller.put_off(partial(self._say_it, answer), self._opened)

    def _say_it(self, answer: bytes) -> int:
        """Tell the client."""
        self._edge.relay.write(self._row, CLIENT, answer)
        return 0

    def _opened(self, result: int) -> None:
        """The client was told: what both have said ahead of that goes on its way."""
        edge = self._edge
        row = self._row
        for side, early in ((BACKEND_SIDE, self._reader.received), (CLIENT, self._early)):
            if early and edge.slice.cells[row + STATE] == LIVE:
                edge.relay.feed(row, side, early)
        edge.tunnel_opened(row)

    def _give_up_unacknowledged(self) -> None:
        """Have the kernel end a connection whose peer acknowledges nothing, a little after it would be given up for
        taking nothing: what fits into the socket's buffer is taken, though nobody may be there (RFC 5482)."""
        stall_ns = self._request.route.limits.write_stall_ns
        if stall_ns == NEVER:
            return
        milliseconds = min(stall_ns // 1_000_000 + STALL_SLACK_MS, MAX_USER_TIMEOUT_MS)
        self._edge.kernel.limit_unacknowledged(self._client_fd, milliseconds)
        self._edge.kernel.limit_unacknowledged(self._backend_fd, milliseconds)

    def _fill_row(self, subprotocol: bytes) -> None:
        cells = self._edge.slice.cells
        row = self._row
        request = self._request
        limits = request.route.limits
        cells[row + KIND] = WEBSOCKET_KIND if request.upgrade == WEBSOCKET else OPAQUE
        cells[row + OPENED_UNIX_NS] = self._edge.unix_ns()
        cells[row + WRITE_STALL_NS] = limits.write_stall_ns
        cells[row + CLOSE_NS] = limits.close_ns
        cells[row + IDLE_NS] = limits.idle_ns
        cells[row + LIFETIME_NS] = limits.max_lifetime_ns
        if request.upgrade == WEBSOCKET:
            for side, keepalive in enumerate(request.route.keepalive):
                at = row + SIDE_0 + side * SIDE_CELLS
                cells[at + PING_AFTER_NS] = keepalive.ping_after_ns
                cells[at + PONG_TIMEOUT_NS] = keepalive.pong_timeout_ns
                if keepalive.adaptive:
                    network = network_of(request.peer) if side == CLIENT else cells[row + BACKEND] + 1
                    self._edge.intervals.begin(row, side, network, self._edge.now())
        cells[row + ON_LOSS_CODE] = request.route.upstream.on_loss_code
        self._edge.slice.write_texts(
            row,
            {
                "client": request.client.encode("latin-1"),
                "host": request.host.encode(),
                "path": request.path.encode(),
                "subprotocol": subprotocol,
                "request_id": request.request_id.encode(),
            },
        )

    def _relay_answer(self) -> None:
        """The backend declined: relay its answer whole, then close."""
        edge = self._edge
        edge.poller.unwatch(self._client_fd)
        edge.poller.unwatch(self._backend_fd)
        edge.count_handshake(self._request.route, "refused_by_backend", self._request.started_ns)
        self._log("refused_by_backend", self._reader.head.status, None)
        client, backend = socket.socket(fileno=self._client_fd), socket.socket(fileno=self._backend_fd)
        client.setblocking(False)
        backend.setblocking(False)
        self._backend_fd = NONE
        self._let_go()
        edge.spawn(relay_answer(edge, client, backend, self._reader, self._request.route.timeouts.write_stall))

    def _refuse(self, refused: Refused) -> None:
        refused.route = self._request.route
        self._let_go()
        self._edge.poller.unwatch(self._client_fd)
        self._edge.count_handshake(refused.route, refused.result, self._request.started_ns)
        self._log(refused.result, refused.status, refused.reason)
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

    def _log(self, result: str, status: int | None, reason: str | None) -> None:
        self._edge.log_handshake(self._request, result, status, reason, self._target)
