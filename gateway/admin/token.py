"""The admin address asks for a bearer token, if there is one (RFC 6750 section 2.1)."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from gateway.admin.handlers import Handler

CHALLENGE = {"WWW-Authenticate": 'Bearer realm="upgrade-gateway"'}


def require_token(token: Callable[[], str | None], open_paths: frozenset[str]) -> Middleware:
    """Make a middleware that refuses requests without the token.

    :param token: returns the one in force; None for none
    :param open_paths: what is answered without
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        wanted = token()
        if (
            wanted is None
            or request.path in open_paths
            or carries_token(request.headers.getall("Authorization", []), wanted)
        ):
            return await handler(request)
        raise web.HTTPUnauthorized(text="a bearer token is needed (admin.token)", headers=CHALLENGE)

    return middleware


def is_let_in(request: web.Request, token: str | None) -> bool:
    """Whether a request has the token, or needs none. :param token: None if there is none"""
    return token is None or carries_token(request.headers.getall("Authorization", []), token)


def carries_token(fields: list[str], token: str) -> bool:
    """Whether a request's only ``Authorization`` field has the token. The time this takes does not depend on how much
    of it is right."""
    if len(fields) != 1:
        return False
    scheme, _, given = fields[0].partition(" ")
    is_same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token.encode())
    return is_same and scheme.lower() == "bearer"
