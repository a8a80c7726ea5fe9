"""One upgrade, from a request that asks for it to a tunnel: dial, forward the handshake, check the answer, splice.

Its state is the callback that the poller calls next for the backend's socket (``_connected``, ``_sending``,
``_answer``), and what has to be done when that takes too long (``_when_late``).
"""

from __future__ import annotations

import os
import select
import socket
from errno import EINPROGRESS, EPIPE
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
KEEPALIVE_IDLE_SECONDS = 60
STALL_SLACK_MS = 2000
MAX_USER_TIMEOUT_MS = 2**31 - 1
WATCH_END = select.EPOLLRDHUP
NS = 1_000_000_000


class Upgrade:
    """An upgrade on its way."""

    __slots__ = (
        "_addresses",
        "_backend",
        "_early",
        "_edge",
        "_failure",
        "_head",
        "_reader",
        "_request",
        "_row",
        "_sock",
        "_target",
        "_tried",
        "_when_late",
        "deadline_ns",
    )

    def __init__(self, edge: Edge, sock: socket.socket, request: Request, early: bytes, watched: bool) -> None:
        """
        :param sock: the client's connection; the upgrade owns it from now on
        :param early: what the client has sent behind its request
        :param watched: whether the poller watches ``sock`` already
        """
        self._edge = edge
        self._sock = sock
        self._request = request
        self._early = early
        self._tried: set[Target] = set()
        self._addresses: list[SocketAddress] = []
        self._backend: socket.socket | None = None
        self._target: Target | None = None
        self._failure = Refused(503, "no backend", "unavailable", request.route)
        self._reader = ResponseReader()
        self._head = b""
        self._row = -1
        self.deadline_ns = NEVER
        self._when_late = self._connect_late
        edge.waiting.add(self)
        if watched:
            edge.poller.recall(sock.fileno(), self._client_ready)
        else:
            edge.poller.watch(sock.fileno(), select.EPOLLIN, self._client_ready)
        self._dial()

    def late(self) -> None:
        """The deadline has come."""
        self._when_late()

    # --- the client, while it waits --------------------------------------------------------------------------------

    def _client_ready(self, mask: int) -> None:
        """The client sent something ahead of the answer, or went away."""
        if len(self._early) >= MAX_EARLY_BYTES:
            if mask & (select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP):
                self._client_gone()
            else:
                self._edge.poller.rewatch(self._sock.fileno(), WATCH_END, self._client_ready)
            return
        try:
            data = self._sock.recv(MAX_EARLY_BYTES - len(self._early))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self._early += data
        else:
            self._client_gone()

    def _client_gone(self) -> None:
        self._log("client_gone", None, "the client went away before the answer")
        self._let_go()
        self._edge.poller.unwatch(self._sock.fileno())
        self._edge.drop(self._sock)

    # --- connecting ------------------------------------------------------------------------------------------------

    def _dial(self) -> None:
        """Connect to the next address that may do."""
        while True:
            if not self._addresses and not self._next_target():
                self._refuse(self._failure)
                return
            assert self._target is not None
            family, address = self._addresses.pop(0)
            try:
                sock = self._edge.descriptors.backend_socket(family)
            except Refused as refused:
                self._refuse(refused)
                return
            self._backend = sock
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)
            error = sock.connect_ex(address)
            if error == EINPROGRESS or not error:
                error = self._send_at_once(sock)
                if not error:
                    self._answer_due()
                    self._edge.poller.watch(sock.fileno(), select.EPOLLIN, self._answer)
                    return
            if error == EINPROGRESS:
                self.deadline_ns = self._edge.now() + self._request.route.limits.connect_ns
                self._when_late = self._connect_late
                self._edge.poller.watch(sock.fileno(), select.EPOLLOUT, self._connected)
                return
            self._connect_failed(error)

    def _send_at_once(self, sock: socket.socket) -> int:
        """Send the request's head on a connection that may be made already, as one on this machine is.

        :returns: 0 when all of it was sent, ``EINPROGRESS`` when that takes time, else what went wrong
        """
        self._head = upgrade_to_backend(self._request)
        try:
            self._head = self._head[sock.send(self._head) :]
        except (BlockingIOError, InterruptedError):
            return EINPROGRESS
        except OSError as error:
            return error.errno or EPIPE
        return EINPROGRESS if self._head else 0

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
        self._tried.add(target)
        self._target = target
        self._addresses = self._edge.names.addresses(target.address)[:3]
        if not self._addresses:
            self._failed("unresolved", Refused(502, "the backend's name does not resolve", "connect_error"))
            return self._next_target()
        return True

    def _connect_failed(self, error: int) -> None:
        assert self._backend is not None
        self._backend.close()
        self._backend = None
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
        assert self._backend is not None
        error = self._backend.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._edge.poller.unwatch(self._backend.fileno())
            self._edge.drop(self._backend)
            self._backend = None
            self._failed(
                os.strerror(error).lower().replace(" ", "_"),
                Refused(502, f"the backend cannot be reached: {os.strerror(error)}", "connect_error"),
            )
            self._dial()
            return
        self._answer_due()
        self._sending(mask)

    def _answer_due(self) -> None:
        """The connection stands: from now on the backend has to answer."""
        assert self._target is not None
        self._edge.connect_succeeded(self._target)
        self.deadline_ns = self._edge.now() + self._request.route.limits.handshake_ns
        self._when_late = self._answer_late

    # --- the handshake ---------------------------------------------------------------------------------------------

    def _sending(self, mask: int) -> None:
        """Send the backend the request's head."""
        assert self._backend is not None
        try:
            sent = self._backend.send(self._head)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._refuse(Refused(502, f"the backend closed the connection: {error.strerror}", "connect_error"))
            return
        self._head = self._head[sent:]
        if self._head:
            self._edge.poller.rewatch(self._backend.fileno(), select.EPOLLOUT, self._sending)
        else:
            self._edge.poller.rewatch(self._backend.fileno(), select.EPOLLIN, self._answer)

    def _answer(self, mask: int) -> None:
        """Read the backend's answer."""
        assert self._backend is not None
        assert self._target is not None
        try:
            data = self._backend.recv(RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._refuse(Refused(502, f"the backend closed the connection: {error.strerror}", "connect_error"))
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

    def _answer_late(self) -> None:
        self._refuse(Refused(504, "the backend did not answer the handshake in time", "timeout"))

    def _pass_interim(self, data: bytes) -> bool:
        """Send the client an interim answer; False if it is gone."""
        try:
            if self._sock.send(data) == len(data):
                return True
        except OSError:
            pass
        # A client that does not even take a few hundred bytes.
        self._client_gone()
        return False

    # --- the end of it ---------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Splice: from here on the relay has both sockets."""
        edge = self._edge
        assert self._backend is not None
        assert self._target is not None
        request = self._request
        answer = answer_to_client(self._reader.head)
        self._give_up_unacknowledged()
        subprotocol = self._reader.head.first.get(b"sec-websocket-protocol", b"")
        self._fill_row(subprotocol)
        poller = edge.poller
        client_fd = self._sock.fileno()
        if len(self._early) >= MAX_EARLY_BYTES:
            poller.rewatch(client_fd, select.EPOLLIN, self._client_ready)
        poller.let_go(client_fd)
        poller.let_go(self._backend.fileno())
        row = self._row
        relay = edge.relay
        relay.open(row, self._sock.detach(), self._backend.detach())
        set_deadline(edge.slice.cells, row)
        edge.waiting.discard(self)
        # What refers to itself is left to the garbage collector, which costs a handshake a tenth of its time.
        del self._when_late
        self._reader.release()
        edge.count_handshake(request.route, "upgraded", request.started_ns)
        self._log("upgraded", 101, None)
        relay.write(row, CLIENT, answer)
        for side, early in ((BACKEND_SIDE, self._reader.received), (CLIENT, self._early)):
            if early and edge.slice.cells[row + STATE] == LIVE:
                relay.feed(row, side, early)
        edge.tunnel_opened(row)

    def _give_up_unacknowledged(self) -> None:
        """Have the kernel end a connection whose peer acknowledges nothing, a little after it would be given up for
        taking nothing: what fits into the socket's buffer is taken, though nobody may be there (RFC 5482)."""
        stall_ns = self._request.route.limits.write_stall_ns
        if stall_ns == NEVER:
            return
        milliseconds = min(stall_ns // 1_000_000 + STALL_SLACK_MS, MAX_USER_TIMEOUT_MS)
        for sock in (self._sock, self._backend):
            if sock is not None and sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

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
        assert self._backend is not None
        edge.poller.unwatch(self._sock.fileno())
        edge.poller.unwatch(self._backend.fileno())
        edge.count_handshake(self._request.route, "refused_by_backend", self._request.started_ns)
        self._log("refused_by_backend", self._reader.head.status, None)
        sock, backend, reader = self._sock, self._backend, self._reader
        self._backend = None
        self._let_go()
        edge.spawn(relay_answer(edge, sock, backend, reader, self._request.route.timeouts.write_stall))

    def _refuse(self, refused: Refused) -> None:
        refused.route = self._request.route
        self._let_go()
        self._edge.poller.unwatch(self._sock.fileno())
        self._edge.count_handshake(refused.route, refused.result, self._request.started_ns)
        self._log(refused.result, refused.status, refused.reason)
        self._edge.answer(self._sock, refused)

    def _drop_backend(self) -> None:
        if self._backend is not None:
            self._edge.poller.unwatch(self._backend.fileno())
            self._edge.drop(self._backend)
            self._backend = None

    def _let_go(self) -> None:
        """Give back everything but the client's connection."""
        self._drop_backend()
        self._edge.waiting.discard(self)
        if self._row >= 0:
            self._edge.slice.release(self._row)
            self._row = -1

    def _log(self, result: str, status: int | None, reason: str | None) -> None:
        self._edge.log_handshake(self._request, result, status, reason, self._target)
