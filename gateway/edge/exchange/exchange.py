"""A whole exchange: which backend is asked, over which connection, whether that is tried again, and how it ends."""

from __future__ import annotations

from collections.abc import Collection
from errno import EPIPE
from functools import partial
from typing import TYPE_CHECKING

from gateway.edge.dialling import Dial
from gateway.edge.exchange.answer import Answer
from gateway.edge.exchange.sides import BACKEND, CLIENT, GATEWAY, HEAD
from gateway.edge.pool import BackendConnection
from gateway.edge.proxied import header_for
from gateway.edge.refused import Refused
from gateway.edge.stickiness import key_of
from gateway.edge.to_backend import names_kept_out, request_to_backend
from gateway.observe.backends import DIAL, POOL, REQUEST
from gateway.observe.requests import CLIENT_CLOSED_REQUEST, Logged
from gateway.protocol.bodies import BadBody, Dechunker, UntilClose
from gateway.protocol.framing import request_body
from gateway.routing.attempts import Attempts

if TYPE_CHECKING:
    from gateway.edge.exchange.shared import Exchanges
    from gateway.edge.exchange.sides import Downstream
    from gateway.edge.request import Request
    from gateway.edge.ways import Way
    from gateway.routing.attempts import Attempt

IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))
"""Methods whose requests may be sent twice (RFC 9110 section 9.2.2)."""


