"""Which network a client's connection comes from, as a number: what is learned of one client holds for its neighbours.

A client counts by its /24 or, with IPv6, its /48; a trusted proxy by its own address, as every connection through it
shares its time-outs.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

from gateway.edge.request import Peer

UNIX = 1
_IPV4 = 1 << 40
_IPV4_PROXY = 1 << 41
_IPV6 = 1 << 50
_IPV6_PROXY = 1 << 61
_LARGE_PRIME = 2**61 - 1


def network_of(peer: Peer) -> int:
    """The number of a peer's network, the same in every process; never 0, and of 62 bits at most."""
    if not peer.host:
        return UNIX
    try:
        address = ip_address(peer.host.partition("%")[0])
    except ValueError:
        return UNIX
    number = int(address)
    if isinstance(address, IPv6Address):
        return _IPV6_PROXY + number % (_LARGE_PRIME >> 1) if peer.trusted else _IPV6 | number >> 80
    return _IPV4_PROXY + number if peer.trusted else _IPV4 | number >> 8
