"""Which certificate a client is shown: that of the name it asks for (RFC 6066 section 3), or the first."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from gateway.edge.tls.contexts import load_pair, server_context

if TYPE_CHECKING:
    from gateway.config.settings import Certificate, ListenerTls
    from gateway.edge.tls.secrets import KeyLog


class ServerNames:
    """The certificates of one listener."""

    def __init__(self, settings: ListenerTls, key_log: KeyLog) -> None:
        """
        :raises ssl.SSLError: OpenSSL does not take a certificate, a key or the clients' CA
        :raises OSError: descriptors are short
        """
        self._contexts: dict[str, ssl.SSLContext] = {}
        made: dict[tuple[int, ...], ssl.SSLContext] = {}

        def context_of(numbers: tuple[int, ...]) -> ssl.SSLContext:
            if numbers not in made:
                made[numbers] = _context(settings, [settings.certificates[each] for each in numbers], key_log)
            return made[numbers]

        by_name: dict[str, dict[str, int]] = {}
        """by name and kind of key, the first certificate"""
        for number, certificate in enumerate(settings.certificates):
            for name in certificate.names:
                by_name.setdefault(name, {}).setdefault(certificate.kind, number)
        for name, numbers in by_name.items():
            self._contexts[name] = context_of(tuple(numbers.values()))
        # With a certificate of another kind for the same names, clients that do not know one kind get the other.
        first = settings.certificates[0]
        alike = {first.kind: 0}
        for number, certificate in enumerate(settings.certificates):
            if set(certificate.names) == set(first.names):
                alike.setdefault(certificate.kind, number)
        self._default = context_of(tuple(alike.values()))

    def choose(self, name: str | None) -> ssl.SSLContext:
        """The context for a name: an exact match, a wildcard of one label (RFC 6125 6.4.3), or the first certificate.

        :param name: in lower case
        """
        if name is not None:
            name = name.rstrip(".")
            contexts = self._contexts
            found = contexts.get(name) or contexts.get("*." + name.partition(".")[2])
            if found is not None:
                return found
        return self._default


def _context(settings: ListenerTls, certificates: list[Certificate], key_log: KeyLog) -> ssl.SSLContext:
    context = server_context(key_log, settings.min_version)
    for certificate in certificates:
        load_pair(context, certificate.chain, certificate.key)
    if settings.client_ca is not None:
        context.load_verify_locations(cadata=settings.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED if settings.client_required else ssl.CERT_OPTIONAL
    return context
