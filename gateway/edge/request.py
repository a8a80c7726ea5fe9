"""What a request asks for: its route, its client, the protocol to upgrade to; or why it is refused."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from gateway.edge.facts import NO_FACTS, Facts
from gateway.edge.refused import Refused
from gateway.observe.handshakes import Handshake
from gateway.protocol.heads import BadHead, RequestHead
from gateway.protocol.target import origin_form
from gateway.protocol.websocket import (
    WEBSOCKET,
    StrippedUpgrade,
    check_handshake,
    check_not_stripped,
    has_body,
    requested_upgrades,
)
from gateway.routing.routes import MAX_KNOWN_BYTES, NoRoute, NotRewritten

if TYPE_CHECKING:
    from gateway.edge.access.granted import Granted
    from gateway.edge.in_force import InForce
    from gateway.edge.trust import Peer
    from gateway.routing.rewriting import Rewritten
    from gateway.routing.routes import Route
    from gateway.routing.upstream import Upstream

MAX_REQUEST_ID = 128


@dataclass(slots=True)
class Request:
    """A request with a route."""

    head: RequestHead
    facts: Facts
    """what its fields say"""
    target: bytes
    """in origin form; the backend is sent this, unless it is rewritten"""
    rewritten: Rewritten | None
    """what the backend is sent in place of its path"""
    peer: Peer
    client: str
    host: str
    path: str
    route: Route
    upstream: Upstream
    upgrade: bytes | None
    """the protocol to upgrade to, in lower case; None for plain HTTP"""
    key: bytes | None
    """``Sec-WebSocket-Key``, where that protocol is WebSocket"""
    request_id: str
    started_ns: int
    granted: Granted | None = None
    """what its credentials have shown, where the route asks for some"""

    @property
    def user(self) -> str | None:
        """For logs: whom its credentials have shown."""
        return None if self.granted is None else self.granted.user

    def logged(self) -> Handshake:
        """What the log says of it, where it was to open a tunnel."""
        user = None if self.granted is None else self.granted.user
        values = (self.request_id, self.client, self.route.name, self.host, self.path, self.started_ns, user)
        return tuple.__new__(Handshake, values)  # the constructor of a NamedTuple is a function in Python


class Sought(NamedTuple):
    """What a head asks for."""

    route: Route
    host: str
    path: str
    rewritten: Rewritten | None
    upgrade: bytes | None


def examine(head: RequestHead, peer: Peer, config: InForce, started_ns: int) -> Request:
    """Find out what a request asks for.

    :param started_ns: ``CLOCK_MONOTONIC`` at its first byte
    :raises Refused: it cannot be served; with the answer to give
    """
    route, host, path, rewritten, upgrade = _sought(head, config)
    facts = NO_FACTS if upgrade is not None else head.facts
    if facts is None:
        facts = head.facts = Facts(head, config.underscores)
    client = config.trust.client_of(peer, head)
    upstream = route.upstream
    if upstream is None:
        assert route.shares is not None
        upstream = route.shares.of(config.trust.address_of(client))
    return Request(
        head,
        facts,
        origin_form(head.target, head.method),
        rewritten,
        peer,
        client,
        host,
        path,
        route,
        upstream,
        upgrade,
        head.first[b"sec-websocket-key"] if upgrade == WEBSOCKET else None,
        _request_id(head, peer),
        started_ns,
    )


def _sought(head: RequestHead, config: InForce) -> Sought:
    """As :func:`_seek`. What was found of a handshake holds for all that differ in key and query only."""
    recent = config.routes.sought
    if head.like is None or recent is None:
        return _seek(head, config)
    asked = head.like, head.target.partition(b"?")[0]
    found: Sought | None = recent.get(asked)
    if found is None:
        found = _seek(head, config)
        if len(asked[1]) <= MAX_KNOWN_BYTES:
            recent.keep(asked, found)
    return found


def _seek(head: RequestHead, config: InForce) -> Sought:
    """Find out what a head asks for. :raises Refused: as :func:`examine`"""
    wants = requested_upgrades(head) if b"upgrade" in head.first else []
    route = None
    try:
        route, host, path, rewritten = config.routes.find(head)
        upgrade = None
        for protocol in wants:
            if protocol in route.upgrades:
                upgrade = protocol
                break
        if upgrade == WEBSOCKET:
            check_handshake(head)
        elif wants and has_body(head) and (upgrade or WEBSOCKET in wants):
            # Servers disagree on where such a body ends, and on whether what follows is of another protocol.
            raise BadHead(400, "a request to upgrade has no body")
        elif upgrade is None:
            check_not_stripped(head)
        if config.rejects_underscores and head.has_underscore:
            raise BadHead(400, "a field whose name has an underscore")
        if b"cdn-loop" in head.first and config.loop_mark in head.items(b"cdn-loop"):
            raise BadHead(508, "this gateway has sent the request to itself")
    except StrippedUpgrade as error:
        raise Refused(error.status, str(error), "stripped_upgrade", route) from None
    except NoRoute as error:
        raise Refused(404, str(error), "no_route") from None
    except NotRewritten as error:
        raise Refused(error.status, str(error), "bad_request", error.route) from None
    except BadHead as error:
        raise Refused(error.status, str(error), "bad_request", route) from None
    return Sought(route, host, path, rewritten, upgrade)


def _request_id(head: RequestHead, peer: Peer) -> str:
    """The one that a trusted proxy gave, or a new one."""
    if peer.trusted:
        given = head.first.get(b"x-request-id", b"").decode("latin-1")
        if given and len(given) <= MAX_REQUEST_ID and given.isascii() and given.isprintable():
            return given
    if not _numbers:  # the kernel is asked for some at a time
        many = os.urandom(64 * 16).hex()
        _numbers.extend([many[at : at + 32] for at in range(0, len(many), 32)])
    return _numbers.pop()


_numbers: list[str] = []
"""random ones of 16 bytes in hexadecimal, for the next requests"""
