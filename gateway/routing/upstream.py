"""Upstreams: named groups of backends, and what holds for each of them."""

from __future__ import annotations

from collections.abc import Callable, Collection

from gateway.config.settings import Settings
from gateway.routing.balancing import Target, policy_of
from gateway.routing.limits import nanoseconds
from gateway.routing.registry import Registry


class Upstream:
    """A named group of backends, and how one of them is chosen."""

    def __init__(
        self, name: str, config: Settings, registry: Registry, load: Callable[[int], int], drained: Collection[int] = ()
    ) -> None:
        """
        :param load: tunnels and requests in flight that all workers together have to a backend, by its number
        :param drained: numbers of backends that are left out
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
        self.policy = policy_of(settings.balance, self.targets, load)


class _Nowhere(Upstream):
    """That of a route that answers itself: no request is sent there."""

    def __init__(self) -> None:
        self.name = "-"


NOWHERE = _Nowhere()
