"""Backends to choose among."""

from collections import Counter
from collections.abc import Callable

from hypothesis import strategies as st

from gateway.config import Address
from gateway.routing.balancing import Policy, Target
from gateway.routing.balancing.least_tunnels import LeastTunnels
from gateway.routing.balancing.random_two import RandomTwo
from gateway.routing.balancing.round_robin import RoundRobin
from gateway.routing.balancing.weights import Weights

from ..standing import FakeStanding

WEIGHTS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def targets(*weights: int) -> list[Target]:
    """Backends with these weights, labelled and numbered from 0."""
    return [Target(i, "chat", Address("127.0.0.1", 9000 + i), weight, str(i)) for i, weight in enumerate(weights)]


def least(targets: list[Target], standing=None, slow_ns: int = 0) -> LeastTunnels:
    """``least_tunnels`` among these. :param standing: by default nothing has any load"""
    standing = standing or FakeStanding()
    policy = LeastTunnels(Weights(standing, slow_ns), standing)
    policy.use(targets)
    return policy


def in_turn(targets: list[Target], standing=None, slow_ns: int = 0) -> RoundRobin:
    """``round_robin`` among these."""
    policy = RoundRobin(Weights(standing or FakeStanding(), slow_ns))
    policy.use(targets)
    return policy


def two(targets: list[Target], standing=None, slow_ns: int = 0, random=None) -> RandomTwo:
    """``random_two`` among these."""
    standing = standing or FakeStanding()
    policy = RandomTwo(Weights(standing, slow_ns), standing, random)
    policy.use(targets)
    return policy


def picks(policy: Policy, count: int, **how) -> str:
    """The labels of the next choices."""
    return "".join(policy.pick(**how).label for _ in range(count))


def shares(policy: Policy, count: int, **how) -> dict[str, int]:
    """How many of the next choices each backend got."""
    return dict(Counter(picks(policy, count, **how)))


def check_tried(make: Callable[[list[Target]], Policy], weights: list[int], data, **how) -> None:
    """Whatever was tried is left out, until all were."""
    everything = targets(*weights)
    policy = make(everything)
    tried = tuple(dict.fromkeys(data.draw(st.lists(st.sampled_from(everything)))))
    while (target := policy.pick(b"key", tried, **how)) is not None:
        assert target not in tried
        tried += (target,)
    assert set(tried) == set(everything)
    assert policy.pick(None, (), **how) in everything
