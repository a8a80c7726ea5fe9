"""Signed tokens in compact form (RFC 7515 section 7.1): what one says, before and apart from whether that is true.

PyJWT verifies signatures, but reads tokens more freely than is good here: with padding, members that occur twice, NaN.
Whatever two readers could take in two ways is refused.
"""

from __future__ import annotations

import json
import math
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, NamedTuple, NoReturn

MAX_BYTES = 16 << 10
"""A head of a request may have twice that."""

MALFORMED = "the token is malformed"
_COMPACT = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\Z")
_ENCRYPTED = re.compile(rb"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*){4}\Z")


class BadToken(Exception):
    """A token that is not accepted. ``str()`` says why, and quotes nothing of it."""


class Token(NamedTuple):
    """A signed token."""

    algorithm: str
    """``alg``: what its sender says, and no reason to accept it"""
    kid: str | None
    """name of the key that it is signed with"""
    signed: bytes
    """what the signature is of"""
    payload: bytes
    signature: bytes


def parse(token: bytes) -> Token:
    """Take a token apart.

    :raises BadToken: it is not one, is too long, is encrypted, or has extensions (RFC 7515 section 4.1.11, RFC 7797)
    """
    if len(token) > MAX_BYTES:
        raise BadToken(f"the token is longer than {MAX_BYTES} bytes")
    match = _COMPACT.match(token)
    if match is None:
        raise BadToken("encrypted tokens are not accepted" if _ENCRYPTED.match(token) else MALFORMED)
    header = json_object(_decoded(match[1]))
    if not header.keys().isdisjoint(("crit", "zip", "enc")) or header.get("b64", True) is not True:
        raise BadToken("the token has extensions that are not accepted")
    if str(header.get("cty")).lower() in ("jwt", "application/jwt"):
        raise BadToken("nested tokens are not accepted")  # RFC 7519 section 5.2
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or not isinstance(kid, str | None):
        raise BadToken(MALFORMED)
    return Token(algorithm, kid, token[: match.end(2)], _decoded(match[2]), _decoded(match[3]))


def json_object(text: bytes) -> dict[str, Any]:
    """Read a JSON object that every reader reads alike.

    :raises BadToken: it is none, is not UTF-8, has a member twice (RFC 7519 section 4), a number that is none or is
        beyond a double, or is nested too deep
    """
    try:
        value = _DECODER.decode(text.decode())
    except (ValueError, RecursionError):
        raise BadToken(MALFORMED) from None
    if not isinstance(value, dict):
        raise BadToken(MALFORMED)
    return value


def _decoded(part: bytes) -> bytes:
    """Decode base64url without padding (RFC 7515 section 2), in its one spelling."""
    if len(part) % 4 == 1:
        raise BadToken(MALFORMED)
    data = urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    if urlsafe_b64encode(data).rstrip(b"=") != part:
        raise BadToken(MALFORMED)  # bits behind the last byte that are not zero
    return data


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member occurs twice")
    return members


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number beyond a double")
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_members, parse_float=_finite, parse_constant=_no_number)
