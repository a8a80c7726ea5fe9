"""Failures within a sliding window eject a backend, longer each time, and never the last half."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.routing.health.ejection import LONGEST, Ejection, Rule, decide

S = 1_000_000_000
RULE = Rule(3, 10 * S, 30 * S)


def ejections(number):
    return {n: Ejection() for n in range(number)}


def test_failures_close_together():
    ejection = Ejection()
    assert [ejection.failed(1, RULE, t * S) for t in (100, 104, 109)] == [False, False, True]


def test_failures_far_apart():
    ejection = Ejection()
    assert not any(ejection.failed(1, RULE, t * S) for t in range(100, 200, 5))


def test_several_at_once():
    assert Ejection().failed(3, RULE, S)
    assert not Ejection().failed(2, RULE, S)


def test_a_flood_needs_no_memory():
    ejection = Ejection()
    for n in range(1000):
        ejection.failed(50, RULE, S + n)
    assert len(ejection._failures) <= RULE.failures


def test_what_was_under_way_does_not_count():
    ejection = Ejection()
    ejection.eject(RULE, 100 * S)
    assert ejection.until_ns == 130 * S
    assert not ejection.failed(9, RULE, 101 * S)
    assert [ejection.is_over(t * S) for t in (129, 130)] == [False, True]
    ejection.end(130 * S)
    assert not ejection.failed(2, RULE, 131 * S)


def test_longer_each_time():
    ejection = Ejection()
    now = 100 * S
    lasted = []
    for _ in range(6):
        ejection.eject(RULE, now)
        lasted.append((ejection.until_ns - now) // RULE.for_ns)
        now = ejection.until_ns
        ejection.end(now)
        now += S
    assert lasted == [1, 2, 4, LONGEST, LONGEST, LONGEST]


def test_as_long_as_at_first_after_good_times():
    ejection = Ejection()
    for now in (100, 131):
        ejection.eject(RULE, now * S)
        ejection.end(ejection.until_ns)
    # Ejected for 60 s until 191, and in service for as long.
    ejection.eject(RULE, 251 * S)
    assert ejection.until_ns == 281 * S


@pytest.mark.parametrize(("backends", "out"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (10, 5)])
def test_the_last_half_stays(backends, out):
    found = ejections(backends)
    for number in found:
        decision = decide(found, number, 5, RULE, 100 * S)
        assert decision == ("eject" if number < out else "spare")
        if decision == "eject":
            found[number].eject(RULE, 100 * S)


def test_those_that_are_down_count_as_out():
    found = ejections(4)
    assert decide(found, 0, 5, RULE, 100 * S, down={0}) == "no"
    assert decide(found, 1, 5, RULE, 100 * S, down={0}) == "eject"
    assert decide(found, 1, 5, RULE, 100 * S, down={0, 2}) == "spare"


def test_one_that_was_spared_is_ejected_when_another_is_back():
    found = ejections(2)
    found[0].eject(RULE, 100 * S)
    assert decide(found, 1, 3, RULE, 101 * S) == "spare"
    found[0].end(130 * S)
    assert decide(found, 1, 3, RULE, 131 * S) == "eject"


@settings(max_examples=60)
@given(
    st.integers(1, 8).flatmap(
        lambda backends: st.tuples(
            st.just(backends),
            st.lists(st.tuples(st.integers(0, backends - 1), st.integers(1, 4), st.integers(0, 20)), max_size=60),
        )
    )
)
def test_half_is_in_service_whatever_fails(case):
    backends, failures = case
    found = ejections(backends)
    now = S
    for number, count, seconds in failures:
        now += seconds * S
        for each in found.values():
            if each.is_over(now):
                each.end(now)
        if decide(found, number, count, RULE, now) == "eject":
            found[number].eject(RULE, now)
        assert 2 * sum(not each.until_ns for each in found.values()) >= backends
