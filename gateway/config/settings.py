"""The part of a configuration that a worker needs, as plain data.

These are named tuples, since dataclasses take five times as long to create. A worker imports neither pydantic nor the
schema, which would take a third of its start. All overrides are resolved: a route's timeouts are those that apply.
Names are those of the file, units those of the schema.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Literal, NamedTuple

from gateway.config.address import Address
from gateway.config.settings_access import Access, Auth, Basic, ForwardAuth, Jwt, Rate, RouteLimits
from gateway.config.settings_balancing import Backend, Sticky
from gateway.config.settings_routes import FieldChanges, Match, OwnAnswer, Rewrite, Share

if TYPE_CHECKING:
    from gateway.config import schema
    from gateway.config.certificates import Certificates
    from gateway.config.credentials import Credentials


__all__ = [
    "Access",
    "AccessLog",
    "Auth",
    "Backend",
    "Basic",
    "Certificate",
    "Drain",
    "FieldChanges",
    "ForwardAuth",
    "Heads",
    "Jwt",
    "KeepaliveSide",
    "Listener",
    "ListenerTls",
    "Match",
    "OwnAnswer",
    "Pool",
    "Rate",
    "Rewrite",
    "Route",
    "RouteLimits",
    "Settings",
    "Share",
    "Sticky",
    "Timeouts",
    "Upstream",
    "UpstreamTls",
    "backends_tls_of",
    "listeners_of",
    "tls_of",
]


class Certificate(NamedTuple):
    """A certificate of a listener, with its key."""

    names: tuple[str, ...]
    """host names in lower case, ``*.`` too"""
    kind: str
    """of its key: ``rsa``, ``ec`` or ``other``"""
    chain: str
    """PEM: the certificate, then those of its issuers"""
    key: str
    """PEM"""

    def __repr__(self) -> str:
        return f"Certificate({', '.join(self.names)})"  # keys belong in no log


class ListenerTls(NamedTuple):
    """TLS on a listener. Files are sent with it, so workers start even if one was broken since."""

    certificates: tuple[Certificate, ...]
    min_version: Literal["1.2", "1.3"]
    client_ca: str | None
    """PEM; None if clients are not asked for certificates"""
    client_required: bool


class Listener(NamedTuple):
    """How connections are accepted at one address. Workers get the sockets separately, by address."""

    address: Address
    tls: ListenerTls | None
    proxy_protocol: bool
    """whether trusted proxies begin each connection with a PROXY header"""


class AccessLog(NamedTuple):
    """Destination and format of the access log. ``path`` is None for no log, ``-`` for stdout."""

    path: str | None
    format: Literal["json", "text"]


class Heads(NamedTuple):
    """Limits of a request's head; those of an answer's head are twice as large."""

    max_size: int
    """bytes"""
    max_fields: int


class Timeouts(NamedTuple):
    """The timeouts of a route, in seconds; None if a limit is off."""

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
        """Convert the timeouts that apply to a route."""
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

    ``min`` and ``max`` bound the learned interval, and only apply if ``ping_after`` is "adaptive".
    """

    ping_after: float | Literal["adaptive"] | None
    """None for no Pings"""
    min: float
    max: float
    pong_timeout: float

    @classmethod
    def of(cls, side: schema.KeepaliveSide | None) -> KeepaliveSide:
        """Convert one side of a route. :param side: None for a side that is sent no Pings"""
        if side is None:
            from gateway.config import schema

            # Without Pings the other values are unused; take the defaults.
            side = schema.KeepaliveSide().model_copy(update={"ping_after": None})
        return cls(side.ping_after, side.min, side.max, side.pong_timeout)


class Pool(NamedTuple):
    """Connections kept for plain HTTP, per worker and backend."""

    idle: float
    """seconds"""
    size: int


