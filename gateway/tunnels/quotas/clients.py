"""Clients, as quotas tell them apart: by route, and by IPv4 address or IPv6 prefix of 64 bits.

A host with IPv6 has a whole /64 to choose its addresses from (RFC 4291 section 2.5.1, RFC 8981), so one address of it
means nothing.
"""

from __future__ import annotations

from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import NamedTuple

Address = IPv4Address | IPv6Address
IPV4, IPV6 = 4, 6
_FAMILY_BITS = 8


class Client(NamedTuple):
    """A client of a route: two cells."""

    kind: int
    """the route's number and the family; never 0"""
    prefix: int
    """IPv4 address, or the upper 64 bits of an IPv6 address"""

    @classmethod
    def of(cls, route: int, address: Address) -> Client:
        """
        :param route: its number in the registry
        :param address: IPv4 in IPv6 counts as IPv4
        """
        if isinstance(address, IPv6Address):
            mapped = address.ipv4_mapped
            if mapped is None:
                return cls((route + 1) << _FAMILY_BITS | IPV6, int(address) >> 64)
            address = mapped
        return cls((route + 1) << _FAMILY_BITS | IPV4, int(address))

    @property
    def route(self) -> int:
        """The number of its route."""
        return (self.kind >> _FAMILY_BITS) - 1

    def __str__(self) -> str:
        if self.kind & ((1 << _FAMILY_BITS) - 1) == IPV4:
            return str(IPv4Address(self.prefix & 0xFFFFFFFF))
        return str(IPv6Network((self.prefix << 64, 64)))

    def hashed(self, secret: bytes) -> int:
        """A hash of 64 bits. Without the secret nobody can choose addresses whose hashes have anything in common."""
        data = self.kind.to_bytes(8, "little") + self.prefix.to_bytes(8, "little")
        return int.from_bytes(blake2b(data, digest_size=8, key=secret).digest(), "little")
