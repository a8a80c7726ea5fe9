"""TLS toward the backends of an upstream: which CAs are trusted, which name is verified, what is shown to them."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from gateway.edge.tls.contexts import client_context, load_pair
from gateway.edge.tls.handshake import Handshake

if TYPE_CHECKING:
    from gateway.config.address import Address
    from gateway.config.settings import UpstreamTls
    from gateway.edge.tls.secrets import KeyLog


class BackendTls:
    """What the handshakes with all backends of an upstream have in common."""

    __slots__ = ("_context", "_key_log", "_server_name")

    def __init__(self, settings: UpstreamTls, key_log: KeyLog) -> None:
        """
        :raises ssl.SSLError: a certificate or key cannot be used
        :raises OSError: descriptors are short
        """
        self._server_name = settings.server_name
        self._key_log = key_log
        context = self._context = client_context(key_log)
        # A ticket would be of no use: the session that it resumes is kept by nobody.
        context.options |= ssl.OP_NO_TICKET
        # Any certificate of `ca` is trusted, whether it is a root or not: a self-signed one, an intermediate one.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if not settings.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif settings.ca is not None:
            context.load_verify_locations(cadata=settings.ca)
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if settings.cert is not None:
            load_pair(context, settings.cert, settings.key or settings.cert)

    def handshake(self, address: Address) -> Handshake:
        """Begin a handshake. :param address: of the backend, as it is configured"""
        return Handshake(self._key_log, context=self._context, server_name=self.name_of(address))

    def name_of(self, address: Address) -> str | None:
        """The name or IP address that the certificate of a backend must have; None for a unix socket without one."""
        if self._server_name is not None:
            return self._server_name
        host = address.host
        return None if host is None else host.partition("%")[0]
