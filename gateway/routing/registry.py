"""Numbers for the names of routes and backends, as rows of the shared table hold them.

The supervisor gives them out. A route's number stays its own: totals of a route that was renamed away, too. A backend's
number is given to another backend once nothing refers to it any more (:class:`Vacancies`), so that backends may come
and go for as long as the gateway runs. Each time its generation rises.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config.schema import Config

BackendKey = tuple[str, str]
"""Upstream and address."""

FREE: BackendKey = ("", "")
"""In place of a backend: the number belongs to none."""

REST_SECONDS = 60.0
"""How long nothing must have referred to a number before it is given to another backend. Longer than a reload may take,
and than workers may take to act on a change."""


class RegistryFull(Exception):
    """More names at the same time than the table has room for."""


@dataclass
class Registry:
    """Names by number: routes by name, backends by (upstream, address)."""

    max_routes: int
    max_backends: int
    routes: list[str] = field(default_factory=list)
    backends: list[BackendKey] = field(default_factory=list)
    generations: list[int] = field(default_factory=list)
    """how many backends had a number before, by number; those that are missing at the end are 0"""

    def __post_init__(self) -> None:
        self._places: dict[BackendKey, int] = {}
        """where backends were found to be; looked up anew where that is no longer so"""

    def admit(self, config: Config) -> None:
        """Number every route and backend of a configuration that has no number yet.

        :raises RegistryFull: there is no room; nothing has changed then
        """
        routes = [route.name for route in config.routes if route.name not in self.routes]
        backends = [
            (name, str(backend.address)) for name, upstream in config.upstreams.items() for backend in upstream.backends
        ]
        if len(self.routes) + len(routes) > self.max_routes:
            raise RegistryFull(f"more than {self.max_routes} route names since the gateway started; restart it")
        self.admit_backends(backends)
        self.routes += routes

    def admit_backends(self, keys: Iterable[BackendKey]) -> None:
        """Number backends that have no number yet. The lowest numbers that are free come first.

        :raises RegistryFull: there is no room; nothing has changed then
        """
        known = set(self.backends)
        new = [key for key in dict.fromkeys(keys) if key not in known]
        free = [number for number, key in enumerate(self.backends) if key == FREE] if FREE in known else []
        if len(new) > len(free) + self.max_backends - len(self.backends):
            raise RegistryFull(f"more than {self.max_backends} backends, those removed within a minute included")
        for number, key in zip(free, new, strict=False):
            self.backends[number] = key
        self.backends += new[len(free) :]

    def free(self, number: int) -> None:
        """Make a backend's number available. Nothing may refer to it any more."""
        self.generations += [0] * (number + 1 - len(self.generations))
        self.generations[number] += 1
        self.backends[number] = FREE

    def use(self, other: Registry) -> frozenset[int]:
        """Take over all names. :returns: numbers of backends that belonged to others before"""
        before = self.generations
        reused = frozenset(
            number
            for number, generation in enumerate(other.generations)
            if generation != (before[number] if number < len(before) else 0)
        )
        self.routes[:] = other.routes
        self.backends[:] = other.backends
        self.generations[:] = other.generations
        return reused

    def sizes(self) -> tuple[int, int]:
        """How many routes and how many backends have numbers, free numbers included."""
        return len(self.routes), len(self.backends)

    def addresses(self) -> list[str]:
        """The addresses of all backends that have numbers, each once."""
        return list(dict.fromkeys(address for _, address in self.backends if address))

    def route(self, name: str) -> int:
        """The number of a route. :raises ValueError: it was never admitted"""
        return self.routes.index(name)

    def backend(self, upstream: str, address: str) -> int:
        """The number of a backend. :raises ValueError: it has none"""
        key = (upstream, address)
        number = self._places.get(key)
        if number is None or number >= len(self.backends) or self.backends[number] != key:
            self._places = {key: number for number, key in enumerate(self.backends)}
            number = self._places.get(key)
            if number is None:
                raise ValueError(f"no number for {address} of {upstream}")
        return number


class Vacancies:
    """Finds numbers that can be given to other backends: those that nothing has referred to for a while."""

    def __init__(self, rest_seconds: float = REST_SECONDS) -> None:
        self._rest = rest_seconds
        self._since: dict[int, float] = {}
        """since when nothing has referred to a number"""

    def look(self, registry: Registry, referred: Collection[int], now: float) -> list[int]:
        """Return the numbers that have rested for long enough. Call this again and again, a few times a minute.

        :param referred: numbers that a configuration, a discovered backend, a tunnel or a request refers to
        :param now: clock in seconds
        """
        vacant = {number for number, key in enumerate(registry.backends) if key != FREE and number not in referred}
        self._since = {number: self._since.get(number, now) for number in vacant}
        return sorted(number for number, since in self._since.items() if now - since >= self._rest)