class Exchange(Answer):
    """One request and its answer."""

    __slots__ = ("_attempt", "_attempts", "_counted", "_dial", "_load", "_repeatable", "_reused")

    def __init__(self, shared: Exchanges, client: Downstream, request: Request) -> None:
        """:param client: the exchange has its connection until it calls ``finished``, ``answer`` or ``cut``"""
        super().__init__(shared, client, request)
        self._attempts: Attempts | None = None
        self._attempt: Attempt | None = None
        self._counted = -1
        """number of the backend that the table counts this request at"""
        self._dial: Dial | None = None
        self._load = b""
        """what goes first on the backend's connection: the head, and the body as far as it came with it"""
        self._repeatable = False
        self._reused = False
        """whether the backend's connection has served another request"""

    # --- the beginning ------------------------------------------------------------------------------------------------

    def start(self, early: bytes) -> None:
        """Ask a backend. :param early: what came behind the request's head

        :raises BadHead: the body's framing is ambiguous, or a coding is not understood
        :raises Refused: it is malformed, or too many requests are in flight
        """
        shared = self._shared
        request = self._request
        self._upload = request_body(request.head, names_kept_out(request))
        self._repeatable = self._upload is None and request.head.method in IDEMPOTENT
        if shared.in_flight >= shared.most:
            raise Refused(503, "this gateway is full (max_tunnels bounds requests, too)", "unavailable", request.route)
        try:
            body = self._begin_upload(early)
        except BadBody as error:
            raise Refused(400, str(error), "bad_request", request.route) from None
        shared.in_flight += 1
        self._load = request_to_backend(request, shared.config) + body
        if self._upload is not None:
            self._watch_client()
        pinned = self._client.pinned
        upstream = request.upstream
        if (
            pinned is not None
            and pinned.target.upstream == upstream.name
            and pinned.proxy_protocol == upstream.proxy_protocol
            and (pinned.is_authenticated or not upstream.is_keyed)
            and shared.pool.claim(pinned, shared.relay.now, self._repeatable)
        ):
            self._count(pinned.target.number)
            self._use(pinned, POOL)
            return
        attempts = self._attempts = self._new_attempts()
        attempt = attempts.next()
        if attempt is None or self.chosen(attempt):
            self._dial_backend(attempt)

    def take_declined(self, fd: int, way: Way, attempt: Attempt, data: bytes) -> None:
        """Relay the answer of a backend that declined an upgrade; the client's connection is closed behind it.

        :param fd: the backend's connection, read by the poller
        :param way: that it was dialled with
        :param data: what has come of the answer
        """
        shared = self._shared
        shared.in_flight += 1
        self._declined = True
        self._backend = BackendConnection(shared.pool, fd, way, attempt[0], attempt[2], shared.relay.now)
        self._backend_mode = HEAD
        shared.poller.read_on(fd, self._answer_came)
        self._touch()
        self._answer_came(data)

    def chosen(self, attempt: Attempt) -> bool:
        """A backend was chosen. :returns: whether it has to be dialled"""
        shared = self._shared
        target = attempt[0]
        self._attempt = attempt
        self._count(target.number)
        # A second attempt at the same backend is one after a connection that turned out to be closed. A connection that
        # begins with a client's address is for that client alone: it is not in the pool.
        if self._reused:
            return True
        proxy_protocol = self._request.upstream.proxy_protocol
        if proxy_protocol is None:
            connection = shared.pool.take(target, shared.relay.now, self._repeatable)
        else:
            connection = self._client.pinned
            if connection is not None and not (
                connection.target == target
                and connection.proxy_protocol == proxy_protocol
                and shared.pool.claim(connection, shared.relay.now, self._repeatable)
            ):
                connection = None
        if connection is not None:
            self._use(connection, POOL)
            return False
        return True

    def _new_attempts(self) -> Attempts:
        key = key_of(self._request, self._shared.config.trust)
        return Attempts(self._request.upstream, self._shared.addresses.of, key, brief=True)

    def _count(self, backend: int) -> None:
        """Have the table count the request at a backend. :param backend: its number"""
        if backend == self._counted:
            return
        if self._counted < 0:
            self._shared.slice.begin_request(self._request.route.number, backend)
        else:
            self._shared.slice.move_request(self._counted, backend)
        self._counted = backend

    def _dial_backend(self, attempt: Attempt | None) -> None:
        """:param attempt: the one to begin with, where it is chosen already"""
        assert self._attempts is not None
        request = self._request
        preamble = header_for(request.upstream, request.peer, self._client.fd)
        dial = self._dial = Dial(
            self._shared.dialler, self, self._attempts, self._load, request.route.limits.connect_ns, preamble
        )
        dial.start(attempt)

    def dialling(self, deadline_ns: int) -> None:
        """A backend is being dialled."""
        self._client.deadline_ns = deadline_ns

    def dialled(self, fd: int, way: Way, attempt: Attempt, unsent: bytes, known: bool) -> None:
        """A new connection to a backend stands."""
        shared = self._shared
        self._dial = None
        self._reused = False
        self._attempt = attempt
        self._backend = BackendConnection(shared.pool, fd, way, attempt[0], attempt[2], shared.relay.now)
        self._backend.proxy_protocol = self._request.upstream.proxy_protocol
        self._backend_mode = HEAD
        shared.poller.read(fd, self._answer_came, known)
        shared.backends.used(attempt[0], REQUEST, DIAL)
        if unsent:
            self._written_to_backend(0, unsent)
        self._touch()
        self._resume_client()

    def not_dialled(self, refused: Refused) -> None:
        """No backend can be reached."""
        self._dial = None
        self._refuse(refused)

    def _use(self, connection: BackendConnection, source: str) -> None:
        """Send the request over a connection that has served another one."""
        shared = self._shared
        self._dial = None
        self._backend = connection
        self._backend_mode = HEAD
        self._reused = True
        shared.poller.read_on(connection.fd, self._answer_came)
        shared.backends.used(connection.target, REQUEST, source)
        self._touch()
        shared.poller.defer(partial(connection.wire.write, connection.fd, self._load), self._load_sent)

    def _load_sent(self, sent: int) -> None:
        """:param sent: what a used connection took of the request, or a negative errno"""
        if self._over or self._backend is None or not self._reused:
            return
        load = self._load
        if sent != len(load):
            self._written_to_backend(sent, load)
        if not self._over:
            self._resume_client()

    def _upload_done(self) -> None:
        if self._complete and not self._to_client and not self._over:
            self._finish()

    # --- what goes wrong ----------------------------------------------------------------------------------------------

    def _backend_takes_no_more(self, error: int) -> None:
        """The backend does not take the request. It may have answered before it closed the connection: read on."""
        self._to_backend = b""
        if error != EPIPE:  # else the backend's FIN came before its reset, and behind all that it said
            self._broke = error
        if self._reused and self._repeatable and not self._head_bytes_came:
            self._try_again()
            return
        self._unwanted = True
        assert self._backend is not None
        self._watch_backend()
        if not self._over and self._backend is not None:
            self._ask_backend_again()
            self._resume_client()

    def _try_again(self) -> None:
        """The connection was closed before the request came: send it over a new one."""
        attempt = self._attempt
        self._drop_backend()
        self._to_backend = b""  # else the new connection would get that, too
        if attempt is None or self._attempts is None:  # it was a pinned one
            self._client.pinned = None
            self._attempts = self._new_attempts()
            attempt = None
        self._dial_backend(attempt)

    def _backend_failed(self, error: int) -> None:
        if self._answers():
            self._cut(BACKEND, "reset" if error else "fin")
            return
        if self._reused and self._repeatable and not self._head_bytes_came:
            self._try_again()
            return
        why = "broke off its answer" if self._head_bytes_came else "closed the connection without an answer"
        backend = self._backend
        if backend is not None and (alert := backend.wire.alert(backend.fd)):
            why = f"ended TLS: {alert}"
            if not self._reused:  # with TLS 1.3 that is how it refuses a client's certificate, or wants one
                self._shared.backends.connect_failed(backend.target, "refused_by_backend")
        elif not self._reused:  # a used connection may have been closed before the request came
            self._count_failure()
        self._refuse(Refused(502, f"the backend {why}", "connect_error"), BACKEND, "reset" if error else "fin")

    def _client_failed(self, error: int) -> None:
        if not self._over:
            self._end(self._status or CLIENT_CLOSED_REQUEST, CLIENT, "reset" if error else "fin", None)
            self._client.gone()

    def client_gone(self, error: int) -> None:
        """The client's connection ended. :param error: an errno; 0 for its end"""
        self._client_failed(error)

    def late(self) -> None:
        """The deadline has passed."""
        if self._dial is not None:
            self._dial.late()
        elif self._to_client:
            self._cut(CLIENT, "write_stall")
        elif self._to_backend:
            if not self._answers():
                self._count_failure()
            self._too_late(504, "the backend does not take the request", BACKEND, "write_stall")
        elif self._upload is not None:
            self._too_late(408, "the request's body did not come in time", CLIENT, "timeout")
        else:
            if not self._answers():
                self._count_failure()
            self._too_late(504, "the backend did not answer in time", BACKEND, "timeout")

    def divert(self, backends: Collection[int], _: int = 0) -> None:
        """As of :meth:`Dial.divert`."""
        if self._dial is not None:
            self._dial.divert(backends)

    def shut_down(self) -> None:
        """The gateway exits."""
        self._too_late(503, "this gateway is shutting down", GATEWAY, "drain")

    def _too_late(self, status: int, reason: str, initiator: str, cause: str) -> None:
        """:param status: for the client, unless its answer has begun: then that is cut"""
        if self._answers():
            self._cut(initiator, cause)
        else:
            self._refuse(Refused(status, reason, "timeout"), initiator, cause)

    def abandon(self) -> None:
        """Something in here failed: close both connections."""
        if self._over:
            self._client.abandon()  # what came next on its connection failed
        else:
            self._end(self._status or 500, GATEWAY, "failed", "the gateway failed")
            self._client.cut(True)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _release_backend(self, reusable: bool) -> None:
        """The backend's answer is complete. :param reusable: whether its connection can serve another request"""
        backend = self._backend
        if backend is None:
            return
        shared = self._shared
        client = self._client
        known = self._known
        assert known is not None
        upstream = self._request.upstream
        config = shared.config
        reusable = (
            reusable
            and self._upload is None
            and not (self._to_backend or self._unwanted or self._declined or config.draining)
            and backend.target.number in config.in_service
            and backend.way is shared.dialler.ways.of(backend.target.upstream)
        )
        if reusable and self._backend_mode != HEAD:
            shared.poller.read(backend.fd, backend.said, known=True)
        self._backend = None
        if not reusable:
            shared.pool.discard(backend)
            return
        now = shared.relay.now
        idle_ns = min(upstream.pool_idle_ns, known.idle_ns)
        if known.pins or self._request.facts.pins:
            backend.is_authenticated = True
        if not backend.is_authenticated and backend.proxy_protocol is None:
            shared.pool.put(backend, now, idle_ns, upstream.pool_size)
            return
        pinned = client.pinned
        if pinned is not None and pinned is not backend:
            if pinned.is_authenticated and pinned.fd >= 0 and not backend.is_authenticated:
                shared.pool.discard(backend)  # which is easily replaced, unlike the other
                return
            shared.pool.close(pinned)
        client.pinned = backend if shared.pool.hold(backend, now, idle_ns) else None

    def _drop_backend(self) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            self._shared.pool.discard(backend)
            if backend is self._client.pinned:
                self._client.pinned = None

    def _finish(self) -> None:
        """The answer was sent, whole."""
        keep = self._keeps_client and not self._over
        self._end(self._status, None, None, None)
        self._client.finished(keep)

    def _refuse(self, refused: Refused, initiator: str | None = None, cause: str | None = None) -> None:
        """Answer for the backend."""
        if self._over:
            return
        refused.route = self._request.route
        if self._to_client:  # a part of an interim answer: behind it this would not be one
            self._end(refused.status, initiator, cause, refused.reason)
            self._client.cut(True)
            return
        keep = (
            not self._declined and self._upload is None and self._request.facts.keep_alive and not self._client.is_last
        )
        self._end(refused.status, initiator, cause, refused.reason)
        self._client.answer(refused, keep)

    def _cut(self, initiator: str, cause: str) -> None:
        if not self._over:
            # The end of the connection would look like the end of such an answer; one without its chunks, too.
            reset = isinstance(self._body, UntilClose | Dechunker)
            self._end(self._status, initiator, cause, None)
            self._client.cut(reset)

    def _end(self, status: int, initiator: str | None, cause: str | None, reason: str | None) -> None:
        """Let go of everything but the client's connection, count and log."""
        self._over = True
        shared = self._shared
        shared.in_flight -= 1
        backend = self._backend
        target = backend.target if backend is not None else self._attempt[0] if self._attempt is not None else None
        self._drop_backend()
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        request = self._request
        if self._counted >= 0:
            shared.slice.end_request(request.route.number, self._counted)
        if self._declined:
            return
        now = shared.clock()
        started = request.started_ns
        shared.requests.ended(
            Logged(
                request.request_id,
                request.client,
                request.user,
                request.route.name,
                target.label if target is not None else None,
                request.head.method.decode("latin-1"),
                request.host,
                request.path,
                status,
                initiator,
                cause,
                reason,
                self._request_bytes,
                self._answer_bytes,
                (self._first_byte_ns - started) / 1e9 if self._first_byte_ns else None,
                (now - started) / 1e9,
            )
        )
