"""``round_robin``: each in turn, by weight."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from .backends import WEIGHTS, check_tried, in_turn, picks, shares, targets


def test_equals_in_turn():
    assert picks(in_turn(targets(1, 1, 1)), 7) == "0120120"


def test_nginxs_example():
    assert picks(in_turn(targets(5, 1, 1)), 14) == "0010200" * 2


def test_none_and_one():
    assert in_turn([]).pick() is None
    (only,) = targets(3)
    policy = in_turn([only])
    assert [policy.pick(), policy.pick(), policy.pick(None, (only,))] == [only, only, None]


@given(WEIGHTS, st.integers(1, 3))
def test_each_cycle_has_each_by_its_weight(weights, cycles):
    policy = in_turn(targets(*weights))
    for _ in range(cycles):
        assert shares(policy, sum(weights)) == {str(i): weight for i, weight in enumerate(weights)}


@given(WEIGHTS)
def test_never_far_from_its_share(weights):
    counts = Counter()
    policy = in_turn(targets(*weights))
    for n in range(1, 2 * sum(weights) + 1):
        counts[policy.pick().number] += 1
        for i, weight in enumerate(weights):
            assert abs(counts[i] - n * weight / sum(weights)) < len(weights)


@given(WEIGHTS, st.data())
def test_what_was_tried_is_left_out(weights, data):
    check_tried(in_turn, weights, data)


def test_a_backend_that_is_down_does_not_skew_the_others():
    down, *others = targets(1, 2, 1)
    policy = in_turn([down, *others])
    counts = Counter()
    for _ in range(400):
        target = policy.pick()
        counts[(target if target != down else policy.pick(None, (down,))).label] += 1
    assert abs(counts["1"] / counts["2"] - 2) < 0.4
    assert picks(policy, 8).count("0") == 2
