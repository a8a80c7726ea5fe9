"""Plain HTTP beside the tunnels: aiohttp serves the client's connection and asks the backend, streaming both ways.

A connection comes here with its first request if that is no upgrade, bytes and all. An upgrade that follows on a
kept-alive connection leaves aiohttp again, for the same path that a first one takes.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from aiohttp import (
    ClientConnectorDNSError,
    ClientConnectorError,
    ClientError,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    TCPConnector,
    UnixConnector,
    web,
)
from aiohttp.http import HttpVersion10, HttpVersion11
from yarl import URL

from gateway.edge.descriptors import EXHAUSTED
from gateway.edge.forwarding import fields_to_backend
from gateway.edge.plain_client import FIELDS, INTERIM, BackendRequest, BackendResponse, Interim
from gateway.edge.plain_fields import decoded, write_fields_as_they_came
from gateway.edge.plain_server import CHUNK_BYTES, Connection, Nothing, Refusal, RelayedResponse, Tail
from gateway.edge.refusal import refusal_bytes, refusal_fields
from gateway.edge.request import Peer, Refused, Request, examine
from gateway.edge.upgrade import Upgrade
from gateway.observe.access_log import Form
from gateway.observe.events import NO_ROUTE
from gateway.protocol.http import (
    MAX_HEAD_BYTES,
    BadHead,
    RequestHead,
    check_request,
)
from gateway.protocol.target import origin_form
from gateway.protocol.websocket import has_body, requested_upgrades
from gateway.routing.balancing import Target
from gateway.tunnels.table.layout import NEVER, SECOND

if TYPE_CHECKING:
    from gateway.config.address import Address
    from gateway.edge.edge import Edge

HTTP = Form(
    "http",
    request_id="%s",
    client="%s",
    route="%s",
    method="%s",
    host="%s",
    path="%s",
    status="%d",
    bytes="%d",
    duration="%s",
)
BACKEND_KEEPALIVE_SECONDS = 15.0
CANCEL_SECONDS = 0.25
"""For requests that are cut, to be told so."""


class PlainHTTP:
    """The HTTP server and client of one worker."""

    def __init__(self, edge: Edge) -> None:
        write_fields_as_they_came()
        self._edge = edge
        self.server = web.Server(self._serve, handler_cancellation=True)
        self._sessions: dict[str | None, ClientSession] = {}
        self._in_flight = 0
        self._none_in_flight = asyncio.Event()

    def adopt(self, sock: socket.socket, peer: Peer, received: bytes) -> None:
        """Serve a connection from its first request on. :param received: what has been read of it"""
        self._edge.spawn(self._adopt(sock, peer, received))

    async def _adopt(self, sock: socket.socket, peer: Peer, received: bytes) -> None:
        loop = self._edge.loop
        try:
            await loop.connect_accepted_socket(lambda: Connection(self, peer, received, loop), sock)
        except OSError:
            sock.close()

    async def finish(self) -> None:
        """Close connections that are idle now, the others when they have had their answer, and wait for these."""
        self.server.pre_shutdown()
        while self._in_flight:
            self._none_in_flight.clear()
            await self._none_in_flight.wait()

    def close_idle(self) -> bool:
        """Close connections that are idle. True if there are others; these are closed when they have their answer."""
        self.server.pre_shutdown()
        for connection in list(self.server.connections):
            assert isinstance(connection, Connection)
            connection.close_if_idle()
        return bool(self.server.connections)

    async def close(self) -> None:
        """Close every connection."""
        await self.server.shutdown(CANCEL_SECONDS)
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    # --- connections that are kept alive ---------------------------------------------------------------------------

    def expect_head(self, connection: Connection) -> None:
        """Give a connection the time for a head."""
        edge = self._edge
        connection.deadline_ns = time.monotonic_ns() + int(edge.config.request_head * SECOND)
        edge.waiting.add(connection)

    def forget(self, connection: Connection) -> None:
        """Expect nothing of a connection any more."""
        if connection.deadline_ns != NEVER:
            connection.deadline_ns = NEVER
            self._edge.waiting.discard(connection)

    def refused_late(self, connection: Connection, refused: Refused) -> None:
        """Tell of a head that did not come in time."""
        self.forget(connection)
        self._told(connection.peer, None, NO_ROUTE, RequestHead(), refused.status, 0)

    # --- one request -----------------------------------------------------------------------------------------------

    async def _serve(self, incoming: web.BaseRequest) -> web.StreamResponse:
        self._in_flight += 1
        try:
            return await self._respond(incoming)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._none_in_flight.set()

    async def _respond(self, incoming: web.BaseRequest) -> web.StreamResponse:
        edge = self._edge
        connection = incoming.protocol
        assert isinstance(connection, Connection)
        head = _head_of(incoming)
        started = time.monotonic_ns()
        if not HttpVersion10 <= incoming.version <= HttpVersion11:
            return self._refuse_version(connection, head)
        try:
            try:
                if head.size > MAX_HEAD_BYTES:
                    raise BadHead(431, f"request head over {MAX_HEAD_BYTES} bytes")
                check_request(head)
            except BadHead as error:
                raise Refused(error.status, str(error), "bad_request") from None
            request = examine(head, connection.peer, edge.trust, edge.routes, started)
            if edge.draining:
                raise Refused(503, "this gateway is shutting down", "unavailable", request.route)
            if request.upgrade is not None:
                return await self._upgrade(incoming, request)
            if not request.route.proxies_http:
                raise Refused(426, "only WebSocket is served here", "bad_request", request.route)
        except Refused as refused:
            return self._refuse(incoming, head, refused, started)
        return await self._proxy(incoming, request)

    def _refuse(
        self, incoming: web.BaseRequest, head: RequestHead, refused: Refused, started_ns: int
    ) -> web.StreamResponse:
        edge = self._edge
        connection = incoming.protocol
        assert isinstance(connection, Connection)
        if requested_upgrades(head) or b"sec-websocket-key" in head.first:
            edge.count_handshake(refused.route, refused.result, started_ns)
            edge.log_refusal(str(connection.peer), refused)
        else:
            self._told(
                connection.peer,
                None,
                refused.route.name if refused.route else NO_ROUTE,
                head,
                refused.status,
                0,
            )
        # What is left of a body that nobody wants would only be read to be thrown away.
        return _refusal(refused, close=has_body(head) or refused.status == 400 or edge.draining)

    def _refuse_version(self, connection: Connection, head: RequestHead) -> web.StreamResponse:
        """Refuse a version of HTTP that aiohttp would answer in."""
        self._told(connection.peer, None, NO_ROUTE, head, 505, 0)
        if connection.transport is not None:
            connection.transport.write(refusal_bytes(505, "only HTTP/1.1 and HTTP/1.0 are spoken here"))
        return Nothing()

    def _told(self, peer: Peer, request: Request | None, route: str, head: RequestHead, status: int, sent: int) -> None:
        edge = self._edge
        edge.events.route(route).http_requests(str(status)).inc()
        if edge.log.enabled:
            values = (
                request.request_id if request else None,
                request.client if request else str(peer),
                None if route == NO_ROUTE else route,
                head.method.decode("latin-1"),
                request.host if request else head.first.get(b"host", b"").decode("latin-1"),
                request.path if request else head.target.decode("latin-1"),
                status,
                sent,
                round((time.monotonic_ns() - request.started_ns) / 1e9, 6) if request else None,
            )
            edge.log.write(HTTP, values)

    async def _upgrade(self, incoming: web.BaseRequest, request: Request) -> web.StreamResponse:
        """Take a connection out of aiohttp's hands: the upgrade gets a socket of its own to it."""
        transport = incoming.transport
        if transport is None:
            raise ConnectionResetError
        try:
            fd = os.dup(transport.get_extra_info("socket").fileno())
        except OSError as error:
            raise self._edge.descriptors.refusal(error, request.route) from None
        transport.pause_reading()
        # What earlier responses on this connection have not sent yet goes first.
        transport.set_write_buffer_limits(0)
        try:
            await incoming.writer.drain()
        except BaseException:
            os.close(fd)
            raise
        tail = Tail()
        incoming.protocol.set_parser(tail)  # type: ignore[arg-type]  # it only calls feed_data
        Upgrade(self._edge, fd, request, bytes(tail.received), watched=False)
        return Nothing()

    # --- proxying --------------------------------------------------------------------------------------------------

    async def _proxy(self, incoming: web.BaseRequest, request: Request) -> web.StreamResponse:
        """Ask backends in turn until one can be reached, and relay its answer."""
        tried: tuple[Target, ...] = ()
        upstream = request.route.upstream
        failure = Refused(503, "no backend", "unavailable", request.route)
        while len(tried) <= upstream.connect_retries:
            target = upstream.policy.pick(None, tried, brief=True)
            if target is None:
                break
            tried += (target,)
            try:
                return await self._ask(incoming, request, target)
            except ConnectionTimeoutError:
                self._edge.connect_failed(target, "timeout")
                failure = Refused(504, "the backend did not accept the connection in time", "timeout", request.route)
            except ClientConnectorDNSError:
                self._edge.connect_failed(target, "unresolved")
                failure = Refused(502, "the backend's name does not resolve", "connect_error", request.route)
            except ClientConnectorError as error:
                if error.os_error.errno in EXHAUSTED:
                    failure = self._edge.descriptors.refusal(error.os_error, request.route)
                    break
                self._edge.connect_failed(target, (os.strerror(error.os_error.errno or 0)).lower().replace(" ", "_"))
                failure = Refused(502, "the backend cannot be reached", "connect_error", request.route)
            except ClientError as error:
                failure = Refused(502, f"the backend's answer: {error}", "connect_error", request.route)
                break
        self._told(request.peer, request, request.route.name, request.head, failure.status, 0)
        return _refusal(failure, close=has_body(request.head))

    async def _ask(self, incoming: web.BaseRequest, request: Request, target: Target) -> web.StreamResponse:
        """Send a request to a backend and relay its answer.

        :raises ClientError: before anything was sent to the client
        :raises ConnectionError: the answer broke off, or the client takes nothing: both connections are to be closed
        """
        head = request.head
        timeouts = request.route.timeouts
        wants_continue = head.http11 and head.first.get(b"expect", b"").lower() == b"100-continue"
        body = _body(incoming, wants_continue) if has_body(head) else None
        session = self._session(target.address)
        authority = "localhost" if target.address.path is not None else target.label
        target_sent = origin_form(head.target, head.method).decode("utf-8", "surrogateescape")
        if target_sent == "*":
            target_sent = "/"  # aiohttp cannot send any other
        FIELDS.set(decoded(fields_to_backend(request)))
        INTERIM.set(_interim_to(incoming) if head.http11 else None)
        async with session.request(
            incoming.method,
            URL(f"http://{authority}{target_sent}", encoded=True),
            data=body,
            allow_redirects=False,
            timeout=ClientTimeout(total=None, sock_connect=timeouts.connect),
        ) as answer:
            self._edge.connect_succeeded(target)
            response = RelayedResponse(answer)
            sent = 0
            try:
                await response.prepare(incoming)
                if not response.is_empty:
                    async for data in answer.content.iter_any():
                        async with asyncio.timeout(timeouts.write_stall):
                            await response.write(data)
                        sent += len(data)
                await response.write_eof()
            except (ClientError, TimeoutError) as error:
                # The answer broke off. The client must see that: a connection that is cut, not an end that looks whole.
                if incoming.transport is not None:
                    incoming.transport.abort()
                raise ConnectionResetError(f"the backend's answer broke off: {error}") from None
            finally:
                self._told(request.peer, request, request.route.name, head, answer.status, sent)
            return response

    def _session(self, address: Address) -> ClientSession:
        """The pool of connections for an address: one for all TCP addresses, one for each unix socket."""
        session = self._sessions.get(address.path)
        if session is None:
            connector: UnixConnector | TCPConnector
            if address.path is not None:
                connector = UnixConnector(address.path, limit=0, keepalive_timeout=BACKEND_KEEPALIVE_SECONDS)
            else:
                connector = TCPConnector(limit=0, keepalive_timeout=BACKEND_KEEPALIVE_SECONDS, ttl_dns_cache=30)
            session = self._sessions[address.path] = ClientSession(
                connector=connector,
                cookie_jar=DummyCookieJar(),
                auto_decompress=False,
                request_class=BackendRequest,
                response_class=BackendResponse,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                read_bufsize=CHUNK_BYTES,
                max_line_size=MAX_HEAD_BYTES,
                max_field_size=MAX_HEAD_BYTES,
                timeout=ClientTimeout(total=None),
            )
        return session


