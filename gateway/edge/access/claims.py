"""What a token's claims must say (RFC 7519 section 4.1), and what a backend gets of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from gateway.edge.access.jws import BadToken

_FOREVER = 2**53
"""Seconds; beyond it doubles are no longer exact."""

EXPIRED = "the token has expired"
NOT_YET_VALID = "the token is not valid yet"


class Insufficient(BadToken):
    """A token that is right, but does not allow this."""


class Claims:
    """The rules of a route."""

    def __init__(
        self,
        issuer: Sequence[str],
        audience: Sequence[str],
        require: Sequence[tuple[str, str]],
        leeway: float,
    ) -> None:
        """
        :param issuer: that are accepted; empty for any
        :param audience: of which a token must have one; empty for any
        :param require: claims, and what each must be as JSON; of a list one
        :param leeway: seconds by which clocks may differ
        """
        self._issuer = frozenset(issuer)
        self._audience = frozenset(audience)
        self._leeway = leeway
        self._require = []
        for claim, text in require:
            wanted = json.loads(text)
            self._require.append((claim, wanted if isinstance(wanted, list) else [wanted]))

    def check(self, claims: dict[str, Any]) -> None:
        """Check all but the times. :raises BadToken: not accepted. :raises Insufficient: not for what is asked for"""
        if self._issuer:
            issuer = claims.get("iss")
            if not isinstance(issuer, str) or issuer not in self._issuer:
                raise BadToken("the token is of another issuer")
        if self._audience:
            given = claims.get("aud")
            audience = given if isinstance(given, list) else [given]
            if not any(isinstance(item, str) and item in self._audience for item in audience):
                raise BadToken("the token is for another audience")
        for claim, choices in self._require:
            if not any(_contains(claims.get(claim), choice) for choice in choices):
                raise Insufficient(f"the token does not have the {claim} that is required here")

    def check_times(self, not_before: float | None, expires: float | None, now: float) -> None:
        """Check ``nbf`` and ``exp`` (sections 4.1.4 and 4.1.5).

        :param now: seconds since 1970
        :raises BadToken: not yet, or not any more
        """
        if expires is not None and now >= expires + self._leeway:
            raise BadToken(EXPIRED)
        if not_before is not None and now < not_before - self._leeway:
            raise BadToken(NOT_YET_VALID)


def time_of(claims: dict[str, Any], name: str) -> float | None:
    """A claim that is a time, in seconds since 1970; None if it is absent. :raises BadToken: it is no number"""
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadToken(f"the token's {name} is no time")
    return float(max(-_FOREVER, min(value, _FOREVER)))


def _contains(value: object, wanted: object) -> bool:
    """Whether a claim is what is wanted, or contains it: as an item of a list, or as a word of text (RFC 8693
    section 4.2 has ``scope`` like that)."""
    if isinstance(value, list):
        return any(_is(item, wanted) for item in value)
    if isinstance(value, str) and isinstance(wanted, str):
        return value == wanted or wanted in value.split(" ")
    return _is(value, wanted)


def _is(value: object, wanted: object) -> bool:
    # True is 1 to Python.
    return isinstance(value, bool) == isinstance(wanted, bool) and value == wanted


def field_lines(claims: dict[str, Any], forward: Sequence[tuple[str, str]]) -> bytes:
    """The lines that hand claims on to a backend. What is absent, null or empty text has none.

    :param forward: claims and fields
    :raises BadToken: text that a field cannot carry as it is
    """
    lines = b""
    for claim, field in forward:
        value = claims.get(claim)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            text = json.dumps(value, separators=(",", ":"))
        elif value.isprintable() and value == value.strip():
            text = value
        else:
            # A backend would read another text in the field, perhaps another user's name.
            raise BadToken(f"the token's {claim} does not fit into a header field")
        lines += b"%b: %b\r\n" % (field.encode(), text.encode())
    return lines
