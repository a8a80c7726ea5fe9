"""A route's timeouts, keepalive and limits in nanoseconds, as clocks and rows of the shared table have them."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.config.settings import KeepaliveSide, Timeouts
from gateway.config.settings_access import RouteLimits

NS = 1_000_000_000
NEVER_NS = 2**62


@dataclass(frozen=True, slots=True)
class Limits:
    """A route's timeouts in nanoseconds, ``NEVER_NS`` for off, and what it allows in a tunnel, 0 for no limit."""

    connect_ns: int
    handshake_ns: int
    write_stall_ns: int
    close_ns: int
    request_body_ns: int
    response_ns: int
    idle_ns: int
    max_lifetime_ns: int
    frame_bytes: int = 0
    """most payload bytes of a frame, from either side"""
    message_ns: int = 0
    """time that each message costs a client"""
    message_burst_ns: int = 0
    """time of messages that a client may send at once"""

    @classmethod
    def of(cls, timeouts: Timeouts, limits: RouteLimits | None = None) -> Limits:
        """The same in nanoseconds."""
        messages = limits.messages if limits is not None else None
        message_ns = 0 if messages is None else max(round(NS / messages.per_second), 1)
        return cls(
            nanoseconds(timeouts.connect),
            nanoseconds(timeouts.handshake),
            nanoseconds(timeouts.write_stall),
            nanoseconds(timeouts.close),
            nanoseconds(timeouts.request_body),
            nanoseconds(timeouts.response),
            nanoseconds(timeouts.idle),
            nanoseconds(timeouts.max_lifetime),
            (limits.frame_size or 0) if limits is not None else 0,
            message_ns,
            0 if messages is None else messages.burst * message_ns,
        )


_ADAPTIVE_START_NS = 25 * NS
"""Short enough for nearly every path; what is learned moves it."""


@dataclass(frozen=True, slots=True)
class Keepalive:
    """How one side of a route's tunnels is kept alive, in nanoseconds, as rows of the shared table hold it.

    ``min_ns`` and ``max_ns`` bound what is learned, and have no meaning unless it is ``adaptive``.
    """

    ping_after_ns: int
    """silence before a Ping: ``NEVER_NS`` for off; the interval to begin with where it is adaptive"""
    pong_timeout_ns: int
    min_ns: int
    max_ns: int
    adaptive: bool

    @classmethod
    def of(cls, side: KeepaliveSide) -> Keepalive:
        """The same in nanoseconds."""
        min_ns, max_ns = nanoseconds(side.min), nanoseconds(side.max)
        if side.ping_after == "adaptive":
            first_ns = min(max(_ADAPTIVE_START_NS, min_ns), max_ns)
        else:
            first_ns = nanoseconds(side.ping_after)
        return cls(first_ns, nanoseconds(side.pong_timeout), min_ns, max_ns, side.ping_after == "adaptive")


def nanoseconds(seconds: float | None) -> int:
    """The same in nanoseconds; ``NEVER_NS`` for None, which is off."""
    return NEVER_NS if seconds is None else int(seconds * NS)
