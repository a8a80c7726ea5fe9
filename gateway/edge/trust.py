"""Who is at the other end of a client's connection, and whose word on who the client is counts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.protocol.heads import RequestHead
from gateway.routing.recent import Recent

if TYPE_CHECKING:
    from gateway.protocol.proxy import Endpoint, Header

Network = IPv4Network | IPv6Network
_MAX_KNOWN = 1024
_LONGEST_HOST = 64
"""An IPv6 address has 45 characters at most, and a zone on this system 15 more, behind a ``%``."""

_IPV4_IN_IPV6 = IPv6Network("::ffff:0:0/96")
_WITH_PORT = re.compile(r"([^:\[\]]+):[0-9]{1,5}")
_BRACKETED = re.compile(r"\[([^\[\]]+)\](?::[0-9]{1,5})?")


@dataclass(slots=True)
class Peer:
    """The other end of a client's connection."""

    host: str
    """its address; empty on a unix socket"""
    port: int
    trusted: bool
    """whether its X-Forwarded-* are believed"""
    is_tls: bool = False
    """whether it speaks TLS with this gateway"""
    certificate_fields: bytes = b""
    """what its certificate says, as lines of a head (``tls/peers.py``); nothing without one"""
    destination: Endpoint | None = None
    """where it connected to, if a PROXY header said so; None for the connection's own address"""
    is_known: bool = True
    """whether the address is the client's own; False behind a PROXY header without one, where it is the proxy's"""
    admission: str = ""
    """what it was let in by, where it was asked for a certificate (``admissions.py``)"""

    def packed(self) -> list[object]:
        """What :meth:`Trust.unpacked` takes, in another process too: plain JSON data."""
        certificate = self.certificate_fields.decode("latin-1")
        packed: list[object] = [self.host, self.port, self.destination, self.is_known, self.is_tls, certificate]
        # Only where there is one: an earlier version, in an upgrade back to it, does not expect it.
        return [*packed, self.admission] if self.admission else packed

    def __str__(self) -> str:
        if not self.host:
            return "unix"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Host(NamedTuple):
    """An address, whichever way it was written."""

    text: str
    """canonical: an IPv4 address in IPv6 as IPv4, without a zone (RFC 5952)"""
    trusted: bool
    address: IPv4Address | IPv6Address


class Trust:
    """Which peers are proxies of the operator's."""

    def __init__(self, networks: Iterable[Network]) -> None:
        """:param networks: of trusted proxies; IPv4 networks written as IPv6 are taken for what they are"""
        self._networks = tuple(map(plain_network, networks))
        self._known: Recent[str, Host] = Recent(_MAX_KNOWN)

    def peer(self, address: object) -> Peer:
        """Describe a peer by its address and port, or whatever else stands for it on a unix socket."""
        if not isinstance(address, tuple):
            # A process that may connect to a unix socket is on this machine, with the operator's permission.
            return Peer("", 0, True)
        host: str = address[0]
        if host.startswith("::ffff:") and "." in host:
            host = host[7:]
        return Peer(host, address[1], bool(self._networks) and self.trusts(host))

    def behind(self, proxy: Peer, header: Header) -> Peer:
        """Describe the peer that a PROXY header names.

        :param proxy: a trusted one, which has sent the header
        """
        if header.is_local:
            return proxy
        if header.source is None:
            # Logs show the proxy's address, but somebody else is speaking, whose X-Forwarded-* count for nothing.
            return Peer(proxy.host, proxy.port, False, is_known=False)
        host, port = header.source
        return Peer(host, port, self.trusts(host), destination=header.destination)

    def again(self, peer: Peer) -> Peer:
        """Describe a peer that another configuration's trust has described."""
        return self.unpacked(peer.packed())

    def unpacked(self, packed: list[Any]) -> Peer:
        """Describe a peer that was packed by :meth:`Peer.packed`."""
        host, port, destination, is_known, is_tls, certificate, *admission = packed
        peer = self.peer((host, port) if host else None)
        peer.is_tls = is_tls
        peer.certificate_fields = certificate.encode("latin-1")
        peer.admission = admission[0] if admission else ""
        if destination is not None:
            peer.destination = (destination[0], destination[1])
        if not is_known:
            peer.is_known = peer.trusted = False
        return peer

    def trusts(self, host: str) -> bool:
        """Whether an address, in any spelling, is one of a trusted proxy."""
        known = self._host(host)
        return known is not None and known.trusted

    def client_of(self, peer: Peer, head: RequestHead) -> str:
        """Return the client's address.

        An untrusted peer is the client itself, with its port. Behind a trusted proxy, the client is the last bare
        address in X-Forwarded-For that is not a trusted proxy's (nginx: ``real_ip_recursive``). An item that is not an
        address ends the list: nothing before it can be believed.
        """
        if not peer.trusted or b"x-forwarded-for" not in head.first:
            return str(peer)
        found = None
        for item in reversed(head.items(b"x-forwarded-for")):
            host = self._host(host_of(item.decode("latin-1")))
            if host is None:
                break
            found = host.text
            if not host.trusted:
                break
        return found or str(peer)

    def address_of(self, client: str) -> IPv4Address | IPv6Address | None:
        """The address in what :meth:`client_of` has returned; None if there is none: a peer on a unix socket."""
        host = self._host(host_of(client))
        return None if host is None else host.address

    def address_behind(self, peer: Peer, client: str) -> IPv4Address | IPv6Address | None:
        """As :meth:`address_of`. :param peer: the one that :meth:`client_of` was asked about"""
        if peer.trusted or not peer.host:
            return self.address_of(client)
        host = self._host(peer.host)  # it is the client itself
        return None if host is None else host.address

    def _host(self, text: str) -> Host | None:
        """Return what is known of an address, None if it is no address."""
        known = self._known.get(text)
        if known is None and len(text) <= _LONGEST_HOST:
            try:
                address = ip_address(text.partition("%")[0])
            except ValueError:
                return None
            if isinstance(address, IPv6Address):
                address = address.ipv4_mapped or address
            known = Host(str(address), self._is_trusted(address), address)
            self._known.keep(text, known)
        return known

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks if network.version == address.version)


def host_of(item: str) -> str:
    """Return the host in an item of X-Forwarded-For, which may be in quotes and brackets, and have a port.

    What :meth:`Trust.client_of` returns is of that form, too.
    """
    if len(item) > 1 and item[0] == item[-1] == '"':
        item = item[1:-1]
    match = _WITH_PORT.fullmatch(item) or _BRACKETED.fullmatch(item)
    return match[1] if match else item


def plain_network(network: Network) -> Network:
    """A network; one of IPv4 in IPv6 (RFC 4291 2.5.5.2) as IPv4."""
    if isinstance(network, IPv6Network) and network.subnet_of(_IPV4_IN_IPV6):
        mapped = network.network_address.ipv4_mapped
        assert mapped is not None
        return IPv4Network((mapped, network.prefixlen - 96))
    return network
