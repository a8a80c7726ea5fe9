"""The part of a route's settings that says who may come in, and how much; see ``settings.py``."""

from __future__ import annotations

import json
import math
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gateway.config import schema


class Jwt(NamedTuple):
    """How tokens of a route are verified. Times in seconds."""

    keys: str | None
    """source of the key set: an absolute path or a URL; its text is in ``Settings.credentials``"""
    secret: str | None
    algorithms: tuple[str, ...]
    issuer: tuple[str, ...]
    """empty for any"""
    audience: tuple[str, ...]
    """empty for any"""
    leeway: float
    sources: tuple[tuple[str, str], ...]
    """place (header, cookie, query or subprotocol) and name, in order"""
    require: tuple[tuple[str, str], ...]
    """claim, and what it must be as JSON; of a list one"""
    forward: tuple[tuple[str, str], ...]
    """claim and field"""
    remove_token: bool
    expiry_code: int | None
    """close code; None if tunnels outlive their token"""
    expiry_spread: float

    def __repr__(self) -> str:
        return f"Jwt({', '.join(self.algorithms)})"  # secrets belong in no log


class Basic(NamedTuple):
    """Users of a route."""

    users: str
    """source: an absolute path; its text is in ``Settings.credentials``"""
    realm: str


class ForwardAuth(NamedTuple):
    """The server that is asked about each request of a route. Times in seconds."""

    url: str
    timeout: float
    copy_fields: tuple[str, ...]
    cache: float | None
    """None for not at all"""
    ca: str | None
    """source: an absolute path; its PEM is in ``Settings.credentials``. None for the system's CAs"""


class Auth(NamedTuple):
    """How clients of a route prove who they are: one of these."""

    jwt: Jwt | None
    basic: Basic | None
    forward: ForwardAuth | None

    @classmethod
    def of(cls, auth: schema.Auth) -> Auth:
        """Convert a route's method."""
        jwt = basic = forward = None
        if auth.jwt is not None:
            given = auth.jwt
            jwt = Jwt(
                keys=given.keys,
                secret=given.secret,
                algorithms=given.algorithms,
                issuer=given.issuer,
                audience=given.audience,
                leeway=given.leeway,
                sources=given.sources,
                require=tuple((claim, json.dumps(value)) for claim, value in given.require.items()),
                forward=tuple(given.forward.items()),
                remove_token=given.remove_token,
                expiry_code=None if given.at_expiry is None else given.at_expiry.close_code,
                expiry_spread=0.0 if given.at_expiry is None else given.at_expiry.spread,
            )
        if auth.basic is not None:
            basic = Basic(auth.basic.users, auth.basic.realm)
        if auth.forward is not None:
            asked = auth.forward
            forward = ForwardAuth(asked.url, asked.timeout, asked.copy_fields, asked.cache, asked.ca)
        return cls(jwt, basic, forward)


class Rate(NamedTuple):
    """Events a second, and how many may come at once."""

    per_second: float
    burst: int

    @classmethod
    def of(cls, per_second: float, burst: int | None) -> Rate:
        """Convert a rate; one second's worth may come at once by default."""
        return cls(per_second, burst or math.ceil(per_second))


class RouteLimits(NamedTuple):
    """How much a client may do on a route; None for no limit."""

    handshakes: Rate | None
    """for each client address"""
    tunnels_per_client: int | None
    frame_size: int | None
    """bytes of payload"""
    messages: Rate | None
    """for each tunnel"""

    @classmethod
    def of(cls, limits: schema.Limits | None) -> RouteLimits | None:
        """Convert a route's limits. :returns: None if there are none"""
        if limits is None:
            return None
        handshakes, messages = limits.handshakes_per_second, limits.messages_per_second
        converted = cls(
            None if handshakes is None else Rate.of(handshakes.per_client, handshakes.burst),
            limits.tunnels_per_client,
            limits.frame_size,
            None if messages is None else Rate.of(messages.per_tunnel, messages.burst),
        )
        return None if converted == (None, None, None, None) else converted


class Access(NamedTuple):
    """Who may come in on a route."""

    origins: tuple[str, ...]
    """empty for any"""
    allow: tuple[IPv4Network | IPv6Network, ...]
    """empty for any that ``deny`` does not name"""
    deny: tuple[IPv4Network | IPv6Network, ...]
    auth: Auth | None

    @classmethod
    def of(cls, route: schema.Route) -> Access | None:
        """Convert a route's rules. :returns: None if there are none"""
        if route.origins or route.allow or route.deny or route.auth is not None:
            auth = None if route.auth is None else Auth.of(route.auth)
            return cls(route.origins, route.allow, route.deny, auth)
        return None
