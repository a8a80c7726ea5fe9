"""Why a handshake failed: one word for metrics and log lines, and a sentence for people."""

from __future__ import annotations

import ssl

OK = "ok"

TIMEOUT = "timeout"
CLOSED = "closed"
PLAIN_HTTP = "plain_http"
NOT_TLS = "not_tls"
PROTOCOL_ERROR = "protocol_error"
TOO_LARGE = "too_large"
UNSUPPORTED_VERSION = "unsupported_version"
NO_SHARED_CIPHER = "no_shared_cipher"
NO_CERTIFICATE = "no_certificate"
REJECTED_BY_PEER = "rejected_by_peer"
BAD_CERTIFICATE = "bad_certificate"
UNKNOWN_ISSUER = "unknown_issuer"
EXPIRED = "expired"
NOT_YET_VALID = "not_yet_valid"
SELF_SIGNED = "self_signed"
WRONG_NAME = "wrong_name"
FAILED = "failed"

RESULTS = (
    OK,
    TIMEOUT,
    CLOSED,
    PLAIN_HTTP,
    NOT_TLS,
    PROTOCOL_ERROR,
    TOO_LARGE,
    UNSUPPORTED_VERSION,
    NO_SHARED_CIPHER,
    NO_CERTIFICATE,
    REJECTED_BY_PEER,
    BAD_CERTIFICATE,
    UNKNOWN_ISSUER,
    EXPIRED,
    NOT_YET_VALID,
    SELF_SIGNED,
    WRONG_NAME,
    FAILED,
)
"""Values of the ``result`` label of ``gateway_tls_handshakes_total``. ``timeout`` and ``closed`` are the callers' to
give; the rest come from :func:`reason_of` and the handshake."""

_BY_OPENSSL = {
    "NO_SHARED_CIPHER": NO_SHARED_CIPHER,
    "NO_SUITABLE_KEY_SHARE": NO_SHARED_CIPHER,
    "NO_SHARED_GROUPS": NO_SHARED_CIPHER,
    "NO_SUITABLE_GROUPS": NO_SHARED_CIPHER,
    "NO_SHARED_SIGNATURE_ALGORITHMS": NO_SHARED_CIPHER,
    "NO_SUITABLE_SIGNATURE_ALGORITHM": NO_SHARED_CIPHER,
    "NO_CIPHERS_SPECIFIED": NO_SHARED_CIPHER,
    "UNSUPPORTED_PROTOCOL": UNSUPPORTED_VERSION,
    "VERSION_TOO_LOW": UNSUPPORTED_VERSION,
    "WRONG_SSL_VERSION": UNSUPPORTED_VERSION,
    "INAPPROPRIATE_FALLBACK": UNSUPPORTED_VERSION,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": NO_CERTIFICATE,
    "EXCESSIVE_MESSAGE_SIZE": TOO_LARGE,
    "WRONG_VERSION_NUMBER": NOT_TLS,
    "HTTP_REQUEST": PLAIN_HTTP,
}

_BY_VERIFICATION = {  # X509_V_ERR_…, of <openssl/x509_vfy.h>
    2: UNKNOWN_ISSUER,  # UNABLE_TO_GET_ISSUER_CERT
    9: NOT_YET_VALID,
    10: EXPIRED,
    18: SELF_SIGNED,  # DEPTH_ZERO_SELF_SIGNED_CERT
    19: UNKNOWN_ISSUER,  # SELF_SIGNED_CERT_IN_CHAIN: a root that is not trusted
    20: UNKNOWN_ISSUER,  # UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    21: UNKNOWN_ISSUER,  # UNABLE_TO_VERIFY_LEAF_SIGNATURE
    62: WRONG_NAME,  # HOSTNAME_MISMATCH
    64: WRONG_NAME,  # IP_ADDRESS_MISMATCH
}


class HandshakeFailed(Exception):
    """A handshake failed; ``str()`` says why."""

    def __init__(self, reason: str, message: str) -> None:
        """:param reason: one of :data:`RESULTS`"""
        super().__init__(message)
        self.reason = reason


def failure_of(error: ssl.SSLError) -> HandshakeFailed:
    """What OpenSSL's error means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = _BY_VERIFICATION.get(error.verify_code, BAD_CERTIFICATE)
        return HandshakeFailed(reason, f"the peer's certificate is not accepted: {error.verify_message}")
    if isinstance(error, ssl.SSLZeroReturnError):
        return HandshakeFailed(CLOSED, "the peer ended the connection in the middle of the handshake")
    name = error.reason or ""
    reason = _BY_OPENSSL.get(name, "")
    words = name.lower().replace("_", " ") or "OpenSSL gives no reason"
    if not reason:
        before, alert, description = words.partition(" alert ")
        if alert and before.startswith(("tlsv1", "sslv3", "tlsv13")):
            # The version in these names says when the alert was added, not what the peer speaks.
            reason = UNSUPPORTED_VERSION if description == "protocol version" else REJECTED_BY_PEER
            return HandshakeFailed(reason, f"the peer ended the handshake: {description}")
        reason = PROTOCOL_ERROR if name else FAILED
    return HandshakeFailed(reason, words)
