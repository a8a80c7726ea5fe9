"""Which clients' connections their listeners would still let in, after the CAs for clients' certificates have changed.

A TLS handshake lets a connection in for as long as it lasts. So a connection notes what it was let in by, and when the
listener at its address wants something else, it carries no further request.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.config.address import Address
    from gateway.config.settings import Listener, ListenerTls
    from gateway.edge.trust import Peer

_ANY = {False: "0.0.0.0", True: "::"}
_LOOPBACK = ("127.0.0.1", "::1")


def admission_of(tls: ListenerTls | None) -> str:
    """What stands for the certificates that a listener asks clients for; empty if it asks for none."""
    if tls is None or tls.client_ca is None:
        return ""
    from hashlib import sha256  # few gateways need it

    return sha256(f"{tls.client_required} {tls.client_ca}".encode()).hexdigest()


class Admissions:
    """What the listeners of the configuration in force ask for."""

    def __init__(self) -> None:
        self._asked: dict[Address, str] = {}
        """by address; only where something is asked for"""

    def use(self, listen: Iterable[Listener]) -> bool:
        """Go by these listeners from now on. :returns: whether connections may be there that do not hold any more"""
        before = self._asked
        self._asked = {each.address: asked for each in listen if (asked := admission_of(each.tls))}
        return self._asked != before

    def holds(self, fd: int, peer: Peer) -> bool:
        """Whether a client would be let in as it was.

        :param fd: its connection
        """
        if not self._asked and not peer.admission:
            return True
        return self._asked_at(fd) == peer.admission

    def _asked_at(self, fd: int) -> str:
        """What the listener asks for that a connection came to; nothing if it is there no more."""
        sock = socket.socket(fileno=fd)
        try:
            own = sock.getsockname()
        except OSError:
            return ""
        finally:
            sock.detach()
        exact = general = ""
        for address, asked in self._asked.items():
            if not isinstance(own, tuple):
                if address.path == own:
                    return asked
            elif address.port == own[1]:
                host, own_host = (address.host or "").partition("%")[0], own[0].partition("%")[0]
                if host == own_host or (host == "localhost" and own_host in _LOOPBACK):
                    exact = asked
                elif host == _ANY[":" in own_host]:
                    general = asked
        return exact or general
