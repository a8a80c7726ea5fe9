"""Which method a route's configuration asks for. What a method needs is imported when the first route uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.imports import without_collections

if TYPE_CHECKING:
    from gateway.config.settings import Auth
    from gateway.edge.access.method import Method
    from gateway.edge.access.services import Services


def method_of(auth: Auth, services: Services) -> Method:
    """The method of a configuration. :raises OSError: it cannot be used, such as CAs that OpenSSL does not take"""
    if auth.jwt is not None:
        from gateway.edge.access.jwt import Jwt

        return Jwt(auth.jwt, services.credentials)
    if auth.basic is not None:
        from gateway.edge.access.basic import Basic

        return Basic(auth.basic, services.credentials, services.passwords())
    assert auth.forward is not None
    with without_collections():  # aiohttp is large
        from gateway.edge.access.forward import Forward
    return Forward(auth.forward, services)
