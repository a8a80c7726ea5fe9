"""Routes: what a request must look like, and what a matching one gets. The first match wins."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from gateway.config.settings import KeepaliveSide, Match, Settings, Timeouts
from gateway.config.settings import Route as RouteSettings
from gateway.protocol.target import normal_path
from gateway.routing.balancing import Balancer, LeastTunnels, RoundRobin, Target
from gateway.routing.registry import Registry

NS = 1_000_000_000
NEVER_NS = 2**62


class Upstream:
    """A named group of backends, and the order in which they are tried."""

    def __init__(
        self, name: str, config: Settings, registry: Registry, live: Callable[[int], int], drained: Collection[int] = ()
    ) -> None:
        """
        :param live: tunnels that all workers together hold to a backend, by its number
        :param drained: numbers of backends that are left out
        """
        settings = config.upstreams[name]
        self.name = name
        self.connect_retries = settings.connect_retries
        self.on_loss_code = settings.loss_close_code or 0
        self.pool_idle_ns = int(settings.pool.idle * NS) if settings.pool else 0
        self.pool_size = settings.pool.size if settings.pool else 0
        """connections kept for each backend; 0 where each request gets a connection of its own"""
        self.targets = [
            Target(
                number=number,
                upstream=name,
                address=backend.address,
                weight=backend.weight,
                label=str(backend.address),
            )
            for backend in settings.backends
            if (number := registry.backend(name, str(backend.address))) not in drained
        ]
        self.balancer: Balancer = (
            RoundRobin(self.targets) if settings.balance == "round_robin" else LeastTunnels(self.targets, live)
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """A route's timeouts in nanoseconds; ``NEVER_NS`` for off."""

    connect_ns: int
    handshake_ns: int
    write_stall_ns: int
    close_ns: int
    request_body_ns: int
    response_ns: int
    idle_ns: int
    max_lifetime_ns: int

    @classmethod
    def of(cls, timeouts: Timeouts) -> Limits:
        """The same in nanoseconds."""
        return cls(
            _ns(timeouts.connect),
            _ns(timeouts.handshake),
            _ns(timeouts.write_stall),
            _ns(timeouts.close),
            _ns(timeouts.request_body),
            _ns(timeouts.response),
            _ns(timeouts.idle),
            _ns(timeouts.max_lifetime),
        )


_ADAPTIVE_START_NS = 25 * NS
"""Short enough for nearly every path; what is learned moves it."""


@dataclass(frozen=True, slots=True)
class Keepalive:
    """How one side of a route's tunnels is kept alive, in nanoseconds, as rows of the shared table hold it.

    ``min_ns`` and ``max_ns`` bound what is learned, and have no meaning unless it is ``adaptive``.
    """

    ping_after_ns: int
    """silence before a Ping: ``NEVER_NS`` for off; the interval to begin with where it is adaptive"""
    pong_timeout_ns: int
    min_ns: int
    max_ns: int
    adaptive: bool

    @classmethod
    def of(cls, side: KeepaliveSide) -> Keepalive:
        """The same in nanoseconds."""
        min_ns, max_ns = _ns(side.min), _ns(side.max)
        if side.ping_after == "adaptive":
            first_ns = min(max(_ADAPTIVE_START_NS, min_ns), max_ns)
        else:
            first_ns = _ns(side.ping_after)
        return cls(first_ns, _ns(side.pong_timeout), min_ns, max_ns, side.ping_after == "adaptive")


def _ns(seconds: float | None) -> int:
    return NEVER_NS if seconds is None else int(seconds * NS)


@dataclass(frozen=True, slots=True)
class Route:
    """A route as a worker uses it."""

    name: str
    number: int
    """as the shared table knows it"""
    upstream: Upstream
    upgrades: frozenset[bytes]
    proxies_http: bool
    timeouts: Timeouts
    limits: Limits
    keepalive: tuple[Keepalive, Keepalive]
    """of the client's side, of the backend's side"""


MAX_KNOWN = 1024
MAX_KNOWN_BYTES = 512
Known = tuple[Route, str, str]
"""A route, and the host and path of requests that match it."""


class Routes:
    """The routes of a configuration, in order."""

    def __init__(
        self, config: Settings, registry: Registry, live: Callable[[int], int], drained: Collection[int] = ()
    ) -> None:
        """
        :param drained: numbers of backends that get nothing new
        :raises ValueError: the registry has no number for a name: it was not shown this configuration
        """
        self.upstreams = {name: Upstream(name, config, registry, live, drained) for name in config.upstreams}
        self.routes = [
            Route(
                name=route.name,
                number=registry.route(route.name),
                upstream=self.upstreams[route.upstream],
                upgrades=frozenset(name.encode() for name in route.upgrades),
                proxies_http=route.http == "proxy",
                timeouts=route.timeouts,
                limits=Limits.of(route.timeouts),
                keepalive=(Keepalive.of(route.client), Keepalive.of(route.backend)),
            )
            for route in config.routes
        ]
        self.known: dict[tuple[bytes, ...], Known] = {}
        """what some requests have matched; see :meth:`remember`"""
        self._tests = [(_test_of(settings), route) for settings, route in zip(config.routes, self.routes, strict=True)]

    def find(self, host: str, path: str, subprotocols: Sequence[str]) -> Route | None:
        """The first route that matches.

        :param host: in lower case, without a port
        :param path: normalised, see :func:`gateway.protocol.target.normal_path`
        :param subprotocols: those the client offers
        """
        for test, route in self._tests:
            if test is None or test(host, path, subprotocols):
                return route
        return None

    def remember(self, request: tuple[bytes, ...], known: Known) -> None:
        """Keep what requests match that are alike in all that routes look at: most of a site's handshakes are.

        :param request: what they have in common
        """
        if sum(map(len, request)) <= MAX_KNOWN_BYTES:
            if len(self.known) >= MAX_KNOWN:
                self.known.clear()  # whoever varies its requests pays for each as if there were no memory of them
            self.known[request] = known


Test = Callable[[str, str, Sequence[str]], bool]


def _test_of(route: RouteSettings) -> Test | None:
    """What a request must pass to match; None where everything matches."""
    match = route.match
    parts = [part for part in (_host_test(match), _path_test(match), _subprotocol_test(match)) if part]
    if not parts:
        return None
    if len(parts) == 1:
        return parts[0]
    return lambda host, path, offered: all(part(host, path, offered) for part in parts)


def _host_test(match: Match) -> Test | None:
    if not match.hosts:
        return None
    exact = frozenset(host for host in match.hosts if not host.startswith("*."))
    suffixes = tuple(host[1:] for host in match.hosts if host.startswith("*."))
    # A wildcard stands for one or more labels, never for none.
    return lambda host, path, offered: (
        host in exact or (bool(suffixes) and host.endswith(suffixes) and not host.startswith("."))
    )


def _path_test(match: Match) -> Test | None:
    if match.path_exact is not None:
        wanted = normal_path(match.path_exact.encode())
        return lambda host, path, offered: path == wanted
    if match.path_regex is not None:
        search = re.compile(match.path_regex).search
        return lambda host, path, offered: search(path) is not None
    if match.path is None or match.path == "/":
        return None
    whole = normal_path(match.path.encode()).rstrip("/")
    below = whole + "/"
    return lambda host, path, offered: path == whole or path.startswith(below)


def _subprotocol_test(match: Match) -> Test | None:
    if not match.subprotocols:
        return None
    wanted = frozenset(match.subprotocols)
    return lambda host, path, offered: not wanted.isdisjoint(offered)
