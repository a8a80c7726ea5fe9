"""TLS with a backend that failed: its ``reason`` label, and what the client is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.edge.refused import Refused
from gateway.edge.tls import reasons

if TYPE_CHECKING:
    from gateway.edge.tls.reasons import HandshakeFailed

# Clients are not told names of backends, which OpenSSL's words contain: the gateway's own log has these.
_KNOWN = {
    reasons.EXPIRED: ("certificate_expired", "its certificate has expired"),
    reasons.NOT_YET_VALID: ("certificate_not_yet_valid", "its certificate is not valid yet"),
    reasons.UNKNOWN_ISSUER: ("unknown_issuer", "its certificate was issued by nobody who is trusted"),
    reasons.SELF_SIGNED: ("self_signed", "its certificate is self-signed"),
    reasons.WRONG_NAME: ("wrong_name", "its certificate is for another name"),
    reasons.BAD_CERTIFICATE: ("bad_certificate", "its certificate is not accepted"),
    reasons.REJECTED_BY_PEER: ("refused_by_backend", "it refuses the handshake"),
    reasons.NO_SHARED_CIPHER: ("no_shared_cipher", "no suite is known to both"),
    reasons.UNSUPPORTED_VERSION: ("unsupported_version", "no version is known to both"),
    reasons.PLAIN_HTTP: ("plain_http", "it speaks plain HTTP"),
    reasons.NOT_TLS: ("not_tls", "it does not speak TLS"),
    reasons.CLOSED: ("closed_in_handshake", "it closed the connection in the middle of the handshake"),
}
_OTHER = ("handshake_failed", "the handshake failed")


def reason_of(failure: HandshakeFailed) -> str:
    """The label of a failure in ``gateway_backend_connect_errors_total``."""
    if failure.reason == reasons.TIMEOUT:
        return "timeout"
    return _KNOWN.get(failure.reason, _OTHER)[0]


def refusal_of(failure: HandshakeFailed) -> Refused:
    """What a client is told if no other backend can be reached."""
    if failure.reason == reasons.TIMEOUT:
        return Refused(504, "the backend did not complete the TLS handshake in time", "timeout")
    why = _KNOWN.get(failure.reason, _OTHER)[1]
    return Refused(502, f"TLS with the backend cannot be established: {why}", "connect_error")
