"""The edge of one worker: its parts, put together. Nothing in this folder imports it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from errno import EAGAIN
from functools import partial
from typing import TYPE_CHECKING, Any

from gateway.edge.access.credentials import Credentials
from gateway.edge.access.services import Services
from gateway.edge.addresses import Addresses
from gateway.edge.admissions import Admissions
from gateway.edge.client import LINGER_NS, Client
from gateway.edge.clients import Clients
from gateway.edge.deadlines import Deadlines
from gateway.edge.dialling import Dialler
from gateway.edge.exchange.exchange import Exchange
from gateway.edge.exchange.shared import Exchanges
from gateway.edge.forwarding import loop_mark
from gateway.edge.handshaking import Handshaking, Handshakings
from gateway.edge.in_force import NS, InForce
from gateway.edge.limiting import Limiting
from gateway.edge.owner import Owner, Store
from gateway.edge.passage import Moving, WayIn, WayOut
from gateway.edge.pool import BackendConnection, Pool
from gateway.edge.preamble import GoOn, Preamble, Preambles
from gateway.edge.securing import Secures
from gateway.edge.tls.secrets import KeyLog
from gateway.edge.tls.turns import Turns
from gateway.edge.upgrade import Upgrade, Upgrades
from gateway.edge.ways import Way, Ways
from gateway.edge.wire.plain import PlainWire
from gateway.edge.wire.tls import TlsStream, TlsWire
from gateway.observe.backends import Backends
from gateway.observe.batch import Batch
from gateway.observe.ends import Ends
from gateway.observe.failures import Failures
from gateway.observe.handshakes import Handshakes
from gateway.observe.requests import Requests
from gateway.observe.tls import TlsHandshakes
from gateway.tunnels.table.layout import H_STARTED_UNIX_NS
from gateway.tunnels.table.standing import TableStanding

if TYPE_CHECKING:
    from gateway.config.settings import Backend, Listener, ListenerTls, Settings, UpstreamTls
    from gateway.edge.descriptors import Descriptors
    from gateway.edge.listener import Accept
    from gateway.edge.tls.names import ServerNames
    from gateway.edge.trust import Peer
    from gateway.edge.wire import Wire
    from gateway.observe.access_log import AccessLog
    from gateway.observe.events import Events
    from gateway.routing.registry import Registry
    from gateway.tunnels.quotas.quotas import Quotas
    from gateway.tunnels.relay.poller import Poller
    from gateway.tunnels.table.slice import Slice

UNUSED_SECONDS = 0.05
"""Between two looks at whether anything is left to do."""


class Edge:
    """The edge of one worker."""

    def __init__(
        self,
        poller: Poller,
        slice_: Slice,
        quotas: Quotas,
        registry: Registry,
        events: Events,
        access_log: AccessLog,
        store: Store,
        descriptors: Descriptors,
        ask_for: Callable[[str], None] = lambda source: None,
    ) -> None:
        """
        :param poller: the running loop's selector
        :param quotas: what clients use of their limits
        :param ask_for: has the supervisor fetch a key set now, by its URL
        """
        loop = asyncio.get_running_loop()
        self.poller = poller
        self.slice = slice_
        self.loop = loop
        self.descriptors = descriptors
        self.batch = Batch(loop)
        self.failures = Failures(loop)
        self.counts = events.backends
        self.addresses = Addresses()
        self.credentials = Credentials(ask_for)
        self.limiting = Limiting(quotas.share(slice_.slot), slice_, events, self.batch)
        gateway_id = slice_.table.cells[H_STARTED_UNIX_NS]
        services = Services(
            self.credentials,
            self.addresses,
            partial(self._count_auth, events),
            self.limiting.take_handshake,
            loop_mark=loop_mark(gateway_id),
        )
        table = slice_.table
        self.config = InForce(registry, TableStanding(table), gateway_id, services, table.secret())
        self.handshakes = Handshakes(events, self.batch, access_log)
        self.requests = Requests(events, self.batch, access_log)
        self.owner = Owner(
            slice_, poller.relay, store, Ends(slice_.table, registry, events, self.batch), self.batch, self.handshakes
        )
        poller.relay.owner = self.owner
        self.deadlines = Deadlines(loop)
        poller.on_failure = self.deadlines.on_failure = events.connection_faults.inc
        wire = PlainWire(poller.kernel)
        self.tls_wire = TlsWire(poller)
        turns = Turns(poller)
        key_log = KeyLog()
        reports = TlsHandshakes(events, self.batch, self.handshakes)
        self.ways = Ways(wire, self.tls_wire, key_log)
        secures = Secures(poller, self.tls_wire, turns, reports)
        dialler = Dialler(poller, descriptors, Backends(events, self.batch, slice_, self.failures), self.ways, secures)
        self.pool = Pool(poller, loop, slice_.idle_connections)
        exchanges = Exchanges(poller, wire, self.config, dialler, self.addresses, self.pool, slice_, self.requests)
        upgrades = Upgrades(
            poller,
            wire,
            self.config,
            self.limiting,
            dialler,
            self.addresses,
            slice_,
            self.owner,
            self.handshakes,
            exchanges,
        )
        self.clients = Clients(
            poller, wire, self.config, self.deadlines, exchanges, upgrades, self.handshakes, self.requests
        )
        self._preambles = Preambles(self.clients)
        self.admissions = Admissions()
        self.tls = Handshakings(self.clients, self.tls_wire, turns, key_log, reports)

    @property
    def log(self) -> AccessLog:
        """The access log."""
        return self.handshakes.log

    @log.setter
    def log(self, log: AccessLog) -> None:
        self.handshakes.log = self.requests.log = log

    def _count_auth(self, events: Events, route: str, method: str, result: str) -> None:
        self.batch.count(events.auth(route, method, result))

    # --- configuration ------------------------------------------------------------------------------------------------

    def configure(self, config: Settings, registry: Registry, drained_backends: frozenset[int]) -> None:
        """Put a configuration in force for every request from now on. Tunnels are not touched.

        :param registry: has numbers for all of its names
        :param drained_backends: numbers of those that get nothing new
        """
        self.owner.keep_backends(self.config.drained_backends - drained_backends)
        self.credentials.use(config.credentials)
        self.failures.use(config.upstreams)
        self.config.use(config, registry, drained_backends)
        self.counts.keep(set(registry.backends))
        self.limiting.use(config, registry, self.config.trust)
        self.owner.use(self.config.routes)
        for client in self._clients():
            client.peer = self.config.trust.again(client.peer)
        self.clients.known_fields.clear()
        self._drop_idle()

    def use_names(self, names: Mapping[str, Sequence[str]]) -> None:
        """Dial these addresses from now on. :param names: IP addresses by name, best first; all that are known"""
        self.addresses.use(names)

        def still_there(connection: BackendConnection) -> bool:
            known = self.addresses.of(connection.target.address)
            return not known or any(address == connection.address for _, address in known)

        self.pool.keep_only(still_there)

    def use_backends(
        self, upstreams: Mapping[str, tuple[Backend, ...]], registry: Registry, drained_backends: frozenset[int]
    ) -> None:
        """Choose among other backends from now on. Tunnels and requests in flight are not touched.

        :param upstreams: those that have other backends now
        :param registry: has numbers for all of them
        :param drained_backends: numbers of those that get nothing new
        """
        self.owner.keep_backends(self.config.drained_backends - drained_backends)
        new = drained_backends - self.config.drained_backends
        reused = self.config.use_backends(upstreams, registry, drained_backends)
        self.counts.keep(set(registry.backends))
        self._drop_idle()
        self._divert(new)
        if reused:
            self.pool.keep_only(lambda connection: connection.target.number not in reused)

    def drain_backends(self, backends: frozenset[int], period_seconds: float, code: int) -> None:
        """Send backends nothing new from now on, and close their tunnels, one after another over a period."""
        self.config.drain_backends(backends)
        self.owner.drain_backends(backends, period_seconds, code)
        self._drop_idle()
        self._divert(backends)

    def _divert(self, backends: frozenset[int]) -> None:
        """Have what is being connected to these backends go to others. What they were sent already, they may answer."""
        if not backends:
            return
        for client in self._clients():
            if isinstance(client.task, Upgrade | Exchange):
                # Connections of this turn are begun by calls that were deferred before.
                self.poller.defer(int, partial(client.task.divert, backends))

    def rebalance(self, upstream: str, turns: Iterable[tuple[int, int]], code: int, settles_until_ns: int) -> None:
        """Close tunnels in their turn, and send new ones of the upstream where the fewest are until then.

        :param turns: ids of tunnels, and when each is closed (``CLOCK_MONOTONIC``)
        """
        if settles_until_ns and (found := self.config.routes.upstreams.get(upstream)) is not None:
            found.settle(settles_until_ns)
        self.owner.close_in_turn(dict(turns), code)

    def keep_backends(self, backends: frozenset[int]) -> None:
        """Backends that were drained are in service again."""
        self.owner.keep_backends(backends)
        self.config.keep_backends(backends)

    def use_ways(self, prepared: dict[str, tuple[UpstreamTls, Way]]) -> None:
        """Connect to backends like this from now on. :param prepared: by ``ways.prepare``"""
        self.ways.use(prepared)
        self._drop_idle()

    def _drop_idle(self) -> None:
        """Close idle connections to backends that get nothing any more, and those made with other options of TLS."""
        in_service, ways = self.config.in_service, self.ways
        self.pool.keep_only(
            lambda connection: (
                connection.target.number in in_service and connection.way is ways.of(connection.target.upstream)
            )
        )

    # --- clients ------------------------------------------------------------------------------------------------------

    def prepare(self, listen: Iterable[Listener]) -> dict[ListenerTls, ServerNames]:
        """Make what listeners with TLS need, for :meth:`use_tls`. Nothing changes yet.

        :raises OSError: OpenSSL does not take a certificate, or descriptors are short
        """
        return self.tls.prepare(listener.tls for listener in listen if listener.tls is not None)

    def use_tls(self, prepared: dict[ListenerTls, ServerNames], listen: Iterable[Listener]) -> None:
        """Put listeners in force. Connections that they would not let in as they were carry no further request.

        :param prepared: by :meth:`prepare`, for these listeners
        """
        self.tls.use(prepared)
        if self.admissions.use(listen):
            for connection in self._connections():
                # Where a PROXY header has not come yet, TLS goes by what is in force when it has.
                if not isinstance(connection, Preamble) and not self.admissions.holds(connection.fd, connection.peer):
                    self.poller.call(connection.outdated)

    def entrance(self, listener: Listener) -> Accept:
        """How the connections at a listener are served: what it calls with each of them. Its TLS is in use."""
        serve = self._serve if listener.tls is None else self.tls.entrance(listener.address, listener.tls)
        if listener.proxy_protocol:
            return self._preambles.entrance(serve)
        return self.accept if listener.tls is None else partial(self._accept, serve)

    def _accept(self, serve: GoOn, fd: int, address: object, received: bytes | int) -> None:
        serve(fd, self.config.trust.peer(address), received)

    def accept(self, fd: int, address: object, received: bytes | int) -> None:
        """Serve a connection.

        :param fd: non-blocking
        :param address: of its peer, as ``accept()`` gives it
        :param received: what has come on it already, or an errno
        """
        self._serve(fd, self.config.trust.peer(address), received)

    def _serve(self, fd: int, peer: Peer, received: bytes | int, wire: Wire | None = None) -> Client:
        """Serve a connection. What goes wrong with it ends it, and no other one."""
        client = Client(self.clients, fd, peer, wire)
        self.poller.give(fd, client.start, received)
        return client

    def drain(self, period_seconds: float, code: int) -> None:
        """Refuse what is new from now on, and close every tunnel, one after another over a period."""
        self.config.draining = True
        self.owner.drain(period_seconds, code)

    async def finish_requests(self, seconds: float) -> None:
        """Close connections that are idle, give requests in flight so long to finish, and end those that do not."""
        if await self._in_flight_until(time.monotonic() + seconds):
            for connection in self._connections():
                connection.shut_down()
            await self._in_flight_until(time.monotonic() + LINGER_NS / NS)

    async def _in_flight_until(self, give_up: float) -> bool:
        """Close connections as they become idle. :returns: whether some are left when the time is up"""
        # An event for each reason would cost every request.
        while left := self.close_idle():
            if time.monotonic() >= give_up:
                break
            await asyncio.sleep(UNUSED_SECONDS)
        return left

    def close_idle(self) -> bool:
        """Close clients' connections on which nothing is under way. True if there are others."""
        left = False
        for connection in self._connections():
            left = not connection.close_if_idle() or left
        return left

    def _connections(self) -> list[Client | Preamble | Handshaking]:
        """Clients' connections, and those on which no client is known or whose handshake is under way."""
        return [waiting for waiting in self.deadlines.all() if isinstance(waiting, Client | Preamble | Handshaking)]

    def _clients(self) -> list[Client]:
        """Those that have a connection now."""
        return [waiting for waiting in self.deadlines.all() if isinstance(waiting, Client)]

    # --- an upgrade ---------------------------------------------------------------------------------------------------

    def take_in(self, sock: socket.socket) -> None:
        """Serve the connections that the worker before sends. :param sock: owned by the edge from now on"""
        WayIn(self.poller, sock, self._take_in)

    def _take_in(self, fd: int, peer: list[Any], tls: list[Any] | None, read: bytes) -> None:
        wire = None
        if tls is not None:
            wire = self.tls_wire
            wire.attach(fd, TlsStream.unpacked(tls))
        unpacked = self.config.trust.unpacked(peer)
        # A worker of a version that does not say by what it has let a client in has let it in by a certificate.
        if not self.admissions.holds(fd, unpacked) and (unpacked.admission or not unpacked.certificate_fields):
            Client(self.clients, fd, unpacked, wire).outdated()
            return
        client = self._serve(fd, unpacked, read or EAGAIN, wire)
        if not read:
            client.deadline_ns = self.poller.relay.now + self.config.http_idle_ns

    async def until_unused(self, way_out: socket.socket | None) -> None:
        """Wait until no request, handshake or tunnel is left. Nothing new is accepted meanwhile.

        :param way_out: where clients' connections go between two requests; without it they are closed then
        """
        if way_out is None:
            while self.close_idle() or self.slice.rows_in_use:  # noqa: ASYNC110  # as above
                await asyncio.sleep(UNUSED_SECONDS)
            return
        moving = Moving(self.loop, WayOut(way_out))
        self.clients.on_rest = moving.note
        while True:
            moving.move(self._clients())
            if not len(self.deadlines) and not self.slice.rows_in_use:
                break
            await asyncio.sleep(UNUSED_SECONDS)
        moving.close()

    async def close(self) -> None:
        """Stop everything that is not a tunnel."""
        self.deadlines.close()
        for waiting in self.deadlines.all():
            with contextlib.suppress(Exception):
                waiting.abandon()
        self.pool.close_all()
