"""What a client's certificate says about the client, as fields for backends."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

SUBJECT, NAMES, FINGERPRINT = b"X-Client-Cert-Subject", b"X-Client-Cert-San", b"X-Client-Cert-Fingerprint"
MOST_BYTES = 4096
"""Of one field: backends limit the size of a head."""

_SHORT = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationalUnitName": "OU",
    "organizationName": "O",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}
"""RFC 4514 section 3; others go by OpenSSL's names."""

_SPECIAL = frozenset('"+,;<>\\')


def fields_of(certificate: bytes, described: Mapping[str, Any]) -> bytes:
    """Lines of a head, with CRLF behind each.

    * ``X-Client-Cert-Subject``: the distinguished name as text (RFC 4514): ``CN=device 7,O=Example``
    * ``X-Client-Cert-San``: alternative names, comma-separated: ``DNS:device7.example, URI:spiffe://example/device/7``
    * ``X-Client-Cert-Fingerprint``: SHA-256 of the certificate, in hexadecimal

    Bytes that are no printable ASCII, and in values what separates them, are escaped as in RFC 4514.

    :param certificate: DER
    :param described: the same as ``SSLObject.getpeercert()`` has it
    """
    parts = [
        "+".join(f"{_SHORT.get(kind, kind)}={_escaped(value)}" for kind, value in relative)
        for relative in reversed(described.get("subject", ()))
    ]
    names = [
        f"{kind}:{_escaped(value)}" for kind, value in described.get("subjectAltName", ()) if isinstance(value, str)
    ]
    lines = [(SUBJECT, ",".join(parts)), (NAMES, ", ".join(names))]
    lines.append((FINGERPRINT, hashlib.sha256(certificate).hexdigest()))
    # One that is cut could read as another name: better none.
    return b"".join(b"%b: %b\r\n" % (name, text.encode()) for name, text in lines if 0 < len(text) <= MOST_BYTES)


def _escaped(value: str) -> str:
    """RFC 4514 section 2.4."""
    out = []
    last = len(value) - 1
    for at, character in enumerate(value):
        if character in _SPECIAL or (at == 0 and character in " #") or (at == last and character == " "):
            out.append("\\" + character)
        elif " " <= character <= "~":
            out.append(character)
        else:
            out.extend(f"\\{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))
    return "".join(out)
