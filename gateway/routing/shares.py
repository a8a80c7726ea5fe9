"""Which of a route's upstreams a client gets, where it has several: a canary and what it is to replace, for instance.

Weighted rendezvous hashing (Thaler and Ravishankar 1998): each upstream has a score for each client, made of a hash of
both and its weight, and the best one wins. A client gets the same upstream each time, in every worker and after every
restart, and on every route that has the same upstreams; when weights change, only clients move that have to.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address

from gateway.routing.balancing.scores import score
from gateway.routing.recent import Recent
from gateway.routing.upstream import Upstream

MAX_KNOWN = 4096
_HOST_BITS = 64


class Shares:
    """Upstreams with their weights."""

    def __init__(self, shares: Sequence[tuple[Upstream, int]]) -> None:
        """:param shares: upstreams and weights, one at least above 0"""
        self._shares = [(upstream, upstream.name.encode(), weight) for upstream, weight in shares if weight]
        self._known: Recent[str, Upstream] = Recent(MAX_KNOWN)

    def of(self, client: IPv4Address | IPv6Address | None) -> Upstream:
        """Return the upstream of a client. :param client: None for all those whose address is not known"""
        key = client_key(client)
        found = self._known.get(key)
        if found is None:
            found = min(self._shares, key=lambda share: score(_hash(key.encode(), share[1]), share[2]))[0]
            self._known.keep(key, found)
        return found


def client_key(client: IPv4Address | IPv6Address | None) -> str:
    """Return what is hashed: an IPv4 address, or the /64 of an IPv6 address, which a host keeps while it changes the
    rest (RFC 8981)."""
    if isinstance(client, IPv6Address):
        return str(IPv6Address(int(client) >> _HOST_BITS << _HOST_BITS))
    return "" if client is None else str(client)


def _hash(key: bytes, name: bytes) -> int:
    mixed = blake2b(b"%b\0%b" % (name, key), digest_size=8, person=b"gateway-shares").digest()
    return int.from_bytes(mixed, "little")
