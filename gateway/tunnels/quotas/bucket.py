"""The token bucket of a client's handshakes, kept as one time: when the bucket will be full again (GCRA, ITU-T I.371).

A handshake takes one token, and ``cost_ns`` is how long one takes to come back.
"""

from __future__ import annotations

from typing import NamedTuple

NS = 1_000_000_000


class Rate(NamedTuple):
    """How many handshakes a client may make."""

    cost_ns: int
    """one second divided by the handshakes per second"""
    burst: int
    """how many at once, at least 1"""

    @classmethod
    def of(cls, per_second: float, burst: int) -> Rate:
        """The same with nanoseconds."""
        return cls(max(1, round(NS / per_second)), burst)


def take(full_ns: int, now: int, rate: Rate) -> tuple[int, int]:
    """Take a token.

    :param full_ns: when the bucket is full again; any time in the past for one that is full. ``now``: on the same clock
    :returns: when it is full afterwards, and 0. If there is no token, the second is in how many nanoseconds there will
        be one
    """
    # With a rate that was lower before, it may be further ahead than an empty bucket of the present rate.
    owed = min(max(full_ns - now, 0), rate.burst * rate.cost_ns)
    wait_ns = owed - (rate.burst - 1) * rate.cost_ns
    if wait_ns > 0:
        return now + owed, wait_ns
    return now + owed + rate.cost_ns, 0
