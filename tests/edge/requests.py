"""Requests as the edge sees them: a head, a peer, a route."""

from ipaddress import ip_network

from gateway.config.settings import Settings
from gateway.edge.access.credentials import Credentials
from gateway.edge.access.services import Services
from gateway.edge.addresses import Addresses
from gateway.edge.in_force import InForce
from gateway.edge.refused import Refused
from gateway.edge.request import Request, examine
from gateway.edge.trust import Peer, Trust
from gateway.protocol.heads import RequestHead
from gateway.routing.registry import Registry

from ..protocol.heads import handshake, request_head
from ..routing.standing import FakeStanding
from ..routing.tables import config_of, routes_of

TRUSTED = ("10.0.0.0/8", "2001:db8::/32")
TRUST = Trust(map(ip_network, TRUSTED))
STRANGER = Peer("192.0.2.7", 5000, False)
PROXY = Peer("10.1.2.3", 6000, True)
SERVICES = Services(Credentials(lambda source: None), Addresses(), lambda route, method, result: None)
GATEWAY_ID = 0xABC
ANY = routes_of({})


def in_force(*routes, **keys) -> InForce:
    """The configuration in force in a worker. :param keys: of the file"""
    config = config_of(routes or [{}], trusted_proxies=list(TRUSTED), **keys)
    registry = Registry(100, 100)
    registry.admit(config)
    made = InForce(Registry(100, 100), FakeStanding(), GATEWAY_ID, SERVICES)
    made.use(Settings.of(config), registry, frozenset())
    return made


def examined(head: RequestHead, peer: Peer = STRANGER, routes=ANY, config: InForce | None = None) -> Request:
    """What a request asks for. :raises Refused: it cannot be served"""
    if config is None:
        config = in_force()
        config.routes = routes
    return examine(head, peer, config, 1)


def refusal(head: RequestHead, peer: Peer = STRANGER, routes=ANY, config: InForce | None = None) -> Refused:
    """Why a request is refused."""
    try:
        request = examined(head, peer, routes, config)
    except Refused as refused:
        return refused
    raise AssertionError(f"it is served: {request}")


__all__ = ["ANY", "PROXY", "STRANGER", "TRUST", "examined", "handshake", "in_force", "refusal", "request_head"]
