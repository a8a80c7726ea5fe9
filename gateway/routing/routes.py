"""Routes: which requests they take, and what a request gets there. The first match wins."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from gateway.config import settings
from gateway.config.settings import Settings, Timeouts
from gateway.protocol.heads import BadHead, RequestHead
from gateway.protocol.target import other_paths
from gateway.routing.answers import OwnAnswer
from gateway.routing.balancing import Standing
from gateway.routing.changes import Changes
from gateway.routing.further import Looks
from gateway.routing.limits import Keepalive, Limits
from gateway.routing.matching import Asked, Subject, condition_of
from gateway.routing.recent import Recent
from gateway.routing.registry import Registry
from gateway.routing.rewriting import Rewrite, Rewritten, rewrite_of
from gateway.routing.shares import Shares
from gateway.routing.spellings import Spellings
from gateway.routing.upstream import NOWHERE, Upstream

MAX_KNOWN = 1024
MAX_KNOWN_BYTES = 512


class NoRoute(Exception):
    """No route takes a request. ``str()`` is the reason that its client is told."""


class NotRewritten(BadHead):
    """The route that takes a request cannot rewrite its path."""

    def __init__(self, error: BadHead, route: Route) -> None:
        super().__init__(error.status, str(error))
        self.route = route


@dataclass(frozen=True, slots=True)
class Route:
    """A route as a worker uses it."""

    name: str
    number: int
    """as the shared table knows it"""
    upstream: Upstream | None
    """None if it depends on the client; NOWHERE if the route answers itself"""
    upgrades: frozenset[bytes]
    proxies_http: bool
    timeouts: Timeouts
    limits: Limits
    keepalive: tuple[Keepalive, Keepalive]
    """of the client's side, of the backend's side"""
    shares: Shares | None = None
    """upstreams that clients are divided among"""
    answer: OwnAnswer | None = None
    rewrite: Rewrite | None = None
    changes: Changes | None = None
    """in heads of requests for backends"""
    answer_changes: Changes | None = None
    """in heads of answers for clients"""


class Found(NamedTuple):
    """The route of a request, and what the log says of it."""

    route: Route
    host: str
    """in lower case, without a port"""
    path: str
    """as it came"""
    rewritten: Rewritten | None
    """what backends get in place of the path; None for the path itself"""


class Routes:
    """The routes of a configuration, in order."""

    def __init__(
        self,
        config: Settings,
        registry: Registry,
        standing: Standing,
        drained: Collection[int] = (),
        secret: bytes = b"",
    ) -> None:
        """
        :param standing: state and load of backends
        :param drained: numbers of backends that get nothing new
        :param secret: of this gateway, for cookies
        :raises ValueError: the registry has no number for a name: it was not shown this configuration
        """
        self.upstreams = {
            name: Upstream(name, config, registry, standing, drained, secret) for name in config.upstreams
        }
        self.routes = [
            Route(
                name=route.name,
                number=registry.route(route.name),
                upstream=self._upstream_of(route),
                upgrades=frozenset(name.encode() for name in route.upgrades),
                proxies_http=route.http == "proxy",
                timeouts=route.timeouts,
                limits=Limits.of(route.timeouts, route.limits),
                keepalive=(Keepalive.of(route.client), Keepalive.of(route.backend)),
                shares=self._shares_of(route),
                answer=OwnAnswer(route.answer) if route.answer is not None else None,
                rewrite=rewrite_of(route.rewrite) if route.rewrite is not None else None,
                changes=Changes.of(route.headers) if route.headers is not None else None,
                answer_changes=Changes.of(route.answer_headers) if route.answer_headers is not None else None,
            )
            for route in config.routes
        ]
        self.known: Recent[Asked, Found] = Recent(MAX_KNOWN)
        """what requests were found to match that are alike in all that matching looks at, as most of a site's are"""
        self._looks = Looks.of(configured.match for configured in config.routes)
        self.sought: Recent[tuple[RequestHead, bytes], Any] | None = None
        """what the edge has found that handshakes ask for, by the head that they are like and their path; None where
        routes look at the query, too. Other than that like heads differ in ``Sec-WebSocket-Key`` only, which no route
        may look at"""
        if self._looks is None or not self._looks.at_query:
            self.sought = Recent(MAX_KNOWN)
        self._spellings = Spellings(config.routes, self._looks)
        self._access = {route.name: route.access for route in config.routes}
        self._conditions = [
            (condition_of(configured.match, self._looks), route)
            for configured, route in zip(config.routes, self.routes, strict=True)
        ]

    def _upstream_of(self, route: settings.Route) -> Upstream | None:
        if not route.upstreams:
            return NOWHERE
        return self.upstreams[route.upstreams[0].name] if len(route.upstreams) == 1 else None

    def _shares_of(self, route: settings.Route) -> Shares | None:
        if len(route.upstreams) < 2:
            return None
        return Shares([(self.upstreams[share.name], share.weight) for share in route.upstreams])

    def find(self, head: RequestHead) -> Found:
        """Return the first route that takes a request.

        :raises BadHead: with status 400: its target is malformed, names another host than Host, has dot segments that
            would lead a backend to what another route is for, or is one that some backends take for what has other
            rules
        :raises NotRewritten: its path cannot be rewritten; with status 414 where that is too long
        :raises NoRoute: none does
        """
        asked = Asked.by(head, self._looks)
        found = self.known.get(asked)
        if found is None:
            subject = Subject.of(asked)
            route = self.match(subject)
            if route is None:
                raise NoRoute(f"no route for host {subject.host!r} and path {subject.path[:200]!r}")
            others = [subject._replace(path=path) for path in other_paths(asked.path)]
            if any(self.match(other) is not route for other in others):
                raise BadHead(400, "dot segments in the request target that lead servers to different paths")
            access = self._access[route.name]
            if any(self._spellings.is_evasive(each, access) for each in (subject, *others)):
                raise BadHead(400, "a spelling of a path or host that some servers take for one with other rules")
            try:
                rewritten = None if route.rewrite is None else route.rewrite(subject.path)
            except BadHead as error:
                raise NotRewritten(error, route) from None
            found = Found(route, subject.host, asked.path.decode("latin-1"), rewritten)
            if asked.size() <= MAX_KNOWN_BYTES:
                self.known.keep(asked, found)
        return found

    def match(self, subject: Subject) -> Route | None:
        """Return the first route that takes what matching sees of a request; None if none does."""
        for condition, route in self._conditions:
            if condition is None or condition(subject):
                return route
        return None
