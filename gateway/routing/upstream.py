"""Upstreams: named groups of backends, and what holds for each of them."""

from __future__ import annotations

from collections.abc import Collection
from zlib import crc32

from gateway.config.settings import Settings
from gateway.config.settings import Upstream as UpstreamSettings
from gateway.routing.balancing import Key, Policy, Standing, Target, policy_of
from gateway.routing.balancing.consistent_hash import ConsistentHash
from gateway.routing.balancing.keys import KeyOf, key_of
from gateway.routing.balancing.rendezvous import bucket_of
from gateway.routing.balancing.settling import Settling
from gateway.routing.balancing.sticky import Sticky
from gateway.routing.limits import nanoseconds
from gateway.routing.registry import Registry

_BUCKET_BITS = 17
"""Of a hash key, as rows hold it: the lowest are the key's bucket plus 1. The rest says what was hashed."""


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
            self.key_of = self.sticky.cookie_of
        self._hash_tag = crc32((settings.hash_on or "").encode()) << _BUCKET_BITS
        self.is_keyed = self.hashes or self.sticky is not None
        """whether two requests of one connection may have to go to different backends"""
        self._seen: int | None = None
        self._in_service: list[Target] = []
        self._primary = policy_of(settings, [target for target in self.targets if not target.backup], standing)
        self._backup = policy_of(settings, [target for target in self.targets if target.backup], standing)
        self._policies: list[Policy] = []
        self._settling: list[Policy] = []
        self._settling_until_ns = 0

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
        policies = self._policies
        if self._settling_until_ns and not brief:
            if standing.now_ns() < self._settling_until_ns:
                policies = self._settling
            else:
                self.settle(0)
        for policy in policies:
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

    # --- moving tunnels to where they belong -------------------------------------------------------------------------

    def settle(self, until_ns: int) -> None:
        """Send new tunnels where the fewest are for a while, so that those that were moved do not come back.

        Keys that are hashed have a place of their own, and go there as ever.

        :param until_ns: ``CLOCK_MONOTONIC``; 0 to go by the policy again
        """
        if self.hashes:
            return
        if until_ns and not self._settling:
            self._settling = [Settling(self._standing, self.sticky), Settling(self._standing, None)]
            self._seen = None
        elif not until_ns:
            self._settling = []
        self._settling_until_ns = until_ns

    def candidates(self) -> list[Target]:
        """Where tunnels belong now: the backends in service, or the backups if no other one is."""
        self._refresh()
        primary = [target for target in self._in_service if not target.backup]
        return primary or self._in_service

    def backups(self) -> list[Target]:
        """The backups in service while they are not needed, except for what the others have no room for."""
        self._refresh()
        backup = [target for target in self._in_service if target.backup]
        return backup if len(backup) < len(self._in_service) else []

    def hash_key(self, key: Key | None) -> int:
        """What a row says of a key that was hashed, for :meth:`bucket_in`."""
        return self._hash_tag | bucket_of(key if isinstance(key, bytes) else (key or "").encode()) + 1

    def bucket_in(self, hash_key: int) -> int | None:
        """The bucket of a row's key; None if nothing was hashed, or something else than now."""
        bucket = hash_key - self._hash_tag - 1
        return bucket if 0 <= bucket < 1 << (_BUCKET_BITS - 1) else None

    def hashing(self) -> ConsistentHash | None:
        """The policy that knows where keys belong now; None if keys are not hashed."""
        self._refresh()
        policy = self._primary if any(not target.backup for target in self._in_service) else self._backup
        return policy if isinstance(policy, ConsistentHash) else None

    def _refresh(self) -> None:
        changed = self._standing.changed()
        if changed != self._seen:
            self._look()
            self._seen = changed

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
        for settling, candidates in zip(self._settling, (primary, backup), strict=False):
            settling.use(candidates)
        if self.sticky is not None:
            self.sticky.use(in_service)
            self._policies.insert(0, self.sticky)


class _Nowhere(Upstream):
    """That of a route that answers itself: no request is sent there."""

    def __init__(self) -> None:
        self.name = "-"


NOWHERE = _Nowhere()
