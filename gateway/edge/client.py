"""A client's connection: one request after another, in order, until it ends or becomes a tunnel (RFC 9112 section 9).

It reads heads, and hands each request to an exchange or an upgrade, its *task*. While that is under way, what the
client sends ahead is kept, within bounds, and looked at when its turn comes.
"""

from __future__ import annotations

import time
from errno import EAGAIN, EINTR
from functools import partial
from select import EPOLLRDHUP
from typing import TYPE_CHECKING, Protocol

from gateway.edge.access.granted import Granted
from gateway.edge.answering import Answering
from gateway.edge.checking import Checking
from gateway.edge.exchange.exchange import Exchange
from gateway.edge.own_answers import further_fields, own_answer
from gateway.edge.refusal import refusal_bytes
from gateway.edge.refused import Refused
from gateway.edge.request import Request, examine
from gateway.edge.upgrade import Upgrade
from gateway.observe.events import CLIENT_GONE
from gateway.observe.requests import CLIENT_CLOSED_REQUEST
from gateway.protocol.heads import BadHead, RequestHead
from gateway.protocol.requests import RequestReader
from gateway.protocol.websocket import has_body, requested_upgrades

if TYPE_CHECKING:
    from gateway.edge.access.method import Waiting
    from gateway.edge.clients import Clients
    from gateway.edge.pool import BackendConnection
    from gateway.edge.trust import Peer
    from gateway.edge.wire import Wire

MAX_AHEAD_BYTES = 64 * 1024
"""What a client may send ahead of its turn; beyond it, it is not read until that comes."""

LINGER_NS = 2_000_000_000
"""For a client to close after its last answer. A socket that is closed with bytes unread resets the connection, and the
reset may overtake the answer."""

FRESH_NS = 1_000_000_000
"""For the first request of a connection to come before that counts as idle, in a drain."""

NOT_NOW = (EAGAIN, EINTR)
_END = EPOLLRDHUP


class Task(Protocol):
    """A request under way."""

    def client_gone(self, error: int) -> None:
        """The client's connection ended. :param error: an errno; 0 for its end"""

    def late(self) -> None:
        """The deadline has passed."""

    def shut_down(self) -> None:
        """The gateway exits: end now."""

    def abandon(self) -> None:
        """Something failed: close everything."""


