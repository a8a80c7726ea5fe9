"""What a request asks for: its route, its client, the protocol to upgrade to; or why it is refused."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.edge.trust import Peer as Peer
from gateway.edge.trust import Trust as Trust
from gateway.protocol.http import BadHead, RequestHead
from gateway.protocol.websocket import (
    WEBSOCKET,
    StrippedUpgrade,
    check_handshake,
    check_not_stripped,
    has_body,
    requested_upgrades,
)
from gateway.routing.routes import NoRoute, Route, Routes

MAX_REQUEST_ID = 128


class Refused(Exception):
    """A request that the gateway answers itself."""

    def __init__(self, status: int, reason: str, result: str, route: Route | None = None) -> None:
        """
        :param reason: what the client is told
        :param result: the ``result`` label of ``gateway_handshakes_total``
        """
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.result = result
        self.route = route


@dataclass(slots=True)
class Request:
    """A request with a route."""

    head: RequestHead
    peer: Peer
    client: str
    host: str
    path: str
    route: Route
    upgrade: bytes | None
    """the protocol to upgrade to, in lower case; None for plain HTTP"""
    key: bytes | None
    """``Sec-WebSocket-Key``, where that protocol is WebSocket"""
    request_id: str
    started_ns: int


def examine(head: RequestHead, peer: Peer, trust: Trust, routes: Routes, started_ns: int | None = None) -> Request:
    """Find out what a request asks for.

    :raises Refused: it cannot be served; with the answer to give
    """
    wants = requested_upgrades(head) if b"upgrade" in head.first else []
    route = None
    try:
        route, host, path = routes.find(head)
        upgrade = key = None
        for protocol in wants:
            if protocol in route.upgrades:
                upgrade = protocol
                break
        if upgrade == WEBSOCKET:
            key = check_handshake(head)
        elif wants and has_body(head) and (upgrade or WEBSOCKET in wants):
            # Servers disagree on where such a body ends, and on whether what follows is of another protocol.
            raise BadHead(400, "a request to upgrade has no body")
        elif upgrade is None:
            check_not_stripped(head)
    except StrippedUpgrade as error:
        raise Refused(error.status, str(error), "stripped_upgrade", route) from None
    except NoRoute as error:
        raise Refused(404, str(error), "no_route") from None
    except BadHead as error:
        raise Refused(error.status, str(error), "bad_request", route) from None
    return Request(
        head=head,
        peer=peer,
        client=trust.client_of(peer, head),
        host=host,
        path=path,
        route=route,
        upgrade=upgrade,
        key=key,
        request_id=_request_id(head, peer),
        started_ns=time.monotonic_ns() if started_ns is None else started_ns,
    )


def _request_id(head: RequestHead, peer: Peer) -> str:
    """The one that a trusted proxy gave, or a new one."""
    if peer.trusted:
        given = head.first.get(b"x-request-id", b"").decode("latin-1")
        if given and len(given) <= MAX_REQUEST_ID and given.isascii() and given.isprintable():
            return given
    return next(_numbers)


def _random_numbers() -> Iterator[str]:
    """Numbers of 16 bytes in hexadecimal; the kernel is asked for some at a time."""
    while True:
        many = os.urandom(64 * 16).hex()
        yield from (many[at : at + 32] for at in range(0, len(many), 32))


_numbers = _random_numbers()
