"""The configuration in force in one worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.config.settings import Access as AccessSettings
from gateway.edge.access.access import Access
from gateway.edge.access.methods import method_of
from gateway.edge.forwarding import loop_mark
from gateway.edge.trust import Trust
from gateway.routing.routes import Routes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.config.settings import Auth, Backend, Settings
    from gateway.edge.access.method import Method
    from gateway.edge.access.services import Services
    from gateway.routing.balancing import Standing
    from gateway.routing.registry import Registry

NS = 1_000_000_000
NO_RULES = AccessSettings((), (), (), None)


class InForce:
    """What applies to every request from now on. Tunnels and requests on their way keep what they began with."""

    def __init__(
        self, registry: Registry, standing: Standing, gateway_id: int, services: Services, secret: bytes = b""
    ) -> None:
        """
        :param standing: state and load of backends
        :param gateway_id: the same in all processes of this gateway, and in no other gateway
        :param secret: likewise, and not to be guessed
        :param services: what access rules use
        """
        self._services = services
        self._methods: dict[Auth, Method] = {}
        self.registry = registry
        self._standing = standing
        self._secret = secret
        # RFC 8586. Via would do, too, but nginx compresses nothing for requests that have it, nor do others.
        self.loop_mark = loop_mark(gateway_id)
        """names this gateway in ``CDN-Loop``"""
        self.loop_field = b"CDN-Loop: %b\r\n" % self.loop_mark
        self.draining = False
        """whether the gateway shuts down: what is new is refused"""
        self.drained_backends: frozenset[int] = frozenset()
        """numbers of backends that get nothing new"""
        self.in_service: frozenset[int] = frozenset()
        """numbers of backends that may get something new"""
        self.settings: Settings
        self.routes: Routes
        self.trust: Trust
        self.access: dict[int, Access] = {}
        """rules for who may come in, by the number of a route; only of routes that have some"""
        self.underscores = False
        """whether fields with ``_`` in their names go on to backends"""
        self.rejects_underscores = False
        self.max_head = self.max_fields = 0
        """of a request's head: bytes and fields"""
        self.max_answer_head = self.max_answer_fields = 0
        self.request_head_ns = self.http_idle_ns = 0

    def use(self, settings: Settings, registry: Registry, drained_backends: frozenset[int]) -> None:
        """Put a configuration in force.

        :param registry: has numbers for all of its names
        :param drained_backends: numbers of those that get nothing new
        """
        trust = Trust(settings.trusted_proxies)
        access = self._access_of(settings, registry, trust)
        self.registry.use(registry)
        self.drained_backends = drained_backends
        self.routes = Routes(settings, self.registry, self._standing, drained_backends, self._secret)
        self._note_in_service()
        self.trust = trust
        self.access = access
        self.settings = settings
        self.underscores = settings.underscores != "drop"
        self.rejects_underscores = settings.underscores == "reject"
        self.max_head, self.max_fields = settings.heads.max_size, settings.heads.max_fields
        self.max_answer_head, self.max_answer_fields = 2 * self.max_head, 2 * self.max_fields
        self.request_head_ns = int(settings.request_head * NS)
        self.http_idle_ns = int(settings.http_idle * NS)

    def _access_of(self, settings: Settings, registry: Registry, trust: Trust) -> dict[int, Access]:
        """Make the rules of all routes."""
        services = self._services
        methods: dict[Auth, Method] = {}
        access = {}
        for route in settings.routes:
            is_limited = route.limits is not None and route.limits.handshakes is not None
            if route.access is None and not is_limited:
                continue
            method = None
            rules = route.access or NO_RULES
            auth = rules.auth
            if auth is not None:
                # What a method has found out holds as long as its configuration stays the same.
                method = methods.get(auth) or self._methods.get(auth) or method_of(auth, services)
                methods[auth] = method
            take_handshake = services.take_handshake if is_limited else None
            access[registry.route(route.name)] = Access(rules, trust, method, services.count_auth, take_handshake)
        for auth, method in self._methods.items():
            if auth not in methods:
                method.close()
        self._methods = methods
        return access

    def use_backends(
        self, upstreams: Mapping[str, tuple[Backend, ...]], registry: Registry, drained_backends: frozenset[int]
    ) -> frozenset[int]:
        """Choose among other backends, as of :meth:`Edge.use_backends`. Requests on their way do so, too.

        :returns: numbers that belonged to other backends before
        """
        reused = self.registry.use(registry)
        known = self.settings.upstreams
        changed = {name: known[name]._replace(backends=each) for name, each in upstreams.items() if name in known}
        self.settings = self.settings._replace(upstreams={**known, **changed})
        if drained_backends == self.drained_backends:
            for name, settings in changed.items():
                self.routes.upstreams[name].use(settings, self.registry, drained_backends)
            self._note_in_service()
        else:
            self._use_drained(drained_backends)
        return reused

    def close(self) -> None:
        """Let go of what access rules use: no request comes any more."""
        for method in self._methods.values():
            method.close()
        self._methods = {}

    def drain_backends(self, backends: frozenset[int]) -> None:
        """Send backends nothing new from now on. :param backends: their numbers"""
        self._use_drained(self.drained_backends | backends)

    def keep_backends(self, backends: frozenset[int]) -> None:
        """Send backends requests again. :param backends: their numbers"""
        self._use_drained(self.drained_backends - backends)

    def _use_drained(self, drained_backends: frozenset[int]) -> None:
        """Leave these backends out. Requests on their way do so, too: they have the upstreams, which stay the same."""
        self.drained_backends = drained_backends
        for name, upstream in self.routes.upstreams.items():
            upstream.use(self.settings.upstreams[name], self.registry, drained_backends)
        self._note_in_service()

    def _note_in_service(self) -> None:
        upstreams = self.routes.upstreams.values()
        self.in_service = frozenset(target.number for upstream in upstreams for target in upstream.targets)
