"""Paths and hosts that some servers take for others, where that would get a request past the rules of a route.

A gateway cannot know whether a backend reads ``%2F`` as a slash, drops parameters (``/admin;x``) or ignores case, as
Express does. To routes these are different paths (RFC 3986 sections 2.2 and 6.2.2.1); but where a rule depends on that,
a client that knows the backend could choose the spelling that the rule does not see. So it is with hosts: a server that
parses them as URLs are parsed decodes ``%2e``, and what is beyond ASCII in such escapes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.protocol.target import normal_path, other_readings
from gateway.routing.matching import Subject, condition_of

if TYPE_CHECKING:
    from gateway.config.settings import Access, Match, Route
    from gateway.routing.further import Looks

_ESCAPE = re.compile("%[0-9a-f]{2}")


class Spellings:
    """The routes of a configuration, to those that read paths in another way."""

    def __init__(self, routes: Sequence[Route], looks: Looks | None = None) -> None:
        """:param looks: made of the routes' matches"""
        self._conditions = [(condition_of(_in_lower_case(route.match), looks), route.access) for route in routes]
        self._has_rules = any(route.access is not None for route in routes)
        self._of_hosts = {route.access for route in routes if route.match.hosts}
        """the rules of routes for certain hosts"""

    def is_evasive(self, subject: Subject, access: Access | None) -> bool:
        """Whether some servers read a path or host as one that a route with other rules is for.

        :param access: the rules of the route that takes the request
        """
        if not self._has_rules:
            return False
        if "%" in subject.host and self._of_hosts - {access}:
            return True  # there are many ways to encode a host, and no reason to
        if subject.host.endswith("."):
            subject = subject._replace(host=subject.host.rstrip("."))
        for path in other_readings(subject.path):
            other = self._access_of(subject._replace(path=_lowered(path)))
            if other is not None and other != access:
                return True
        return False

    def _access_of(self, subject: Subject) -> Access | None:
        for condition, access in self._conditions:
            if condition is None or condition(subject):
                return access
        return None


def _lowered(path: str) -> str:
    """A normal path in lower case, still normal: escapes stay in upper case."""
    return _ESCAPE.sub(lambda escape: escape[0].upper(), path.lower())


def _in_lower_case(match: Match) -> Match:
    """The same for paths in lower case, and for the others, too."""
    regex = match.path_regex
    if regex is not None:
        regex = f"(?i:{regex})"
        try:
            re.compile(regex)
        except re.error:
            regex = match.path_regex  # it has flags of its own
    return match._replace(
        path=None if match.path is None else _lowered(normal_path(match.path.encode())),
        path_exact=None if match.path_exact is None else _lowered(normal_path(match.path_exact.encode())),
        path_regex=regex,
    )