class UpstreamTls(NamedTuple):
    """TLS to backends, with what was in the files: PEM."""

    ca: str | None
    """None for the system's"""
    server_name: str | None
    """None for each backend's host"""
    cert: str | None
    key: str | None
    """None if it is in ``cert``"""
    verify: bool

    def __repr__(self) -> str:
        return f"UpstreamTls({self.server_name}, verify={self.verify})"  # keys belong in no log


class Upstream(NamedTuple):
    """Interchangeable backends."""

    backends: tuple[Backend, ...]
    balance: Literal["round_robin", "least_tunnels", "random_two", "consistent_hash", "sticky"]
    hash_on: str | None
    """None unless it is ``consistent_hash``"""
    hash_bound: float | None
    """most load of a backend as a multiple of its share; None for any"""
    sticky: Sticky | None
    """None unless it is ``sticky``"""
    slow_start: float | None
    """seconds; None for full weights at once"""
    ejects: bool
    """whether workers count failures of its backends"""
    connect_retries: int
    loss_close_code: int | None
    """sent to a client when its backend vanishes; None for no Close frame"""
    pool: Pool | None
    """None if each request gets its own connection"""
    tls: UpstreamTls | None
    proxy_protocol: Literal["v1", "v2"] | None
    """version of the PROXY header that begins each connection; None for no header"""

    @classmethod
    def of(cls, upstream: schema.Upstream, certificates: Certificates | None = None) -> Upstream:
        """Convert an upstream. :param certificates: needed where it has TLS"""
        return cls(
            backends=tuple(map(Backend.of, upstream.backends)),
            balance=upstream.balance,
            hash_on=upstream.resolved_hash_on(),
            hash_bound=upstream.hash_bound,
            sticky=Sticky.of(upstream),
            slow_start=upstream.slow_start,
            ejects=upstream.eject is not None,
            connect_retries=upstream.connect_retries,
            loss_close_code=upstream.on_loss.close_code if upstream.on_loss else None,
            pool=Pool(upstream.pool.idle, upstream.pool.size) if upstream.pool else None,
            tls=None if certificates is None else tls_of(upstream, certificates),
            proxy_protocol=upstream.proxy_protocol,
        )


class Route(NamedTuple):
    """Where matching requests go, and which upgrades are allowed."""

    name: str
    match: Match
    upstreams: tuple[Share, ...]
    """one or more; none if the route answers itself"""
    answer: OwnAnswer | None
    rewrite: Rewrite | None
    headers: FieldChanges | None
    """toward backends"""
    answer_headers: FieldChanges | None
    upgrades: tuple[str, ...]
    http: Literal["proxy", "reject"]
    timeouts: Timeouts
    client: KeepaliveSide
    backend: KeepaliveSide
    access: Access | None
    limits: RouteLimits | None

    @classmethod
    def of(cls, route: schema.Route, config: schema.Config) -> Route:
        """Convert a route, merged with the gateway's timeouts and keepalive."""
        keepalive = config.keepalive_of(route)
        return cls(
            name=route.name,
            match=Match.of(route.match),
            upstreams=tuple(Share(share.name, share.weight) for share in route.shares()),
            answer=OwnAnswer.of(route),
            rewrite=Rewrite.of(route.rewrite),
            headers=FieldChanges.of(route.headers),
            answer_headers=FieldChanges.of(route.answer_headers),
            upgrades=route.upgrades,
            http=route.http,
            timeouts=Timeouts.of(config.timeouts_of(route)),
            client=KeepaliveSide.of(keepalive.client),
            backend=KeepaliveSide.of(keepalive.backend),
            access=Access.of(route),
            limits=RouteLimits.of(route.limits),
        )


class Drain(NamedTuple):
    """The pace of a drain, in seconds, and the close code sent."""

    period: float
    close_code: int


