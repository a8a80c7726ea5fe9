"""Upstreams: named groups of backends, and what holds for each of them."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from gateway.config.settings import Settings
from gateway.config.settings import Upstream as UpstreamSettings
from gateway.routing.balancing import Key, Policy, Standing, Target, policy_of
from gateway.routing.balancing.keys import KeyOf, cookie, key_of
from gateway.routing.balancing.sticky import Sticky
from gateway.routing.limits import nanoseconds
from gateway.routing.registry import Registry


class Upstream:
    """A named group of backends, and how one of them is chosen."""

    def __init__(
        self,
        name: str,
        config: Settings,
        registry: Registry,
        standing: Standing,
        drained: Collection[int] = (),
        secret: bytes = b"",
    ) -> None:
        """
        :param standing: state and load of backends
        :param drained: numbers of backends that are left out
        :param secret: of this gateway; signs cookies, where the settings have no secret for that
        """
        settings = config.upstreams[name]
        self.name = name
        self.connect_retries = settings.connect_retries
        self.on_loss_code = settings.loss_close_code or 0
        self.pool_idle_ns = nanoseconds(settings.pool.idle) if settings.pool else 0
        self.pool_size = settings.pool.size if settings.pool else 0
        """connections kept for each backend; 0 where each request gets a connection of its own"""
        self.proxy_protocol = settings.proxy_protocol
        """version of the PROXY header that begins each connection to a backend; None for no header"""
        self.hashes = settings.balance == "consistent_hash"
        """whether requests without a key are told apart by their clients' addresses"""
        self._standing = standing
        self._secret = secret
        self.use(settings, registry, drained)

    def use(self, settings: UpstreamSettings, registry: Registry, drained: Collection[int] = ()) -> None:
        """Choose among the backends of these settings from now on. All else in them is as it was.

        :param registry: has numbers for them
        :param drained: numbers of backends that are left out
        """
        name, standing = self.name, self._standing
        self.targets = [
            Target(
                number=number,
                upstream=name,
                address=backend.address,
                weight=backend.weight,
                label=str(backend.address),
                max_tunnels=backend.max_tunnels or 0,
                backup=backend.backup,
            )
            for backend in settings.backends
            if (number := registry.backend(name, str(backend.address))) not in drained and not backend.drain
        ]
        """backends that may get something new, in service or not"""
        self.sticky: Sticky | None = None
        """names backends in cookies; None unless that is how they are chosen"""
        self.key_of: KeyOf | None = None
        """finds what a policy looks at in a request; None if it needs nothing, or the client's address"""
        if self.hashes:
            self.key_of = key_of(settings.hash_on or "client_ip")
        elif settings.sticky is not None:
            self.sticky = Sticky(name, self.targets, settings.sticky, self._secret)
            self.key_of = partial(cookie, self.sticky.cookie)
        self.is_keyed = self.hashes or self.sticky is not None
        """whether two requests of one connection may have to go to different backends"""
        self._seen: int | None = None
        self._in_service: list[Target] = []
        self._primary = policy_of(settings, [target for target in self.targets if not target.backup], standing)
        self._backup = policy_of(settings, [target for target in self.targets if target.backup], standing)
        self._policies: list[Policy] = []

    def pick(self, key: Key | None = None, tried: Collection[Target] = (), *, brief: bool = False) -> Target | None:
        """Return the backend to try next; None if none is left that is in service and has room.

        Backends marked ``backup`` are next when no other is left. Tunnels of all workers are counted as the shared
        table has them at this moment: if workers decide in the same moment, a backend may get one more than its
        ``max_tunnels`` for each worker but the first. Requests are not bounded by it.

        Arguments as of :meth:`gateway.routing.balancing.policy.Policy.pick`.
        """
        standing = self._standing
        changed = standing.changed()
        if changed != self._seen:
            self._look()
            self._seen = changed
        for policy in self._policies:
            left_out = tried
            while (target := policy.pick(key, left_out, brief=brief)) is not None:
                if not target.max_tunnels or brief or standing.tunnels(target.number) < target.max_tunnels:
                    return target
                left_out = (*left_out, target)
        return None

    def why_none(self) -> str:
        """Why :meth:`pick` has found nothing, for a client that was not refused by a backend."""
        if not self._in_service:
            return "no backend is in service"
        tunnels = self._standing.tunnels
        if all(each.max_tunnels and tunnels(each.number) >= each.max_tunnels for each in self._in_service):
            return "all backends are full (max_tunnels)"
        return "no backend"

    def _look(self) -> None:
        """Find out which backends are in service.

        If less than half are left, those that were merely ejected count as in service: many failures at once are
        more likely to have their cause here or on the way, and the rest could not carry the load of all.
        """
        standing = self._standing
        targets = self.targets
        in_service = [target for target in targets if not standing.is_out(target.number)]
        if 2 * len(in_service) < len(targets):
            in_service = [target for target in targets if not standing.is_down(target.number)]
        self._in_service = in_service
        primary = [target for target in in_service if not target.backup]
        backup = [target for target in in_service if target.backup]
        self._primary.use(primary)
        self._backup.use(backup)
        self._policies = [self._primary, self._backup] if backup else [self._primary]
        if self.sticky is not None:
            self.sticky.use(in_service)
            self._policies.insert(0, self.sticky)


class _Nowhere(Upstream):
    """That of a route that answers itself: no request is sent there."""

    def __init__(self) -> None:
        self.name = "-"


NOWHERE = _Nowhere()
