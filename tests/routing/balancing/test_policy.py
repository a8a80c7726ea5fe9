"""The configuration chooses the policy."""

import pytest

from ..standing import FakeStanding
from ..tables import routes_of


def chat(standing=None, backends=("a:1", "b:1"), **more):
    routes = routes_of({}, upstreams={"chat": {"backends": list(backends)} | more}, standing=standing)
    return routes.upstreams["chat"]


@pytest.mark.parametrize(
    ("more", "chosen"),
    [
        ({"balance": "round_robin"}, "abab"),
        ({"balance": "least_tunnels"}, "bbbb"),
        ({}, "bbbb"),
        ({"balance": "random_two"}, "bbbb"),
        ({"balance": "sticky"}, "bbbb"),
        ({"balance": "consistent_hash"}, "aaaa"),
    ],
)
def test_the_configuration_chooses(more, chosen):
    upstream = chat(FakeStanding({0: 5, 1: 0}), **more)
    assert "".join(upstream.pick(b"5").label[0] for _ in range(4)) == chosen


def test_what_the_load_is_comes_from_outside():
    load = {0: 5, 1: 0}
    upstream = chat(FakeStanding(load))
    assert upstream.pick().label == "b:1"
    load[1] = 6
    assert upstream.pick().label == "a:1"
