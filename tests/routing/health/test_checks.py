"""A state made of the results of health checks."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.routing.health.checks import JITTER, Checked, first_pause, next_pause


def states(results, healthy_after=2, unhealthy_after=3):
    checked = Checked()
    found = []
    for each in results:
        before = checked.health
        changed = checked.result(each == "+", healthy_after, unhealthy_after)
        assert changed == (checked.health != before)
        found.append(checked.health[0])
    return "".join(found)


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ("++", "uu"),
        ("---", "uud"),
        ("--+--", "uuuuu"),
        ("---+++", "uudduu"),
        ("---+-+-+-+", "uuddddddddd"[:10]),
        ("++--+---+", "uuuuuuudd"),
    ],
)
def test_only_equal_results_in_a_row_count(results, expected):
    assert states(results) == expected


def test_one_result_may_be_enough():
    assert states("-+-+", 1, 1) == "dudu"


def test_a_state_from_before_goes_on():
    checked = Checked("down")
    assert not checked.result(True, 2, 3)
    assert checked.result(True, 2, 3)
    assert checked.health == "up"


@settings(max_examples=60)
@given(st.text("+-", max_size=40), st.integers(1, 5), st.integers(1, 5))
def test_any_results(results, healthy_after, unhealthy_after):
    checked = Checked()
    for n, each in enumerate(results, 1):
        checked.result(each == "+", healthy_after, unhealthy_after)
        if results[:n].endswith("+" * healthy_after):
            assert checked.health == "up"
        elif results[:n].endswith("-" * unhealthy_after):
            assert checked.health == "down"


def test_pauses_vary_and_take_the_check_into_account():
    assert [first_pause(5, random) for random in (0, 0.5)] == [0, 0.5]
    assert first_pause(0.2, 0.5) == pytest.approx(0.1)
    assert next_pause(5, 0, 0) == pytest.approx(5 * (1 - JITTER))
    assert next_pause(5, 0, 1) == pytest.approx(5 * (1 + JITTER))
    assert next_pause(5, 2, 0.5) == pytest.approx(3)
    assert next_pause(5, 9, 0.5) == 0
