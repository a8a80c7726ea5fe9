"""What of a configuration a worker needs, and the form in which it gets it.

Plain data (named tuples, as a dataclass takes five times as long to be made): a worker imports neither pydantic nor the
schema, which took a third of its start. Whatever several keys of the file say together has been settled (a route's
timeouts are those that apply), so there is no other way to read it. Names are those of the file, and units those of the
schema.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Literal, NamedTuple

from gateway.config.address import Address

if TYPE_CHECKING:
    from gateway.config import schema


class AccessLog(NamedTuple):
    """Where lines go, and in which form. ``path`` is None for no log, ``-`` for stdout."""

    path: str | None
    format: Literal["json", "text"]


class Heads(NamedTuple):
    """Limits of a request's head; an answer's may be twice that."""

    max_size: int
    """bytes"""
    max_fields: int


class Timeouts(NamedTuple):
    """A route's, in seconds; None where a limit is off."""

    connect: float
    handshake: float
    write_stall: float
    close: float
    request_body: float
    response: float | None
    idle: float | None
    max_lifetime: float | None

    @classmethod
    def of(cls, timeouts: schema.Timeouts) -> Timeouts:
        """Those that apply on a route."""
        return cls(
            connect=timeouts.connect,
            handshake=timeouts.handshake,
            write_stall=timeouts.write_stall,
            close=timeouts.close,
            request_body=timeouts.request_body,
            response=timeouts.response,
            idle=timeouts.idle,
            max_lifetime=timeouts.max_lifetime,
        )


class KeepaliveSide(NamedTuple):
    """How one side is kept alive, in seconds.

    ``min`` and ``max`` bound what is learned, and have no meaning unless ``ping_after`` is "adaptive".
    """

    ping_after: float | Literal["adaptive"] | None
    """None for no Pings"""
    min: float
    max: float
    pong_timeout: float

    @classmethod
    def of(cls, side: schema.KeepaliveSide | None) -> KeepaliveSide:
        """One side of a route. :param side: None for one that is sent no Pings"""
        if side is None:
            from gateway.config import schema

            # What goes with no Pings means nothing: the defaults do.
            side = schema.KeepaliveSide(ping_after="off")  # type: ignore[arg-type]  # as it stands in a file
        return cls(side.ping_after, side.min, side.max, side.pong_timeout)


class Backend(NamedTuple):
    """One server of an upstream."""

    address: Address
    weight: int


class Pool(NamedTuple):
    """Connections kept for plain HTTP, for each worker and backend."""

    idle: float
    """seconds"""
    size: int


class Upstream(NamedTuple):
    """Backends of which any can serve a tunnel or a request."""

    backends: tuple[Backend, ...]
    balance: Literal["round_robin", "least_tunnels"]
    connect_retries: int
    loss_close_code: int | None
    """what a client is told when its backend vanishes; None for nothing"""
    pool: Pool | None
    """None where each request gets a connection of its own"""

    @classmethod
    def of(cls, upstream: schema.Upstream) -> Upstream:
        """One of the file's."""
        return cls(
            backends=tuple(Backend(backend.address, backend.weight) for backend in upstream.backends),
            balance=upstream.balance,
            connect_retries=upstream.connect_retries,
            loss_close_code=upstream.on_loss.close_code if upstream.on_loss else None,
            pool=Pool(upstream.pool.idle, upstream.pool.size) if upstream.pool else None,
        )


class Match(NamedTuple):
    """The conditions of a route; a request has to meet all that are given."""

    hosts: tuple[str, ...]
    path: str | None
    path_exact: str | None
    path_regex: str | None
    subprotocols: tuple[str, ...]

    @classmethod
    def of(cls, match: schema.Match) -> Match:
        """Those of a route of the file."""
        return cls(match.hosts, match.path, match.path_exact, match.path_regex, match.subprotocols)


class Route(NamedTuple):
    """Where the requests that match go, and what they may become."""

    name: str
    match: Match
    upstream: str
    upgrades: tuple[str, ...]
    http: Literal["proxy", "reject"]
    timeouts: Timeouts
    client: KeepaliveSide
    backend: KeepaliveSide

    @classmethod
    def of(cls, route: schema.Route, config: schema.Config) -> Route:
        """One of the file's, with what it leaves to the gateway filled in."""
        keepalive = config.keepalive_of(route)
        return cls(
            name=route.name,
            match=Match.of(route.match),
            upstream=route.upstream,
            upgrades=route.upgrades,
            http=route.http,
            timeouts=Timeouts.of(config.timeouts_of(route)),
            client=KeepaliveSide.of(keepalive.client),
            backend=KeepaliveSide.of(keepalive.backend),
        )


class Drain(NamedTuple):
    """The pace of a drain in seconds, and what clients and backends are told."""

    period: float
    close_code: int


class Settings(NamedTuple):
    """All that a worker needs of a configuration."""

    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
    heads: Heads
    underscores: Literal["drop", "pass", "reject"]
    access_log: AccessLog
    request_head: float
    """the timeout in seconds: which route a request has is only known when its head is there"""
    http_idle: float
    """seconds that a client's connection is kept between two requests, which may be of different routes"""
    drain: Drain
    upstreams: dict[str, Upstream]
    routes: tuple[Route, ...]

    @classmethod
    def of(cls, config: schema.Config) -> Settings:
        """What workers are sent."""
        return cls(
            trusted_proxies=config.trusted_proxies,
            heads=Heads(config.heads.max_size, config.heads.max_fields),
            underscores=config.underscores,
            access_log=AccessLog(config.access_log.path, config.access_log.format),
            request_head=config.timeouts.request_head,
            http_idle=config.timeouts.http_idle,
            drain=Drain(config.drain.period, config.drain.close_code),
            upstreams={name: Upstream.of(upstream) for name, upstream in config.upstreams.items()},
            routes=tuple(Route.of(route, config) for route in config.routes),
        )
