"""A route's limits as the relay has them."""

import pytest

from gateway.config.settings import Rate, RouteLimits
from gateway.routing.limits import NS, Limits

from .tables import routes_of


@pytest.mark.parametrize(
    ("rate", "message_ns", "burst_ns"),
    [
        (None, 0, 0),
        (Rate(200.0, 400), NS // 200, 2 * NS),
        (Rate(0.5, 1), 2 * NS, 2 * NS),
        (Rate(3e9, 1), 1, 1),  # as fast as can be told
    ],
)
def test_messages_and_frames(rate, message_ns, burst_ns):
    timeouts = routes_of({}).routes[0].timeouts
    limits = Limits.of(timeouts, RouteLimits(None, None, 1 << 20, rate))
    assert (limits.frame_bytes, limits.message_ns, limits.message_burst_ns) == (1 << 20, message_ns, burst_ns)


def test_a_route_has_its_limits():
    limits = {"frame_size": "64KiB", "messages_per_second": {"per_tunnel": 10, "burst": 5}}
    limited, other = routes_of({"limits": limits, "match": {"path": "/x"}}, {}).routes
    assert (limited.limits.frame_bytes, limited.limits.message_ns) == (65536, NS // 10)
    assert limited.limits.message_burst_ns == NS // 2
    assert (other.limits.frame_bytes, other.limits.message_ns, other.limits.message_burst_ns) == (0, 0, 0)
