"""Which peers are proxies of the operator's, and which client a request comes from."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from gateway.protocol.http import RequestHead

Network = IPv4Network | IPv6Network


@dataclass(slots=True)
class Peer:
    """The other end of a client's connection."""

    host: str
    """its address; empty on a unix socket"""
    port: int
    trusted: bool
    """whether its X-Forwarded-* are believed"""

    def __str__(self) -> str:
        if not self.host:
            return "unix"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Trust:
    """Which peers are proxies of the operator's."""

    def __init__(self, networks: tuple[Network, ...]) -> None:
        self._networks = networks

    def peer(self, address: object) -> Peer:
        """Describe a peer by its address and port, or whatever else stands for it on a unix socket."""
        if not isinstance(address, tuple):
            # A unix socket: whoever may connect to it is on this machine, by the operator's leave.
            return Peer("", 0, True)
        host: str = address[0]
        if host.startswith("::ffff:") and "." in host:
            host = host[7:]
        return Peer(host, address[1], bool(self._networks) and self.trusts(host))

    def trusts(self, host: str) -> bool:
        """Whether an address is one of a trusted proxy."""
        try:
            address: IPv4Address | IPv6Address = ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks if network.version == address.version)

    def client_of(self, peer: Peer, head: RequestHead) -> str:
        """The client's address: the last in X-Forwarded-For that no trusted proxy has (nginx: real_ip_recursive)."""
        if not peer.trusted:
            return str(peer)
        found = str(peer)
        for item in reversed(head.items(b"x-forwarded-for")):
            text = item.decode("latin-1")
            host = text.strip("[]")
            try:
                ip_address(host)
            except ValueError:
                break
            found = text
            if not self.trusts(host):
                break
        return found
