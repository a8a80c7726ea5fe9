"""The part of a route's settings that says which requests it takes and what becomes of them; see ``settings.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gateway.config import schema


class Match(NamedTuple):
    """The conditions of a route; a request must meet all that are given."""

    hosts: tuple[str, ...]
    path: str | None
    path_exact: str | None
    path_regex: str | None
    subprotocols: tuple[str, ...]
    headers: tuple[tuple[str, str], ...] = ()
    """names in lower case, and values"""
    query: tuple[tuple[str, str], ...] = ()
    methods: tuple[str, ...] = ()

    @classmethod
    def of(cls, match: schema.Match) -> Match:
        """Convert the conditions of a route."""
        return cls(
            match.hosts,
            match.path,
            match.path_exact,
            match.path_regex,
            match.subprotocols,
            tuple((name.lower(), value) for name, value in match.headers.items()),
            tuple(match.query.items()),
            match.methods,
        )


class Share(NamedTuple):
    """An upstream of a route, and its share of the clients."""

    name: str
    weight: int


class Rewrite(NamedTuple):
    """How the path changes for the backend."""

    strip_prefix: str | None
    add_prefix: str | None
    regex: tuple[str, str] | None
    """the expression, and what a path becomes by it"""

    @classmethod
    def of(cls, rewrite: schema.Rewrite | None) -> Rewrite | None:
        """Convert a route's rewrite."""
        if rewrite is None:
            return None
        regex = rewrite.regex
        return cls(rewrite.strip_prefix, rewrite.add_prefix, None if regex is None else (regex.match, regex.to))


class FieldChanges(NamedTuple):
    """Header fields that are set and removed."""

    set: tuple[tuple[str, str], ...]
    remove: tuple[str, ...]

    @classmethod
    def of(cls, fields: schema.RequestFields | schema.AnswerFields | None) -> FieldChanges | None:
        """Convert a route's changes. :returns: None if there are none"""
        if fields is None or not (fields.set or fields.remove):
            return None
        return cls(tuple(fields.set.items()), fields.remove)


class OwnAnswer(NamedTuple):
    """What a route answers in place of a backend."""

    status: int
    to: str | None
    """of a redirect"""
    body: str

    @classmethod
    def of(cls, route: schema.Route) -> OwnAnswer | None:
        """Convert a route's redirect or answer. :returns: None if it has none"""
        if route.redirect is not None:
            return cls(route.redirect.status, route.redirect.to, "")
        if route.respond is not None:
            return cls(route.respond.status, None, route.respond.body)
        return None
