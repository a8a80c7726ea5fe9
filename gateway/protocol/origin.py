"""Origins, as browsers send them and as rules name them (RFC 6454 sections 4 to 7)."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address

NULL = "null"
"""Origin of a page that has none: one from a file, in a sandbox, or after redirects (RFC 6454 section 7.1)."""

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def canonical_origin(text: str) -> str | None:
    """Return an origin in the form in which two that are the same are equal: in lower case, without a default port.

    :returns: None if this is not exactly one origin; ``null`` for the origin of a page that has none
    """
    text = text.lower()
    if text == NULL:
        return NULL
    match = _ORIGIN.fullmatch(text)
    if match is None:
        return None
    scheme, host, port = match.groups()
    if host.startswith("["):
        try:
            host = f"[{IPv6Address(host[1:-1])}]"
        except AddressValueError:
            return None
    if port is None or int(port) == _DEFAULT_PORTS.get(scheme):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{int(port)}" if 0 < int(port) < 65536 else None
