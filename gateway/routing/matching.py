"""What a request must look like for a route to take it.

Matching sees a :class:`Subject`, which is made of an :class:`Asked` and nothing else; and that is the key under which
:class:`gateway.routing.routes.Routes` keeps what it has found. So a matcher that looks at something more has to have it
added to :class:`Asked` first, and no request can get the route of another one that differs in it. What only some
configurations look at is in :class:`gateway.routing.further.Further`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import AddressValueError, IPv6Address
from typing import NamedTuple

from gateway.config.settings import Match
from gateway.protocol.heads import BadHead, RequestHead
from gateway.protocol.target import normal_path, same_authority, split_target
from gateway.routing.further import NOTHING_FURTHER, Further, Looks


class Asked(NamedTuple):
    """All of a request that matching may look at, as it came."""

    host: bytes
    """of the Host field, or of the target if there is none"""
    path: bytes
    subprotocols: tuple[bytes, ...]
    """values of Sec-WebSocket-Protocol"""
    further: Further = NOTHING_FURTHER
    """what else any route looks at"""

    @classmethod
    def by(cls, head: RequestHead, looks: Looks | None = None) -> Asked:
        """Return what a request asks for.

        :param looks: what routes look at in :class:`Further`; None for nothing
        :raises BadHead: with status 400: its target is malformed, or names another host than Host (RFC 9112 section
            3.2.2): a server that looks at one would serve another site than one that looks at the other
        """
        scheme, authority, path, query = split_target(head.target, head.method)
        host = head.first.get(b"host")
        if host is None:
            host = authority or b""  # of HTTP/1.0
        elif authority is not None and not same_authority(scheme, authority, host):
            raise BadHead(400, "the request target and Host name different hosts")
        further = NOTHING_FURTHER if looks is None else looks.at(head, query)
        if b"sec-websocket-protocol" in head.first:
            return cls(host, path, tuple(head.values(b"sec-websocket-protocol")), further)
        return tuple.__new__(cls, (host, path, (), further))  # as in ``split_target``

    def size(self) -> int:
        """Return how many bytes it has."""
        return len(self.host) + len(self.path) + sum(map(len, self.subprotocols)) + self.further.size()


class Subject(NamedTuple):
    """A request as routes are tested against it."""

    host: str
    """in lower case, without a port or a dot at its end"""
    path: str
    """normalised, see :func:`gateway.protocol.target.normal_path`"""
    subprotocols: tuple[str, ...]
    """those that the client offers"""
    further: Further = NOTHING_FURTHER

    @classmethod
    def of(cls, asked: Asked) -> Subject:
        """Return what routes see of a request.

        :raises BadHead: with status 400, where its path can be read in two ways
        """
        return cls(_host_of(asked.host), normal_path(asked.path), tuple(_tokens(asked.subprotocols)), asked.further)


def _host_of(field: bytes) -> str:
    host = field.decode("latin-1").lower()
    if host.startswith("["):
        return f"[{_ipv6(host[1:].partition(']')[0])}]"
    return host.partition(":")[0].removesuffix(".")


def _ipv6(text: str) -> str:
    """An address in the form that the configuration has it in (RFC 5952)."""
    try:
        return str(IPv6Address(text))
    except AddressValueError:
        return text


def _tokens(values: tuple[bytes, ...]) -> list[str]:
    return [token for value in values for item in value.decode("latin-1").split(",") if (token := item.strip(" \t"))]


Condition = Callable[[Subject], bool]


def condition_of(match: Match, looks: Looks | None = None) -> Condition | None:
    """Return what a request must pass to match; None where every request does.

    :param looks: made of this match, too
    """
    made = [_host_condition(match), _path_condition(match), _subprotocol_condition(match)]
    further = None if looks is None else looks.condition(match)
    if further is not None:
        made.append(lambda subject: further(subject.further))
    parts = [part for part in made if part]
    if not parts:
        return None
    if len(parts) == 1:
        return parts[0]
    return lambda subject: all(part(subject) for part in parts)


def _host_condition(match: Match) -> Condition | None:
    if not match.hosts:
        return None
    exact = frozenset(host for host in match.hosts if not host.startswith("*."))
    suffixes = tuple(host[1:] for host in match.hosts if host.startswith("*."))
    # A wildcard stands for one or more labels, never for none.
    return lambda subject: (
        subject.host in exact
        or (bool(suffixes) and subject.host.endswith(suffixes) and not subject.host.startswith("."))
    )


def _path_condition(match: Match) -> Condition | None:
    if match.path_exact is not None:
        wanted = normal_path(match.path_exact.encode())
        return lambda subject: subject.path == wanted
    if match.path_regex is not None:
        search = re.compile(match.path_regex).search
        return lambda subject: search(subject.path) is not None
    if match.path is None:
        return None
    whole = normal_path(match.path.encode()).rstrip("/")
    if not whole:
        return None
    below = whole + "/"
    return lambda subject: subject.path == whole or subject.path.startswith(below)


def _subprotocol_condition(match: Match) -> Condition | None:
    if not match.subprotocols:
        return None
    wanted = frozenset(match.subprotocols)
    return lambda subject: not wanted.isdisjoint(subject.subprotocols)
