"""What OpenSSL is allowed in handshakes: versions, suites, groups, certificates.

TLS 1.3, and of TLS 1.2 the suites with ECDHE and an AEAD (Mozilla's "intermediate", version 5.7, without finite-field
Diffie-Hellman): what ``protocol/tls/`` has record protection for.
"""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Literal

from gateway.edge.tls.openssl import library, pointer_of
from gateway.edge.tls.secrets import KeyLog

if TYPE_CHECKING:
    from gateway.config.address import Address
    from gateway.config.settings import UpstreamTls

Version = Literal["1.2", "1.3"]
TLS12_SUITES = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
)
GROUPS = "X25519:P-256:P-384"
ALPN = ("http/1.1",)
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_SET_GROUPS_LIST = 92
"""``SSL_CTRL_SET_GROUPS_LIST`` of <openssl/ssl.h>."""


def server_context(key_log: KeyLog, min_version: Version = "1.2") -> ssl.SSLContext:
    """For listeners, still without a certificate. The client chooses the suite, as Mozilla recommends.

    :raises OSError: descriptors are short, or ``/proc`` is not there
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, key_log, min_version)
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 1  # a WebSocket client opens one connection, and each ticket costs 20 us of CPU
    return context


def client_context(key_log: KeyLog, min_version: Version = "1.2") -> ssl.SSLContext:
    """Toward backends: verifies certificates and names; trusts nobody yet.

    :raises OSError: as :func:`server_context`
    """
    return _context(ssl.PROTOCOL_TLS_CLIENT, key_log, min_version)


def trust(context: ssl.SSLContext, settings: UpstreamTls) -> None:
    """Have a context trust what the backends of an upstream may show, and show them what they ask for.

    :raises ssl.SSLError: a certificate or key cannot be used
    """
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


def name_in_certificate(settings: UpstreamTls, address: Address) -> str | None:
    """The name or IP address that the certificate of a backend must have; None for a unix socket without one.

    :param address: of the backend, as it is configured
    """
    if settings.server_name is not None:
        return settings.server_name
    return None if address.host is None else address.host.partition("%")[0]


def load_pair(context: ssl.SSLContext, chain: str, key: str) -> None:
    """Have a context use a certificate, beside those of other key types that it has.

    :param chain: PEM: the certificate, then intermediate ones
    :param key: PEM, not encrypted
    :raises ssl.SSLError: they are not what they should be, or do not match
    """
    fd = os.memfd_create("certificate", os.MFD_CLOEXEC)  # there is no way to give OpenSSL a key but a file
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(f"{key}\n{chain}\n".encode())
        context.load_cert_chain(f"/proc/self/fd/{fd}", password=_no_password)
    finally:
        os.close(fd)


def _context(protocol: int, key_log: KeyLog, min_version: Version) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = _VERSIONS[min_version]
    context.set_ciphers(":".join(TLS12_SUITES))
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(ALPN)
    _set_groups(context)
    key_log.attach(context)
    return context


def _set_groups(context: ssl.SSLContext) -> None:
    """Offer :data:`GROUPS` only.

    Python has no method for it before 3.15, and ``set_ecdh_curve`` takes a single group. So OpenSSL is called. Where it
    cannot be found (``openssl.py``), its own list is offered, which also has X448 and P-521.
    """
    if hasattr(context, "set_groups"):
        context.set_groups(GROUPS)
        return
    pointer, ours = pointer_of(context), library()
    if pointer is None or ours is None:
        return
    if ours.SSL_CTX_ctrl(pointer, _SET_GROUPS_LIST, 0, GROUPS.encode()) != 1:
        raise ssl.SSLError("OpenSSL does not take the list of groups")


def _no_password() -> str:
    """Otherwise OpenSSL would ask on the terminal for that of an encrypted key."""
    return ""
