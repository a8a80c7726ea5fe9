"""Routes that no request can reach, as an earlier one takes all that they could.

A warning is given only where that is certain. It is not where several earlier routes share a later one's requests, and
of regular expressions only equal ones are compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gateway.config.errors import BadValue, KeyPath
from gateway.config.matching import Match
from gateway.config.regex_cost import check_cost
from gateway.config.routes import Route
from gateway.config.section import Conflict
from gateway.config.words import quoted
from gateway.protocol.target import normal_path


def unreachable(routes: tuple[Route, ...]) -> Iterator[Conflict]:
    """Yield a warning for each route that no request can reach."""
    for index, route in enumerate(routes):
        for earlier in routes[:index]:
            if takes_all_of(earlier.match, route.match):
                message = f"warning: no request reaches this route: {quoted(earlier.name)}, before it, takes them all"
                yield Conflict(("routes", index, "name"), BadValue(message, "the narrower one first, or not at all"))
                break


def useless(routes: tuple[Route, ...]) -> Iterator[Conflict]:
    """Yield a warning for each prefix to strip that no path of its route has."""
    for index, route in enumerate(routes):
        strip = None if route.rewrite is None else route.rewrite.strip_prefix
        if strip is None:
            continue
        has = route.match.path_exact
        below = route.match.path
        if (has is not None and not _is_below(has, strip)) or (
            below is not None and not _is_below(below, strip) and not _is_below(strip, below)
        ):
            message = f"warning: no path that this route matches begins with {quoted(strip)}"
            key: KeyPath = ("routes", index, "rewrite", "strip_prefix")
            yield Conflict(key, BadValue(message, "a prefix of what `match` has"))


def slow_expressions(routes: tuple[Route, ...]) -> Iterator[Conflict]:
    """Yield a warning for each `path_regex` that a client's path can make take long."""
    for index, route in enumerate(routes):
        if route.match.path_regex is None:
            continue
        try:
            check_cost(route.match.path_regex)
        except BadValue as error:
            message = f"warning: {error.message}"
            yield Conflict(("routes", index, "match", "path_regex"), BadValue(message, error.hint))


def takes_all_of(one: Match, other: Match) -> bool:
    """Return whether every request that meets `other` meets `one`. False if it is not certain."""
    return (
        _hosts(one, other)
        and _paths(one, other)
        and _any_of(one.subprotocols, other.subprotocols)
        and _any_of(one.methods, other.methods)
        and _all_of(_lower(one.headers), _lower(other.headers))
        and _all_of(one.query, other.query)
    )


def _hosts(one: Match, other: Match) -> bool:
    if not one.hosts:
        return True
    suffixes = tuple(host[1:] for host in one.hosts if host.startswith("*."))
    return bool(other.hosts) and all(
        host in one.hosts or (bool(suffixes) and host.removeprefix("*").endswith(suffixes)) for host in other.hosts
    )


def _paths(one: Match, other: Match) -> bool:
    if one.path_regex is not None:
        if other.path_exact is not None:
            return re.search(one.path_regex, normal_path(other.path_exact.encode())) is not None
        return one.path_regex == other.path_regex
    if one.path_exact is not None:
        return other.path_exact is not None and _normal(one.path_exact) == _normal(other.path_exact)
    if one.path is None or not _normal(one.path).rstrip("/"):
        return True
    path = other.path if other.path is not None else other.path_exact
    return path is not None and _is_below(path, one.path)


def _is_below(path: str, prefix: str) -> bool:
    whole = _normal(prefix).rstrip("/")
    return _normal(path).rstrip("/") == whole or _normal(path).startswith(whole + "/")


def _normal(path: str) -> str:
    return normal_path(path.encode())


def _any_of(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return not one or (bool(other) and set(other) <= set(one))


def _all_of(one: dict[str, str], other: dict[str, str]) -> bool:
    return one.items() <= other.items()


def _lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
