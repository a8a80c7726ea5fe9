"""``least_tunnels``: fewest tunnels and requests for its weight; equal loads take turns by weight."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..standing import FakeStanding
from .backends import WEIGHTS, check_tried, picks, shares, targets
from .backends import least as least_among

LOADED = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 50)), min_size=1, max_size=6)


def least(weights, load):
    return least_among(targets(*weights), FakeStanding(load))


def fractions(backends):
    return [Fraction(load, weight) for weight, load in backends]


# --- tunnels ----------------------------------------------------------------------------------------------------


def test_the_one_with_the_fewest():
    assert picks(least([1, 1, 1], [5, 3, 4]), 3) == "111"


def test_the_one_with_the_fewest_for_its_weight():
    assert picks(least([1, 3], [2, 3]), 2) == "11"
    assert picks(least([1, 3], [0, 1]), 2) == "00"


def test_equals_take_turns():
    assert shares(least([1, 1, 1], [4, 4, 4]), 9) == {"0": 3, "1": 3, "2": 3}
    assert shares(least([1, 1, 1], [4, 9, 4]), 8) == {"0": 4, "2": 4}


@pytest.mark.parametrize("load", [[0, 0, 0], [1, 2, 1], [30, 60, 30]])
def test_equals_take_turns_by_weight(load):
    assert shares(least([1, 2, 1], load), 8) == {"0": 2, "1": 4, "2": 2}


def test_loads_are_compared_exactly():
    # As floating-point numbers 49 * (1 / 49) is not 1; and these quotients differ by less than a float can show.
    assert shares(least([49, 1], [49, 1]), 50) == {"0": 49, "1": 1}
    big = 2**60
    assert picks(least([3, 3], [big, big + 1]), 3) == "000"
    assert shares(least([3, 6], [big, 2 * big]), 9) == {"0": 3, "1": 6}


def test_none_and_one():
    assert least_among([]).pick() is None
    (only,) = targets(3)
    policy = least_among([only], FakeStanding([7]))
    assert [policy.pick(), policy.pick(), policy.pick(None, (only,))] == [only, only, None]


@given(WEIGHTS, st.integers(1, 4))
def test_tunnels_spread_by_weight(weights, times):
    load = [0] * len(weights)
    policy = least(weights, load)
    for _ in range(times * sum(weights)):
        load[policy.pick().number] += 1
    assert load == [weight * times for weight in weights]


@given(LOADED)
def test_none_has_less_load_than_the_one_picked(backends):
    weights, load = zip(*backends, strict=True)
    picked = least(weights, load).pick().number
    assert fractions(backends)[picked] == min(fractions(backends))


@given(LOADED)
def test_exactly_those_with_the_least_load_take_turns_by_weight(backends):
    weights, load = zip(*backends, strict=True)
    equal = [i for i, fraction in enumerate(fractions(backends)) if fraction == min(fractions(backends))]
    cycle = sum(weights[i] for i in equal)
    assert shares(least(weights, load), cycle) == {str(i): weights[i] for i in equal}


@given(WEIGHTS, st.data())
def test_what_was_tried_is_left_out(weights, data):
    check_tried(least_among, weights, data)
    check_tried(lambda made: least_among(made, FakeStanding(range(9))), weights, data, brief=True)


# --- requests ---------------------------------------------------------------------------------------------------


def test_requests_one_at_a_time_reach_every_backend():
    assert shares(least([2, 1], [0, 0]), 300, brief=True) == {"0": 200, "1": 100}
    assert shares(least([1, 1], [10, 11]), 300, brief=True) == {"0": 150, "1": 150}
    assert shares(least([1, 1], [1000, 1100]), 300, brief=True) == {"0": 150, "1": 150}


def test_requests_keep_away_from_a_backend_that_is_clearly_fuller():
    assert shares(least([1, 1], [10, 20]), 30, brief=True) == {"0": 30}
    assert shares(least([1, 1], [0, 2]), 30, brief=True) == {"0": 30}
    assert shares(least([1, 2], [10, 60]), 30, brief=True) == {"0": 30}


@given(LOADED)
def test_a_request_goes_where_it_is_about_as_good_as_elsewhere(backends):
    weights, load = zip(*backends, strict=True)
    policy = least(weights, load)
    lowest = min(fractions(backends))
    seen = Counter(policy.pick(brief=True).number for _ in range(2 * sum(weights)))
    # One more on the least loaded backend, whichever of them that is, or an eighth more than the least load.
    one_more = max(Fraction(n + 1, w) for w, n in backends if Fraction(n, w) == lowest)
    for i in seen:
        assert fractions(backends)[i] <= one_more + lowest / 8
    assert set(seen) >= {i for i, fraction in enumerate(fractions(backends)) if fraction == lowest}


@given(WEIGHTS, st.integers(1, 30), st.randoms(use_true_random=False))
def test_requests_in_flight_spread_by_weight(weights, times, random):
    """Whatever requests end, no backend ever has much more in flight for its weight than another."""
    load = [0] * len(weights)
    policy = least(weights, load)
    flying = []
    for _ in range(times * sum(weights)):
        if flying and random.random() < 0.4:
            load[flying.pop(random.randrange(len(flying)))] -= 1
        number = policy.pick(brief=True).number
        assert load[number] / weights[number] <= min(n / w for n, w in zip(load, weights, strict=True)) * 9 / 8 + 1
        load[number] += 1
        flying.append(number)
