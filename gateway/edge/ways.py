"""How backends are reached: over plain connections, or with the TLS of their upstream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gateway.edge.tls.backends import BackendTls

if TYPE_CHECKING:
    from gateway.config.settings import UpstreamTls
    from gateway.edge.tls.secrets import KeyLog
    from gateway.edge.wire import Wire
    from gateway.edge.wire.tls import TlsWire


class Way:
    """What all connections to an upstream's backends have in common. One that was made with other options is not used
    again: ways are compared by identity."""

    __slots__ = ("tls", "wire")

    def __init__(self, wire: Wire, tls: BackendTls | None = None) -> None:
        self.wire = wire
        self.tls = tls
        """None for plain connections"""


class Ways:
    """The ways of one worker."""

    def __init__(self, plain: Wire, sealed: TlsWire, key_log: KeyLog) -> None:
        self.sealed = sealed
        self._plain = Way(plain)
        self._key_log = key_log
        self._by_upstream: dict[str, tuple[UpstreamTls, Way]] = {}
        """those with TLS"""

    def of(self, upstream: str) -> Way:
        """The way to an upstream. :param upstream: its name"""
        found = self._by_upstream.get(upstream)
        return self._plain if found is None else found[1]

    def prepare(self, upstreams: Mapping[str, UpstreamTls]) -> dict[str, tuple[UpstreamTls, Way]]:
        """Make what upstreams with TLS need, for :meth:`use`. Nothing changes yet.

        :param upstreams: by name
        :raises OSError: OpenSSL does not take a certificate, or descriptors are short
        """
        made = dict(self._by_upstream.values())
        prepared = {}
        for name, tls in upstreams.items():
            way = made.get(tls)
            if way is None:
                way = made[tls] = Way(self.sealed, BackendTls(tls, self._key_log))
            prepared[name] = tls, way
        return prepared

    def use(self, prepared: dict[str, tuple[UpstreamTls, Way]]) -> None:
        """Put a configuration in force for connections from now on. Those with the same options stay usable."""
        self._by_upstream = prepared