def _head_of(incoming: web.BaseRequest) -> RequestHead:
    head = RequestHead(incoming.raw_headers)
    head.method = incoming.method.encode("latin-1", "replace")
    head.target = incoming.raw_path.encode("utf-8", "surrogateescape")
    head.http11 = incoming.version >= (1, 1)
    head.size = sum(len(name) + len(value) + 4 for name, value in incoming.raw_headers)
    return head


def _refusal(refused: Refused, close: bool) -> web.StreamResponse:
    text = refusal_bytes(refused.status, refused.reason).partition(b"\r\n\r\n")[2].decode()
    response = Refusal(status=refused.status, text=text)
    for name, value in refusal_fields(refused.status):
        response.headers.add(name.decode(), value.decode())
    if refused.status == 426:
        response.headers["Connection"] = "Upgrade"
    if close:
        response.force_close()
    return response


async def _body(incoming: web.BaseRequest, wants_continue: bool) -> Any:
    """The request's body as it comes. The client is asked for it when the backend wants it."""
    if wants_continue:
        await incoming.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        incoming.writer.output_size = 0
    async for data in incoming.content.iter_any():
        yield data


def _interim_to(incoming: web.BaseRequest) -> Interim:
    async def send(data: bytes) -> None:
        await incoming.writer.write(data)
        incoming.writer.output_size = 0

    return send
