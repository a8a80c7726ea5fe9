"""Backends to choose among."""

from collections import Counter
from collections.abc import Callable

from hypothesis import strategies as st

from gateway.config import Address
from gateway.routing.balancing import Policy, Target

WEIGHTS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def targets(*weights: int) -> list[Target]:
    """Backends with these weights, labelled and numbered from 0."""
    return [Target(i, "chat", Address("127.0.0.1", 9000 + i), weight, str(i)) for i, weight in enumerate(weights)]


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
