"""Which web pages may send requests (RFC 6455 section 10.2, RFC 6454).

A browser lets any page open a WebSocket to any host, with that host's cookies; only ``Origin`` shows which page it was.
"""

from __future__ import annotations

from collections.abc import Collection

from gateway.protocol.heads import RequestHead
from gateway.protocol.origin import canonical_origin
from gateway.routing.recent import Recent

MAX_KNOWN = 256
MAX_KNOWN_BYTES = 256
NONE = "none"
_ANY_SUBDOMAIN = "://*."


class Origins:
    """The origins that a route allows."""

    def __init__(self, rules: Collection[str]) -> None:
        """:param rules: canonical origins, such with ``*.`` before the host, ``null``, and ``none`` for requests
        without ``Origin``
        """
        self._found: Recent[bytes, bool] = Recent(MAX_KNOWN)
        """values that may come in"""
        self._exact = frozenset(rule for rule in rules if _ANY_SUBDOMAIN not in rule)
        self._suffixes = tuple(
            (scheme + "://", "." + rest)
            for scheme, _, rest in (rule.partition(_ANY_SUBDOMAIN) for rule in rules if _ANY_SUBDOMAIN in rule)
        )

    def refusal(self, head: RequestHead) -> str | None:
        """Why a request is refused; None if it may come in."""
        if b"origin" not in head.first:
            return None if NONE in self._exact else "a request without Origin is not allowed here"
        if b"origin" in head.repeated:
            return "a request with more than one Origin"
        value = head.first[b"origin"]
        if self._found.get(value):
            return None
        refusal = self._refusal_of(value.decode("latin-1"))
        if refusal is None and len(value) <= MAX_KNOWN_BYTES:
            self._found.keep(value, True)
        return refusal

    def _refusal_of(self, given: str) -> str | None:
        origin = canonical_origin(given)
        if origin is not None:
            if origin in self._exact and origin != NONE:
                return None
            for scheme, suffix in self._suffixes:
                if origin.startswith(scheme) and origin.endswith(suffix):
                    return None
        return f"pages of the origin {given[:100]!r} are not allowed here"
