"""Numbers for the names of routes and backends, as rows of the shared table hold them.

The supervisor gives them out and never gives one to another name while it lives: totals of a route that was renamed
away stay its own, and a tunnel that outlives a reload still says where it leads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config.schema import Config


class RegistryFull(Exception):
    """More distinct names than the table has room for, since the gateway was started."""


@dataclass
class Registry:
    """Names by number: routes by name, backends by (upstream, address)."""

    max_routes: int
    max_backends: int
    routes: list[str] = field(default_factory=list)
    backends: list[tuple[str, str]] = field(default_factory=list)

    def admit(self, config: Config) -> None:
        """Number every route and backend of a configuration that has no number yet.

        :raises RegistryFull: there is no room; nothing has changed then
        """
        routes = [route.name for route in config.routes if route.name not in self.routes]
        backends = [
            key
            for name, upstream in config.upstreams.items()
            for backend in upstream.backends
            if (key := (name, str(backend.address))) not in self.backends
        ]
        if len(self.routes) + len(routes) > self.max_routes:
            raise RegistryFull(f"more than {self.max_routes} route names since the gateway started; restart it")
        if len(self.backends) + len(backends) > self.max_backends:
            raise RegistryFull(f"more than {self.max_backends} backends since the gateway started; restart it")
        self.routes += routes
        self.backends += backends

    def sizes(self) -> tuple[int, int]:
        """How many routes and how many backends have numbers."""
        return len(self.routes), len(self.backends)

    def route(self, name: str) -> int:
        """The number of a route. :raises ValueError: it was never admitted"""
        return self.routes.index(name)

    def backend(self, upstream: str, address: str) -> int:
        """The number of a backend. :raises ValueError: it was never admitted"""
        return self.backends.index((upstream, address))
