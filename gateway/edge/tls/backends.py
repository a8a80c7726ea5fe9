"""TLS toward the backends of an upstream: which CAs are trusted, which name is verified, what is shown to them."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from gateway.edge.tls.contexts import client_context, name_in_certificate, trust
from gateway.edge.tls.handshake import Handshake

if TYPE_CHECKING:
    from gateway.config.address import Address
    from gateway.config.settings import UpstreamTls
    from gateway.edge.tls.secrets import KeyLog


class BackendTls:
    """What the handshakes with all backends of an upstream have in common."""

    __slots__ = ("_context", "_key_log", "_settings")

    def __init__(self, settings: UpstreamTls, key_log: KeyLog) -> None:
        """
        :raises ssl.SSLError: a certificate or key cannot be used
        :raises OSError: descriptors are short
        """
        self._settings = settings
        self._key_log = key_log
        context = self._context = client_context(key_log)
        # A ticket would be of no use: the session that it resumes is kept by nobody.
        context.options |= ssl.OP_NO_TICKET
        trust(context, settings)

    def handshake(self, address: Address) -> Handshake:
        """Begin a handshake. :param address: of the backend, as it is configured"""
        return Handshake(self._key_log, context=self._context, server_name=self.name_of(address))

    def name_of(self, address: Address) -> str | None:
        """As :func:`gateway.edge.tls.contexts.name_in_certificate`."""
        return name_in_certificate(self._settings, address)
