"""The configuration chooses the policy."""

import pytest

from gateway.routing.balancing.least_tunnels import LeastTunnels
from gateway.routing.balancing.round_robin import RoundRobin

from ..tables import routes_of


@pytest.mark.parametrize(
    ("more", "policy"),
    [({"balance": "round_robin"}, RoundRobin), ({"balance": "least_tunnels"}, LeastTunnels), ({}, LeastTunnels)],
)
def test_the_configuration_chooses(more, policy):
    routes = routes_of({}, upstreams={"chat": {"backends": ["a:1", "b:1"]} | more})
    assert type(routes.upstreams["chat"].policy) is policy


def test_what_the_load_is_comes_from_outside():
    load = {0: 5, 1: 0}
    routes = routes_of({}, upstreams={"chat": {"backends": ["a:1", "b:1"]}}, load=load.__getitem__)
    policy = routes.upstreams["chat"].policy
    assert policy.pick().label == "b:1"
    load[1] = 6
    assert policy.pick().label == "a:1"