class Settings(NamedTuple):
    """Everything that a worker needs of a configuration."""

    listen: tuple[Listener, ...]
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
    heads: Heads
    underscores: Literal["drop", "pass", "reject"]
    access_log: AccessLog
    request_head: float
    """timeout in seconds; global, since a request's route is only known once its head has arrived"""
    http_idle: float
    """how many seconds a client's connection is kept between requests; global, since their routes may differ"""
    drain: Drain
    upstreams: dict[str, Upstream]
    routes: tuple[Route, ...]
    credentials: dict[str, str]
    """users and keys: texts by the absolute path of their file, or by the URL where they were fetched"""

    @classmethod
    def of(
        cls, config: schema.Config, certificates: Certificates | None = None, credentials: Credentials | None = None
    ) -> Settings:
        """Convert a configuration for the workers.

        :param certificates: of its listeners and upstreams; read now if absent
        :param credentials: of its routes; read now if absent
        :raises BadValue: a file that is read cannot be used
        """
        certificates = certificates or _read_certificates(config)
        if credentials is None:
            from gateway.config.credentials import Credentials

            credentials = Credentials.read(config)
        return cls(
            listen=listeners_of(config, certificates),
            trusted_proxies=config.trusted_proxies,
            heads=Heads(config.heads.max_size, config.heads.max_fields),
            underscores=config.underscores,
            access_log=AccessLog(config.access_log.path, config.access_log.format),
            request_head=config.timeouts.request_head,
            http_idle=config.timeouts.http_idle,
            drain=Drain(config.drain.period, config.drain.close_code),
            upstreams={name: Upstream.of(upstream, certificates) for name, upstream in config.upstreams.items()},
            routes=tuple(Route.of(route, config) for route in config.routes),
            credentials=credentials.texts,
        )

    @property
    def keeps_secrets(self) -> bool:
        """Whether workers have keys, hashes of passwords or the like in their memory."""
        return self.uses_tls or any(route.access is not None and route.access.auth is not None for route in self.routes)

    @property
    def uses_tls(self) -> bool:
        """Whether any listener or upstream has TLS."""
        return any(listener.tls is not None for listener in self.listen) or bool(self.upstreams_with_tls())

    def upstreams_with_tls(self) -> dict[str, UpstreamTls]:
        """TLS of upstreams that have it, by their names."""
        return {name: upstream.tls for name, upstream in self.upstreams.items() if upstream.tls is not None}


def listeners_of(config: schema.Config, certificates: Certificates | None = None) -> tuple[Listener, ...]:
    """Convert the listeners of a configuration. Arguments and errors as of :meth:`Settings.of`."""
    certificates = certificates or _read_certificates(config)
    return tuple(
        Listener(
            listener.address,
            None if listener.tls is None or certificates is None else certificates.settings_of(listener.tls),
            listener.proxy_protocol,
        )
        for listener in config.listen
    )


def backends_tls_of(config: schema.Config, certificates: Certificates) -> dict[str, UpstreamTls]:
    """Convert the TLS of upstreams that have it, by their names."""
    found = {name: tls_of(upstream, certificates) for name, upstream in config.upstreams.items()}
    return {name: tls for name, tls in found.items() if tls is not None}


def tls_of(upstream: schema.Upstream, certificates: Certificates) -> UpstreamTls | None:
    """Convert the TLS of an upstream; None if it has none.

    Backends that DNS finds by a name are known by addresses, but their certificates have the name.
    """
    if upstream.tls is None:
        return None
    tls = certificates.settings_of_upstream(upstream.tls)
    if tls.server_name is None and upstream.discover is not None and not upstream.backends:
        tls = tls._replace(server_name=upstream.discover.name)
    return tls


def _read_certificates(config: schema.Config) -> Certificates | None:
    """:returns: None where none are needed. :raises BadValue: one cannot be used"""
    plain = [listener.tls is None for listener in config.listen]
    if all(plain) and all(upstream.tls is None for upstream in config.upstreams.values()):
        return None
    from gateway.config.certificates import Certificates

    return Certificates.read(config)