class Client:
    """A client's connection."""

    __slots__ = (
        "_clients",
        "_head",
        "_lingers",
        "_over",
        "_reader",
        "_served",
        "_started_ns",
        "_taking",
        "_watched",
        "ahead",
        "deadline_ns",
        "fd",
        "is_full",
        "is_last",
        "peer",
        "pinned",
        "task",
        "wire",
    )

    def __init__(self, clients: Clients, fd: int, peer: Peer, wire: Wire | None = None, watched: bool = False) -> None:
        """
        :param fd: a connection, non-blocking; this owns it
        :param wire: what carries it; a plain one by default
        :param watched: whether epoll watches it already, as for :meth:`Poller.read`
        """
        self._clients = clients
        self.fd = fd
        self.wire = wire or clients.wire
        self.peer = peer
        self.task: Task | None = None
        self.ahead = b""
        self.is_full = False
        self.is_last = False
        """whether no further request is served on it"""
        self.pinned: BackendConnection | None = None
        self._reader: RequestReader | None = None
        self._head: RequestHead | None = None
        self._started_ns = clients.relay.now
        self._served = False  # whether a plain request has come on it
        self._watched = watched
        self._taking = False
        self._lingers = False
        self._over = False
        self.deadline_ns = clients.relay.now + clients.config.request_head_ns
        clients.deadlines.add(self)

    # --- what the poller calls ----------------------------------------------------------------------------------------

    def start(self, received: bytes | int) -> None:
        """Begin to serve it. :param received: what has come on it already, or an errno"""
        self.read(received)
        if not self._watched and not self._over:
            self.watch()

    def begin(self) -> None:
        """As :meth:`start`, with what the wire has received already."""
        if self._watched:
            self._clients.poller.read_on(self.fd, self.read)
        self.start(self.wire.early(self.fd))

    def read(self, data: bytes | int) -> None:
        """Take what has come, or an errno."""
        if self.task is not None:
            self._take_ahead(data)
        elif self._lingers:
            if not data or (isinstance(data, int) and data not in NOT_NOW):
                self._close()
        elif isinstance(data, int):
            if data not in NOT_NOW:
                self._close()
        elif data:
            self._take(data)
        else:
            self._close()

    def watch(self) -> None:
        """Have the poller call :meth:`read`."""
        poller = self._clients.poller
        if self.is_full:
            poller.rewatch(self.fd, _END, self._ended)
        else:
            poller.read(self.fd, self.read, known=self._watched)
        self._watched = True

    def _ended(self, mask: int) -> None:
        """The client went away while nothing more of it was read."""
        if self.task is not None:
            self.task.client_gone(0)
        else:
            self._close()

    def _take_ahead(self, data: bytes | int) -> None:
        assert self.task is not None
        if isinstance(data, int):
            if data not in NOT_NOW:
                self.task.client_gone(data)
        elif data:
            self.ahead += data
            if len(self.ahead) >= MAX_AHEAD_BYTES and not self.is_full:
                self.is_full = True
                self.watch()
        else:
            self.task.client_gone(0)

    def late(self) -> None:
        """The deadline has passed. A connection on which no request has begun is closed without a word."""
        if self.task is not None:
            self.task.late()
        elif self._reader is not None and not self._lingers:
            self._refuse(Refused(408, "the request's head did not come in time", "timeout"), None)
        else:
            self._close()

    def outdated(self) -> None:
        """The client was let in by what its listener goes by no more: serve no request but the one under way."""
        self.is_last = True
        if self.task is None and not self._over and not self._lingers:
            self._linger()

    def abandon(self) -> None:
        """Something in here failed: close the connection, and that of a task."""
        task, self.task = self.task, None
        if task is not None:
            task.abandon()
        if not self._over:
            self._close()

    # --- requests -----------------------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        """Serve the requests in ``data``, as far as they are whole and one does not wait for another."""
        self._taking = True
        try:
            while data and self.task is None and not self._over and not self._lingers:
                self.ahead = b""
                if not self._take_one(data):
                    return
                data = self.ahead if self.task is None else b""
        finally:
            self._taking = False
        if self.task is None and not self._over and not self._lingers:
            self._rest()

    def _take_one(self, data: bytes) -> bool:
        """Serve the first request of ``data``, put what is behind it in ``ahead``; False if its head is not whole."""
        clients = self._clients
        head = None
        was_known = False
        if self._reader is None:
            self._head = None  # of the request before
            self._started_ns = time.monotonic_ns()
            head = clients.known_heads.find(data) or clients.known_fields.find(data)
            was_known = head is not None
        request = None
        try:
            if head is None:
                reader = self._reader
                if reader is None:
                    config = clients.config
                    reader = self._reader = RequestReader(config.max_head, config.max_fields)
                    self.deadline_ns = clients.relay.now + config.request_head_ns
                head = reader.feed(data)
                if head is None:
                    return False
                self.ahead = reader.received[head.size :]
                self._reader = None
            else:
                self.ahead = data[head.size :]
            self._head = head
            request = examine(head, self.peer, clients.config, self._started_ns)
            if not was_known and not self.peer.trusted:  # a proxy says something else of each client
                (clients.known_fields if request.upgrade is None else clients.known_heads).remember(head)
            access = clients.config.access.get(request.route.number)
            if access is not None:
                answer = access.check(request)
                if answer is not None and not isinstance(answer, Granted):
                    self._wait_for(answer, request, access.longest_wait_ns)
                    return True
                request.granted = answer
            self._serve(request)
        except BadHead as error:
            self.task = None
            self._refuse(Refused(error.status, str(error), "bad_request", request.route if request else None), request)
        except Refused as refused:
            self.task = None
            self._refuse(refused, request)
        return True

    def _wait_for(self, answer: Waiting, request: Request, longest_wait_ns: int) -> None:
        """Have the request wait until its credentials are checked."""
        if not self._watched:
            self.watch()
        wait_ns = max(self._clients.config.request_head_ns, longest_wait_ns)
        self.deadline_ns = self._clients.relay.now + wait_ns
        checking = self.task = Checking(self, request)
        checking.start(answer)

    def checked(self, request: Request, verdict: Granted | Refused) -> None:
        """The credentials of a request are checked: serve it, or refuse it."""
        self.task = None
        if self.is_full:
            self.is_full = False
            self.watch()
        # As for any callback of the poller, what goes wrong here ends this connection, and no other.
        self._clients.poller.call(partial(self._go_on, request, verdict))

    def _go_on(self, request: Request, verdict: Granted | Refused) -> None:
        try:
            if isinstance(verdict, Refused):
                raise verdict
            request.granted = verdict
            self._serve(request)
        except BadHead as error:
            self.task = None
            self._refuse(Refused(error.status, str(error), "bad_request", request.route), request)
        except Refused as refused:
            self.task = None
            self._refuse(refused, request)

    def left_unchecked(self, request: Request) -> None:
        """The client went away while its credentials were being checked."""
        reason = "the client went away before the answer"
        self._clients.refusals.refused(request, CLIENT_CLOSED_REQUEST, reason, CLIENT_GONE)

    def _serve(self, request: Request) -> None:
        """Serve a request that may come in. :raises Refused: it is not served. :raises BadHead: nor is its framing"""
        if self._clients.config.draining:
            raise Refused(503, "this gateway is shutting down", "unavailable", request.route)
        if request.route.answer is not None:
            answer = own_answer(request, request.route.answer)
            self._clients.refusals.answered(request, answer.status, len(answer.body or b""))
            self._served = True
            self.answer(answer, self._may_stay(request.head))
            return
        if request.upgrade is not None:
            if not self._watched:
                self.watch()
            upgrade = self.task = Upgrade(self._clients.upgrades, self, request)
            upgrade.start()
            return
        if not request.route.proxies_http:
            raise Refused(426, "only WebSocket is served here", "bad_request", request.route)
        self._exchange(request)

    def _exchange(self, request: Request) -> None:
        self._served = True
        if not self._watched:
            self.watch()
        exchange = self.task = Exchange(self._clients.exchanges, self, request)
        early, self.ahead = self.ahead, b""
        exchange.start(early)

    def _rest(self) -> None:
        """Wait for the next request."""
        self.deadline_ns = self._clients.relay.now + self._clients.config.http_idle_ns
        if self._clients.on_rest is not None:
            self._clients.on_rest(self)

    # --- what a task calls --------------------------------------------------------------------------------------------

    def finished(self, keep: bool) -> None:
        """The task is over, and its answer sent. :param keep: whether another request may follow"""
        self.task = None
        if keep:
            self._next()
        else:
            self._linger()

    def gone(self) -> None:
        """The task is over, as the client went away."""
        self.task = None
        self._close()

    def cut(self, reset: bool) -> None:
        """The answer broke off: close the connection.

        :param reset: so that this does not look like the answer's end
        """
        self.task = None
        if reset:
            self.wire.reset(self.fd)
            self._close()
        else:
            self._linger()

    def answer(self, refused: Refused, keep: bool) -> None:
        """Answer for the gateway itself. :param keep: whether another request may follow"""
        self.task = None
        head = self._head
        data = refusal_bytes(
            refused.status,
            refused.reason,
            keep,
            head is not None and head.method == b"HEAD",
            head is None or head.http11,
            further_fields(refused),
            refused.body,
        )
        sent = self.wire.write(self.fd, data)
        if sent == len(data):
            if keep:
                self._next()
            else:
                self._linger()
        elif sent < 0 and -sent not in NOT_NOW:
            self._close()
        else:
            clients = self._clients
            stall_ns = clients.config.request_head_ns if refused.route is None else refused.route.limits.write_stall_ns
            answering = self.task = Answering(clients.poller, self, data[max(sent, 0) :], keep, stall_ns)
            answering.start(self._watched)
            self._watched = True

    def answered(self, keep: bool) -> None:
        """The rest of an answer is sent, too. :param keep: whether another request may follow"""
        self.is_full = False
        self.watch()
        self.finished(keep)

    def dismiss(self, data: bytes) -> None:
        """Send what is the last on a connection on which no request has come, and close it. :param data: as it goes"""
        self.wire.write(self.fd, data)
        self._linger()

    def handed_over(self) -> None:
        """The connection is a tunnel's now."""
        self.task = None
        self._over = True
        self._clients.deadlines.discard(self)
        self._unpin()

    def _next(self) -> None:
        """Go on with what came ahead, or wait for more."""
        if self.is_last:
            self._linger()
            return
        if self.is_full:
            self.is_full = False
            self.watch()
        if self._taking:
            return  # the loop that has begun the task goes on
        # What has come in this turn belongs behind it: the next request's body goes another way.
        data, self.ahead = self.ahead + self._clients.poller.take(self.fd), b""
        if data:
            self._take(data)
        else:
            self._rest()

    # --- the end ------------------------------------------------------------------------------------------------------

    def _refuse(self, refused: Refused, request: Request | None) -> None:
        """Answer a request that is refused for what it says, and count and log it."""
        clients = self._clients
        head = self._head
        self._reader = None
        keep = False
        refusals, started_ns = clients.refusals, self._started_ns
        status, reason, result = refused.status, refused.reason, refused.result
        if head is None:
            refusals.unread(self.peer, self._served, status, reason, result, started_ns)
        else:
            if request is None:
                refusals.unserved(head, self.peer, refused.route, status, reason, result, started_ns)
            else:
                refusals.refused(request, status, reason, result)
            keep = status != 400 and self._may_stay(head)
        self.answer(refused, keep)

    def _may_stay(self, head: RequestHead) -> bool:
        """Whether another request may follow one that no backend gets."""
        if requested_upgrades(head) or b"sec-websocket-key" in head.first:
            return False
        tokens = head.tokens(b"connection") if b"connection" in head.first else []
        asked = b"close" not in tokens if head.http11 else b"keep-alive" in tokens
        # What is left of a body that nobody wants would only be read to be thrown away.
        return asked and not has_body(head) and not self._clients.config.draining and not self.is_last

    def close_if_idle(self) -> bool:
        """Close the connection unless a request is under way, or is about to come. :returns: whether it is closed"""
        fresh = not self._served and self._clients.relay.now - self._started_ns < FRESH_NS
        if self.task is None and self._reader is None and not self._lingers and not fresh:
            self._close()
        return self._over

    def shut_down(self) -> None:
        """End the request that is under way, as the gateway exits, or the connection."""
        if self.task is not None:
            self.task.shut_down()
        elif not self._over and not self._lingers:
            self._close()

    def unread(self) -> bytes | None:
        """What was read of the next request, for another process to go on with.

        :returns: None if the connection has to stay: something is under way, or a backend's connection is tied to it
        """
        if self.task is not None or self._taking or self._lingers or self._over:
            return None
        if self.pinned is not None and self.pinned.fd >= 0 and self.pinned.is_authenticated:
            return None
        if self.wire.has_ended(self.fd):
            return None  # it ends here, in the next turn
        return self._reader.received if self._reader is not None else b""

    def left(self) -> None:
        """Another process serves the connection now: let go of it here.

        Not to be called in a turn of the poller: what it has received, and not passed on yet, would be lost.
        """
        self._over = True
        self._clients.deadlines.discard(self)
        if self._watched:
            self._clients.poller.unwatch(self.fd)
        self._clients.relay.retire(self.fd)
        self.wire.forget(self.fd)
        self._unpin()

    def _linger(self) -> None:
        """Close when the client has, or soon."""
        self._lingers = True
        self.ahead = b""
        self.is_full = False
        self.wire.end(self.fd)
        self.deadline_ns = self._clients.relay.now + LINGER_NS
        self.watch()

    def _close(self) -> None:
        self._over = True
        clients = self._clients
        clients.deadlines.discard(self)
        if self._watched:
            clients.poller.unwatch(self.fd)
        clients.relay.retire(self.fd)
        self.wire.close(self.fd)
        self._unpin()

    def _unpin(self) -> None:
        """Close the backend's connection that serves this client alone: it can serve no other."""
        if self.pinned is not None:
            self._clients.exchanges.pool.close(self.pinned)
            self.pinned = None
