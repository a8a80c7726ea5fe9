"""Which network a client's connection comes from, as a number: what is learned of one client holds for its neighbours.

A client counts by its /24 or, with IPv6, its /48; a trusted proxy by its own address, as every connection through it
shares its time-outs.
"""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_pton

from gateway.edge.trust import Peer

UNIX = 1
_IPV4 = 1 << 40
_IPV4_PROXY = 1 << 41
_IPV6 = 1 << 50
_IPV6_PROXY = 1 << 61
_LARGE_PRIME = 2**61 - 1


def network_of(peer: Peer) -> int:
    """The number of a peer's network, the same in every process; never 0, and of 62 bits at most."""
    host = peer.host
    if not host:
        return UNIX
    is_proxy = peer.trusted or not peer.is_known
    try:
        if ":" not in host:
            number = int.from_bytes(inet_pton(AF_INET, host), "big")
            return _IPV4_PROXY + number if is_proxy else _IPV4 | number >> 8
        number = int.from_bytes(inet_pton(AF_INET6, host.partition("%")[0]), "big")
        return _IPV6_PROXY + number % (_LARGE_PRIME >> 1) if is_proxy else _IPV6 | number >> 80
    except OSError:
        return UNIX
