"""Certificates of listeners, read: who they are for, until when, and what workers load.

Only the supervisor and ``gateway check`` read them, and import ``cryptography`` only where TLS is configured.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gateway.config import settings
from gateway.config.errors import BadValue
from gateway.config.pem import mistakes_in_pair, read_pem

if TYPE_CHECKING:
    from cryptography import x509

    from gateway.config.schema import Config, ListenerTls, UpstreamTls

DAY_SECONDS = 86400.0
SOON_DAYS = 14


class Pair(NamedTuple):
    """A certificate and its key."""

    chain: str
    """PEM"""
    key: str
    """PEM"""
    names: tuple[str, ...]
    """host names in lower case, ``*.`` too"""
    kind: str
    """of its key: ``rsa``, ``ec`` or ``other``"""
    not_before: float
    """Unix seconds; ``not_after`` likewise"""
    not_after: float

    def __repr__(self) -> str:
        return f"Pair({', '.join(self.names)})"  # keys belong in no log


def read_pair(cert: str, key: str | None) -> Pair:
    """Read a certificate and its key. :param key: None if it is in the certificate's file

    :raises BadValue: they cannot be used
    """
    for _, mistake in mistakes_in_pair(cert, key):
        raise mistake
    chain = read_pem(cert)
    return _described(cert, chain, chain if key is None else read_pem(key))


def read_backend_pair(cert: str, key: str | None) -> tuple[str, str | None]:
    """Read the certificate and the key that backends are shown. Arguments and errors as of :func:`read_pair`."""
    for _, mistake in mistakes_in_pair(cert, key):
        raise mistake
    return read_pem(cert), None if key is None else read_pem(key)


class Certificates(NamedTuple):
    """Everything that listeners and upstreams need of their files, as it was read at one time."""

    pairs: dict[tuple[str, str | None], Pair]
    """by path of the certificate and of the key"""
    client_cas: dict[str, str]
    """PEM, by path"""
    backend_cas: dict[str, str]
    """PEM, by path"""
    backend_pairs: dict[tuple[str, str | None], tuple[str, str | None]]
    """what backends are shown: PEM of the certificate and of the key, by the paths of both"""

    @classmethod
    def none(cls) -> Certificates:
        """Of a configuration without TLS."""
        return cls({}, {}, {}, {})

    @classmethod
    def read(cls, config: Config) -> Certificates:
        """Read them. :raises BadValue: one cannot be used"""
        found = cls.none()
        for listener in config.listen:
            if listener.tls is not None:
                for pair in listener.tls.certificates:
                    found.pairs[pair.cert, pair.key] = read_pair(pair.cert, pair.key)
                if listener.tls.client_ca is not None:
                    found.client_cas[listener.tls.client_ca] = read_pem(listener.tls.client_ca)
        for upstream in config.upstreams.values():
            tls = upstream.tls
            if tls is not None and tls.ca is not None:
                found.backend_cas[tls.ca] = read_pem(tls.ca)
            if tls is not None and tls.cert is not None:
                found.backend_pairs[tls.cert, tls.key] = read_backend_pair(tls.cert, tls.key)
        return found

    @property
    def files(self) -> list[str]:
        """Paths of all files."""
        paths = [path for pair in (*self.pairs, *self.backend_pairs) for path in pair if path is not None]
        return list(dict.fromkeys((*paths, *self.client_cas, *self.backend_cas)))

    def settings_of(self, tls: ListenerTls) -> settings.ListenerTls:
        """What workers get for a listener."""
        pairs = [self.pairs[each.cert, each.key] for each in tls.certificates]
        return settings.ListenerTls(
            tuple(settings.Certificate(pair.names, pair.kind, pair.chain, pair.key) for pair in pairs),
            tls.min_version,
            None if tls.client_ca is None else self.client_cas[tls.client_ca],
            tls.client_required,
        )

    def settings_of_upstream(self, tls: UpstreamTls) -> settings.UpstreamTls:
        """What workers get for an upstream."""
        ca = None if tls.ca is None else self.backend_cas[tls.ca]
        cert, key = (None, None) if tls.cert is None else self.backend_pairs[tls.cert, tls.key]
        return settings.UpstreamTls(ca, tls.server_name, cert, key, tls.verify)


def doubts_about(pair: Pair, now: float | None = None) -> Iterator[BadValue]:
    """Yield warnings about a certificate that can be used. :param now: Unix seconds"""
    now = time.time() if now is None else now
    days = (pair.not_after - now) / DAY_SECONDS
    if days < 0:
        yield BadValue(f"warning: the certificate expired on {_date(pair.not_after)}", "one that is renewed")
    elif now < pair.not_before:
        yield BadValue(
            f"warning: the certificate is not valid before {_date(pair.not_before)}", "one that is valid now"
        )
    elif days < SOON_DAYS:
        yield BadValue(f"warning: the certificate expires on {_date(pair.not_after)}", "one that is renewed in time")


def _date(unix: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(unix))


def _described(path: str, chain: str, key: str) -> Pair:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    begin = chain.index("-----BEGIN CERTIFICATE-----")
    try:
        certificate = x509.load_pem_x509_certificate(chain[begin:].encode())
        public = certificate.public_key()
        names = _names(certificate)
    except ValueError as error:
        hint = "a certificate for servers, such as Let's Encrypt issues"
        raise BadValue(f"{os.fspath(path)} cannot be understood: {error}", hint) from None
    return Pair(
        chain,
        key,
        names,
        "rsa"
        if isinstance(public, rsa.RSAPublicKey)
        else "ec"
        if isinstance(public, ec.EllipticCurvePublicKey)
        else "other",
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Host names in a certificate; without alternative names its common name, as old ones have it (RFC 6125 6.4.4)."""
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = found.value.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        names = [str(each.value) for each in common if " " not in str(each.value)]
    return tuple(dict.fromkeys(name.lower().rstrip(".") for name in names))
