"""Requests as the edge sees them: a head, a peer, a route."""

from ipaddress import ip_network

from gateway.edge.request import Peer, Refused, Request, Trust, examine
from gateway.protocol.http import RequestHead

from ..protocol.heads import handshake, request_head
from ..routing.tables import routes_of

TRUST = Trust((ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")))
STRANGER = Peer("192.0.2.7", 5000, False)
PROXY = Peer("10.1.2.3", 6000, True)
ANY = routes_of({})


def examined(head: RequestHead, peer: Peer = STRANGER, routes=ANY) -> Request:
    """What a request asks for. :raises Refused: it cannot be served"""
    return examine(head, peer, TRUST, routes)


def refusal(head: RequestHead, peer: Peer = STRANGER, routes=ANY) -> Refused:
    """Why a request is refused."""
    try:
        request = examined(head, peer, routes)
    except Refused as refused:
        return refused
    raise AssertionError(f"it is served: {request}")


__all__ = ["ANY", "PROXY", "STRANGER", "TRUST", "examined", "handshake", "refusal", "request_head"]
