"""Who is known to end tunnels by default, after how long, and in what way.

Figures are those of the vendors' documentation, and so are the ways where it tells them. Most of the limits can be
changed by who runs them: a path that cuts at another time may still be one of these.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from gateway.probe.outcomes import EndedBy
from gateway.probe.words import duration

Way: TypeAlias = tuple[EndedBy, bool]
"""How an end looks: by what, and whether it comes by itself (or in answer to the next bytes)."""

_CLOSES: frozenset[Way] = frozenset((("fin", True), ("reset", True)))
_CLOSES_POLITELY: frozenset[Way] = _CLOSES | {("close_frame", True)}
_FORGETS: frozenset[Way] = frozenset((("silence", False), ("reset", False)))
_FORGETS_OR_RESETS: frozenset[Way] = _FORGETS | {("reset", True)}

# Timers are coarse, and begin at another time than the probe's clock.
_SLACK_SECONDS = 1.0
_SLACK_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Culprit:
    """One that ends tunnels after ``seconds`` of silence, or at that age."""

    name: str
    seconds: float
    setting: str
    """what an operator changes; empty where it cannot be changed"""
    ways: frozenset[Way]
    limit: Literal["silence", "age"] = "silence"
    named_by: tuple[str, ...] = ()
    """what the answer's Server or Via has in it, in lower case, where this one is on the path"""

    @property
    def sentence(self) -> str:
        """What it does by default."""
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
    """Those whose default fits, the ones that the answer names first.

    :param low: seconds; the shortest that the limit can be
    :param high: seconds; the longest that it can be
    :param names: values of the fields Server and Via of the answer
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
    """Those that the answer names and that end tunnels in this way, whatever the time."""
    limit = "age" if by_age else "silence"
    return [c for c in CULPRITS if c.limit == limit and way in c.ways and _is_named(c, names)]


def _is_named(culprit: Culprit, names: Iterable[str]) -> bool:
    return any(name in value.lower() for value in names for name in culprit.named_by)
