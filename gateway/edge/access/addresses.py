"""Which addresses may come in. The longest prefix that an address has decides."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from gateway.edge.trust import plain_network

Network = IPv4Network | IPv6Network


class Addresses:
    """The rules of a route. A lookup takes as many steps as there are different lengths of prefixes, at most 129."""

    def __init__(self, allow: Collection[Network], deny: Iterable[Network]) -> None:
        """:param allow: empty if every address is allowed that ``deny`` does not name"""
        self._otherwise = not allow
        verdicts: dict[int, dict[int, dict[int, bool]]] = {4: {}, 6: {}}
        for networks, verdict in ((allow, True), (deny, False)):
            for network in map(plain_network, networks):
                of_length = verdicts[network.version].setdefault(network.prefixlen, {})
                of_length[int(network.network_address)] = verdict
        self._verdicts = {
            version: [
                (_mask(length, bits), by_network) for length, by_network in sorted(by_length.items(), reverse=True)
            ]
            for (version, by_length), bits in zip(verdicts.items(), (32, 128), strict=True)
        }

    def allows(self, address: IPv4Address | IPv6Address | None) -> bool:
        """:param address: None if it is not known, as on a unix socket: only rules that allow every address allow it"""
        if address is None:
            return self._otherwise
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        number = int(address)
        for mask, verdicts in self._verdicts[address.version]:
            verdict = verdicts.get(number & mask)
            if verdict is not None:
                return verdict
        return self._otherwise


def _mask(length: int, bits: int) -> int:
    return (1 << bits) - (1 << (bits - length))
