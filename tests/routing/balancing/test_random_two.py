"""``random_two``: the less loaded of two drawn by weight."""

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.routing.balancing.random_two import RandomTwo

from ..standing import FakeStanding
from .backends import WEIGHTS, check_tried, picks, targets, two


def drawn(*numbers):
    return iter(numbers).__next__


def test_of_two_it_takes_the_less_loaded():
    assert picks(two(targets(1, 1), FakeStanding([3, 2])), 20) == "1" * 20
    assert picks(two(targets(1, 4), FakeStanding([3, 8])), 20) == "1" * 20


def test_which_two_are_drawn():
    among = targets(1, 2, 1)
    for numbers, looked_at in [((0.0, 0.0), {0, 1}), ((0.0, 0.99), {0, 2}), ((0.3, 0.0), {0, 1}), ((0.3, 0.6), {1, 2})]:
        looks = []
        standing = FakeStanding()
        standing.load = lambda number, looks=looks: looks.append(number) or 0
        two(among, standing, random=drawn(*numbers)).pick()
        assert set(looks) == looked_at


@settings(max_examples=10)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.integers(0, 1000))
def test_both_are_drawn_by_weight_and_never_the_same_twice(weights, seed):
    looks = []
    standing = FakeStanding()
    standing.load = lambda number: looks.append(number) or 0
    policy = two(targets(*weights), standing, random=Random(seed).random)
    for _ in range(3000):
        policy.pick()
    pairs = list(zip(looks[::2], looks[1::2], strict=True))
    assert all(one != other for one, other in pairs)
    first = Counter(one for one, _ in pairs)
    for i, weight in enumerate(weights):
        share = 3000 * weight / sum(weights)
        assert abs(first[i] - share) < 6 * share**0.5


@settings(max_examples=5)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=8), st.integers(0, 1000))
def test_tunnels_spread_nearly_by_weight(weights, seed):
    standing = FakeStanding()
    policy = two(targets(*weights), standing, random=Random(seed).random)
    for _ in range(200 * sum(weights)):
        standing.loads[policy.pick().number] += 1
    for i, weight in enumerate(weights):
        assert abs(standing.loads[i] / weight - 200) < 20


@given(WEIGHTS, st.data())
def test_what_was_tried_is_left_out(weights, data):
    check_tried(two, weights, data)


def test_none_and_one():
    assert two([]).pick() is None
    (only,) = targets(3)
    policy = two([only])
    assert [policy.pick(), policy.pick(None, (only,))] == [only, None]


def test_workers_draw_differently():
    def made():
        policy = two(targets(*[1] * 9))
        assert isinstance(policy, RandomTwo)
        return picks(policy, 30)

    assert made() != made()
