"""The admin address asks for a bearer token, if there is one (RFC 6750 section 2.1)."""

from __future__ import annotations

import hmac

from gateway.admin.messages import Request

CHALLENGE = {"WWW-Authenticate": 'Bearer realm="upgrade-gateway"'}


def is_let_in(request: Request, token: str | None) -> bool:
    """Whether a request has the token, or needs none. :param token: None if there is none"""
    return token is None or carries_token(request.values("authorization"), token)


def carries_token(fields: list[str], token: str) -> bool:
    """Whether a request's only ``Authorization`` field has the token. The time this takes does not depend on how much
    of it is right."""
    if len(fields) != 1:
        return False
    scheme, _, given = fields[0].partition(" ")
    is_same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token.encode())
    return is_same and scheme.lower() == "bearer"
