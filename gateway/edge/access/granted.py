"""What a client's credentials have shown, and what follows from that for its request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from gateway.protocol.heads import plain_name

_NOTHING: Mapping[bytes, bytes] = MappingProxyType({})


def names_without(names: Iterable[bytes]) -> frozenset[bytes]:
    """Names of fields that only the gateway may write, for :attr:`Granted.without`."""
    return frozenset(each for name in names for each in (name.lower(), plain_name(name)))


class Expiry(NamedTuple):
    """When credentials expire, and what tunnels are closed with then."""

    at_unix: float
    """seconds since 1970"""
    close_code: int
    spread_seconds: float
    """over which many that expire at once are closed"""


class Granted(NamedTuple):
    """Let in. It is never changed, and may be kept for later requests with the same credentials."""

    user: str | None = None
    """for logs: a user's name or a token's subject"""
    fields: bytes = b""
    """lines for the backend, with CRLF behind each"""
    without: frozenset[bytes] = frozenset()
    """fields that the backend does not get from the client, by name as of :func:`names_without`; other spellings that
    CGI reads like them neither"""
    replaced: Mapping[bytes, bytes] = _NOTHING
    """other values for fields of the client's, by name in lower case; empty ones are removed"""
    target: bytes | None = None
    """for the backend, in origin form; None for the one of the request"""
    marker: bytes = b""
    """subprotocol for the client if the backend selects none: browsers fail a handshake that selects none of theirs"""
    expiry: Expiry | None = None
    """of tunnels"""
