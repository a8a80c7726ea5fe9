"""Limits for each client address: handshakes a second, and tunnels at once (``tunnels/quotas/`` counts them).

A client without an address, on a unix socket whose peer names no client, is not limited.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Protocol

from gateway.edge.refusal import RETRY_AFTER_SECONDS
from gateway.edge.refused import Refused
from gateway.observe.seldom import Seldom
from gateway.routing.recent import Recent
from gateway.tunnels.quotas.bucket import NS, Rate
from gateway.tunnels.quotas.clients import Client
from gateway.tunnels.quotas.entries import NoRoom
from gateway.tunnels.quotas.layout import HANDSHAKES, LIMITS, TUNNELS
from gateway.tunnels.quotas.rows import CountedRows

if TYPE_CHECKING:
    from gateway.config.settings import Settings
    from gateway.edge.trust import Peer, Trust
    from gateway.observe.batch import Batch
    from gateway.observe.events import Events
    from gateway.routing.registry import Registry
    from gateway.routing.routes import Route
    from gateway.tunnels.quotas.quotas import Share
    from gateway.tunnels.table.slice import Slice

MAX_KNOWN = 1024
_REASONS = ("too many handshakes from this address", "too many tunnels from this address")

log = logging.getLogger("gateway")


class Asking(Protocol):
    """A request for an upgrade, as limits see it (``edge/request.py``)."""

    peer: Peer
    client: str
    route: Route


class Limiting:
    """The limits in force in one worker."""

    def __init__(self, share: Share, slice_: Slice, events: Events, batch: Batch) -> None:
        """:param share: of the worker that owns the slice"""
        self.most_tunnels: dict[int, int] = {}
        """for each client, by the number of a route; only of routes that have this limit"""
        self._rates: dict[int, Rate] = {}
        self._clients: Recent[tuple[int, str], Client] = Recent(MAX_KNOWN)
        """by route and address, as it was written"""
        self._share = share
        self._slot = slice_.slot
        self._trust: Trust
        self._rows = slice_.counts = CountedRows(
            share, slice_.table, slice_.slot, lambda text: self._trust.address_of(text)
        )
        self._events = events
        self._batch = batch
        self._crowded = Seldom(log.warning)
        missed = Seldom(log.warning)
        share.lock.on_missed = lambda: missed(
            "worker %d: could not lock a client's counts, as another worker has held the lock for too long; that client"
            " may exceed its limits",
            self._slot,
        )

    def use(self, settings: Settings, registry: Registry, trust: Trust) -> None:
        """Go by a configuration's limits from now on. Tunnels that exist count, too."""
        limits = {registry.route(route.name): route.limits for route in settings.routes if route.limits is not None}
        self._trust = trust
        self._rates = {
            number: Rate.of(each.handshakes.per_second, each.handshakes.burst)
            for number, each in limits.items()
            if each.handshakes is not None
        }
        self.most_tunnels = {
            number: each.tunnels_per_client for number, each in limits.items() if each.tunnels_per_client is not None
        }
        uncounted = self._rows.uncounted
        self._rows.use(self.most_tunnels.keys())
        if more := self._rows.uncounted - uncounted:
            self._crowded(
                "worker %d: no room to count %d tunnels: their clients may exceed tunnels_per_client;"
                " raise max_tunnels",
                self._slot,
                more,
            )

    def take_handshake(self, request: Asking) -> None:
        """Count an upgrade that a client asks for. :raises Refused: it has asked too often; this one does not count"""
        rate = self._rates.get(request.route.number)
        client = None if rate is None else self._client_of(request)
        if rate is None or client is None:
            return
        try:
            wait_ns = self._share.take_handshake(client, rate, time.monotonic_ns())
        except NoRoom:
            raise self._no_room(request, HANDSHAKES) from None
        if wait_ns:
            raise self._refused(request, client, HANDSHAKES, -(-wait_ns // NS))

    def take_tunnel(self, request: Asking, row: int) -> None:
        """Count a tunnel to be, until its row is released. Only for routes in :attr:`most_tunnels`.

        :param row: reserved for it
        :raises Refused: its client has too many; this one does not count
        """
        client = self._client_of(request)
        if client is None:
            return
        try:
            entry = self._share.take_tunnel(client, self.most_tunnels[request.route.number])
        except NoRoom:
            raise self._no_room(request, TUNNELS) from None
        if entry is None:
            raise self._refused(request, client, TUNNELS, RETRY_AFTER_SECONDS)
        self._rows.hold(row, entry)

    def opened(self, row: int) -> None:
        """A tunnel is open: count it if its route has got a limit since it was asked for. Nothing to do without
        :attr:`most_tunnels`."""
        self._rows.count(row)

    def _client_of(self, request: Asking) -> Client | None:
        """:returns: None for a client without an address"""
        number, peer = request.route.number, request.peer
        key = number, (request.client if peer.trusted else peer.host)
        client = self._clients.get(key)
        if client is None:
            address = self._trust.address_behind(peer, request.client)
            if address is None:
                return None
            client = Client.of(number, address)
            self._clients.keep(key, client)
        return client

    def _refused(self, request: Asking, client: Client, limit: int, seconds: int) -> Refused:
        self._share.note_limited(client, limit)
        return self._counted(request, limit, _REASONS[limit], seconds)

    def _no_room(self, request: Asking, limit: int) -> Refused:
        """Every place where this client could be counted is taken by a client with tunnels."""
        self._crowded("worker %d: refused a client, as there is no room to count it; raise max_tunnels", self._slot)
        return self._counted(request, limit, "this gateway cannot count another client now", RETRY_AFTER_SECONDS)

    def _counted(self, request: Asking, limit: int, why: str, seconds: int) -> Refused:
        self._batch.count(self._events.limited(request.route.name, LIMITS[limit]))
        reason = f"{why} ({LIMITS[limit]})"
        return Refused(429, reason, "limited", request.route, [(b"Retry-After", b"%d" % seconds)])
