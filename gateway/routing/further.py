"""What routes look at in a request beside host, path and subprotocols: fields, parameters, the method.

Which of them counts is up to the configuration, and only those are part of the key under which routes are kept
(:class:`gateway.routing.matching.Asked`). Without such conditions none of this is done.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from gateway.config.settings import Match
from gateway.protocol.fields import hop_by_hop
from gateway.protocol.heads import RequestHead

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")


class Further(NamedTuple):
    """Values that routes look at, in the order of their :class:`Looks`."""

    method: bytes
    """empty if no route looks at it"""
    fields: tuple[bytes | None, ...]
    """None for those that a backend does not get"""
    parameters: tuple[bytes | None, ...]
    """decoded; None for those that are missing, or have several values"""

    def size(self) -> int:
        """Return how many bytes it has."""
        return len(self.method) + sum([len(value) for value in (*self.fields, *self.parameters) if value is not None])


NOTHING_FURTHER = Further(b"", (), ())


class Looks:
    """What the routes of a configuration look at."""

    def __init__(self, matches: Iterable[Match]) -> None:
        matches = list(matches)
        self._method = any(match.methods for match in matches)
        self._fields = _numbered(name.encode() for match in matches for name, _ in match.headers)
        self._parameters = _numbered(name.encode() for match in matches for name, _ in match.query)

    @property
    def at_query(self) -> bool:
        """Whether they look at the query."""
        return bool(self._parameters)

    @classmethod
    def of(cls, matches: Iterable[Match]) -> Looks | None:
        """Return what routes look at; None for nothing."""
        looks = cls(matches)
        return looks if looks._method or looks._fields or looks._parameters else None

    def at(self, head: RequestHead, query: bytes) -> Further:
        """Return what a request has of it. :param query: of its target, with ``?``"""
        fields: tuple[bytes | None, ...] = ()
        parameters: tuple[bytes | None, ...] = ()
        if self._fields:
            # What is checked is what is sent: a field that the client names in Connection goes no further.
            dropped = hop_by_hop(head) - {b"upgrade"}
            fields = tuple(
                [
                    b", ".join(head.values(name)) if name in head.first and name not in dropped else None
                    for name in self._fields
                ]
            )
        if self._parameters:
            parameters = self._parameters_of(query)
        return Further(head.method if self._method else b"", fields, parameters)

    def _parameters_of(self, query: bytes) -> tuple[bytes | None, ...]:
        """The parameters of a query, as the URL standard has them (application/x-www-form-urlencoded).

        Servers differ in which of several values they take. So a parameter that has two different ones has none.
        """
        found: list[bytes | None] = [None] * len(self._parameters)
        ambiguous: set[int] = set()
        for part in query[1:].split(b"&"):
            name, _, value = part.partition(b"=")
            place = self._parameters.get(_decoded(name))
            if place is None:
                continue
            value = _decoded(value)
            if found[place] is not None and found[place] != value:
                ambiguous.add(place)
            found[place] = value
        for place in ambiguous:
            found[place] = None
        return tuple(found)

    def condition(self, match: Match) -> Callable[[Further], bool] | None:
        """Return what a request must pass to match, so far; None where every request does."""
        methods = frozenset(method.encode() for method in match.methods)
        fields = [(self._fields[name.encode()], value.encode()) for name, value in match.headers]
        parameters = [(self._parameters[name.encode()], value.encode()) for name, value in match.query]
        if not (methods or fields or parameters):
            return None
        return lambda further: (
            (not methods or further.method in methods)
            and all([further.fields[place] == value for place, value in fields])
            and all([further.parameters[place] == value for place, value in parameters])
        )


def _numbered(names: Iterable[bytes]) -> dict[bytes, int]:
    return {name: place for place, name in enumerate(sorted(set(names)))}


def _decoded(text: bytes) -> bytes:
    text = text.replace(b"+", b" ") if b"+" in text else text
    return _ESCAPE.sub(lambda escape: bytes((int(escape[1], 16),)), text) if b"%" in text else text
