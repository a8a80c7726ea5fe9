"""What of a request is hashed: ``hash_on`` of an upstream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from gateway.protocol.heads import RequestHead

KeyOf = Callable[[RequestHead, bytes], bytes]
"""Takes a head and the target in origin form; returns the key, as it was sent: empty if the request has none."""


def key_of(hash_on: str) -> KeyOf | None:
    """Return what finds a request's key. :returns: None for ``client_ip``, which a head does not say"""
    kind, _, name = hash_on.partition(":")
    if kind == "path":
        return _path
    if kind == "header":
        return partial(_header, name.lower().encode())
    if kind == "cookie":
        return partial(cookie, name.encode())
    if kind == "query":
        return partial(_query, name.encode() + b"=")
    return None


def cookie(name: bytes, head: RequestHead, target: bytes = b"") -> bytes:
    """The first cookie of a name (RFC 6265 section 5.4); empty if there is none."""
    return next(cookies(name, head), b"") if b"cookie" in head.first else b""


def cookies(name: bytes, head: RequestHead) -> Iterator[bytes]:
    """Yield all cookies of a name: there is one for each path and domain for which it was set."""
    for value in head.values(b"cookie"):
        if name not in value:
            continue
        for pair in value.split(b";"):
            found, equals, content = pair.strip(b" \t").partition(b"=")
            if equals and found.rstrip(b" \t") == name:
                yield content.strip(b" \t")


def _path(head: RequestHead, target: bytes) -> bytes:
    return target.partition(b"?")[0]


def _header(name: bytes, head: RequestHead, target: bytes) -> bytes:
    return head.first.get(name, b"")


def _query(prefix: bytes, head: RequestHead, target: bytes) -> bytes:
    query = target.partition(b"?")[2]
    if prefix not in query:
        return b""
    return next((part[len(prefix) :] for part in query.split(b"&") if part.startswith(prefix)), b"")
