"""Tokens that were verified, so that a client that sends the same one again costs little."""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import NamedTuple

from gateway.edge.access.granted import Granted

MAX_KEPT = 4096
MAX_FIELD_BYTES = 2048
"""Of what a backend gets of a token's claims; tokens with more are verified each time."""

_DIGEST_BYTES = 16


class Verified(NamedTuple):
    """A token whose signature and claims are right, whatever the time."""

    granted: Granted
    not_before: float | None
    """seconds since 1970"""
    expires: float | None


class VerifiedTokens:
    """Those that were used last. Tokens themselves are not kept, only keyed hashes of them."""

    def __init__(self) -> None:
        self._secret = os.urandom(32)
        self._keys: object = None
        self._kept: dict[bytes, Verified] = {}

    def digest(self, token: bytes) -> bytes:
        """What a token is known by here."""
        return blake2b(token, key=self._secret, digest_size=_DIGEST_BYTES).digest()

    def find(self, digest: bytes, keys: object) -> Verified | None:
        """What is known of a token. :param keys: those in use: with others than before, nothing is known any more"""
        if keys is not self._keys:
            self._keys = keys
            self._kept.clear()
            return None
        found = self._kept.pop(digest, None)
        if found is not None:
            self._kept[digest] = found  # behind those that were used before it
        return found

    def keep(self, digest: bytes, verified: Verified) -> None:
        """Know a token from now on. :param digest: looked for just now"""
        if len(verified.granted.fields) > MAX_FIELD_BYTES:
            return
        if len(self._kept) >= MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[digest] = verified

    def forget(self, digest: bytes) -> None:
        """A token has expired."""
        self._kept.pop(digest, None)
