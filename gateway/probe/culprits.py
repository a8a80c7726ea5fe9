"""Products that end tunnels by default, after how long, and in what way.

The figures come from the vendors' documentation, and so do the ways if it describes them. Operators can change most of
the limits: a path that cuts after another time may still contain one of these.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from gateway.probe.outcomes import EndedBy
from gateway.probe.words import duration

Way: TypeAlias = tuple[EndedBy, bool]
"""What ends the tunnel, and whether the end comes unprompted (or only in answer to the next bytes)."""

_CLOSES: frozenset[Way] = frozenset((("fin", True), ("reset", True)))
_CLOSES_POLITELY: frozenset[Way] = _CLOSES | {("close_frame", True)}
_FORGETS: frozenset[Way] = frozenset((("silence", False), ("reset", False)))
_FORGETS_OR_RESETS: frozenset[Way] = _FORGETS | {("reset", True)}

# Timers are coarse, and do not start together with the probe's clock.
_SLACK_SECONDS = 1.0
_SLACK_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Culprit:
    """A product that ends tunnels after ``seconds`` of silence, or at that age."""

    name: str
    seconds: float
    setting: str
    """the setting to change; empty if it cannot be changed"""
    ways: frozenset[Way]
    limit: Literal["silence", "age"] = "silence"
    named_by: tuple[str, ...] = ()
    """parts of the answer's Server or Via, in lower case, that show that it is on the path"""

    @property
    def sentence(self) -> str:
        """A sentence about its default."""
        if self.setting:
            return f"{self.name}'s `{self.setting}` is {duration(self.seconds)} by default"
        what = "silent tunnels" if self.limit == "silence" else "any tunnel"
        return f"{self.name} ends {what} after {duration(self.seconds)}"


_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0

CULPRITS = (
    Culprit("nginx", 60, "proxy_read_timeout", _CLOSES, named_by=("nginx", "openresty")),
    Culprit("HAProxy of Debian and Ubuntu", 50, "timeout client", _CLOSES),
    Culprit("AWS Application Load Balancer", 60, "idle timeout", _CLOSES, named_by=("awselb",)),
    Culprit("AWS Network Load Balancer", 350, "tcp.idle_timeout.seconds", _FORGETS),
    Culprit("AWS NAT gateway", 350, "", _FORGETS),
    Culprit("AWS API Gateway", 10 * _MINUTE, "", _CLOSES_POLITELY),
    Culprit("AWS API Gateway", 2 * _HOUR, "", _CLOSES_POLITELY, "age"),
    Culprit("Azure Load Balancer", 4 * _MINUTE, "idle timeout", _FORGETS_OR_RESETS),
    Culprit("Azure Front Door", 5 * _MINUTE, "", _CLOSES, named_by=("azure",)),
    Culprit("Cloudflare", 100, "", _CLOSES_POLITELY, named_by=("cloudflare",)),
    Culprit("Heroku's router", 55, "", _CLOSES, named_by=("heroku", "vegur")),
    Culprit("Envoy", 5 * _MINUTE, "stream_idle_timeout", _CLOSES, named_by=("envoy",)),
    Culprit("Google Cloud external load balancer", 30, "backend service timeout", _CLOSES, "age", ("google",)),
    Culprit("Google Cloud external load balancer", 30, "backend service timeout", _CLOSES, named_by=("google",)),
    Culprit("YARP", 100, "ActivityTimeout", _CLOSES, named_by=("yarp", "kestrel")),
    Culprit("a NAT that keeps to RFC 5382", 2 * _HOUR + 4 * _MINUTE, "", _FORGETS),
    Culprit("Linux conntrack", 5 * _DAY, "nf_conntrack_tcp_timeout_established", _FORGETS),
)


def suspects(low: float, high: float, way: Way, by_age: bool, names: Iterable[str] = ()) -> list[Culprit]:
    """Return the culprits whose default fits; those that the answer names come first.

    :param low: seconds; lower bound of the limit
    :param high: seconds; upper bound of the limit
    :param names: values of the answer's Server and Via fields
    """
    slack = _SLACK_SECONDS + _SLACK_SHARE * high
    limit = "age" if by_age else "silence"
    fitting = [
        culprit
        for culprit in CULPRITS
        if culprit.limit == limit and way in culprit.ways and low - slack <= culprit.seconds <= high + slack
    ]
    return sorted(fitting, key=lambda culprit: not _is_named(culprit, names))


def named(way: Way, by_age: bool, names: Iterable[str]) -> list[Culprit]:
    """Return the culprits that the answer names and that end tunnels in this way, after any time."""
    limit = "age" if by_age else "silence"
    return [c for c in CULPRITS if c.limit == limit and way in c.ways and _is_named(c, names)]


def _is_named(culprit: Culprit, names: Iterable[str]) -> bool:
    return any(name in value.lower() for value in names for name in culprit.named_by)
