"""Which names are looked up when: a clock and answers of the test's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.processes.lookups import AT_ONCE, MOST, PATIENCE_SECONDS, REFRESH_SECONDS, RETRY_SECONDS, Lookups


@pytest.fixture
def lookups():
    return Lookups()


def names(count, prefix="n"):
    return [f"{prefix}{i:03}.internal" for i in range(count)]


def test_a_name_is_looked_up_and_kept_fresh(lookups):
    lookups.want(["a"], 100.0)
    assert lookups.untried()
    assert lookups.begin(100.0) == ["a"]
    assert lookups.begin(100.0) == []
    assert lookups.end("a", ("192.0.2.1",), 100.5)
    assert not lookups.untried()
    assert lookups.known() == {"a": ("192.0.2.1",)}
    assert lookups.next_at(100.5) == 100.5 + REFRESH_SECONDS
    assert lookups.begin(100.4 + REFRESH_SECONDS) == []
    assert lookups.begin(100.5 + REFRESH_SECONDS) == ["a"]
    assert not lookups.end("a", ("192.0.2.1",), 131.0)
    assert lookups.known() == {"a": ("192.0.2.1",)}


def test_another_order_is_no_other_answer(lookups):
    lookups.want(["a"], 0.0)
    lookups.begin(0.0)
    assert lookups.end("a", ("192.0.2.1", "192.0.2.2"), 0.0)
    lookups.begin(30.0)
    assert not lookups.end("a", ("192.0.2.2", "192.0.2.1"), 30.0)
    lookups.begin(60.0)
    assert lookups.end("a", ("192.0.2.2",), 60.0)
    assert lookups.known() == {"a": ("192.0.2.2",)}


def test_a_failure_takes_nothing_away(lookups):
    lookups.want(["a"], 0.0)
    lookups.begin(0.0)
    assert not lookups.end("a", (), 0.0)
    assert not lookups.untried()
    assert lookups.known() == {}
    assert lookups.next_at(0.0) == RETRY_SECONDS
    assert lookups.begin(RETRY_SECONDS) == ["a"]
    assert lookups.end("a", ("192.0.2.1",), 10.0)
    assert lookups.begin(40.0) == ["a"]
    assert not lookups.end("a", (), 40.0)
    assert lookups.known() == {"a": ("192.0.2.1",)}
    assert lookups.next_at(40.0) == 40.0 + REFRESH_SECONDS


def test_what_was_known_before_is_used_meanwhile(lookups):
    lookups.want(["a", "b"], 0.0, {"a": ("192.0.2.1",), "z": ("192.0.2.9",)})
    assert lookups.known() == {"a": ("192.0.2.1",)}
    assert lookups.begin(0.0) == ["a", "b"]
    assert lookups.untried()
    assert not lookups.end("b", (), 0.0)
    assert not lookups.untried()


def test_a_name_that_is_not_wanted_any_more_is_forgotten(lookups):
    lookups.want(["a", "b"], 0.0)
    lookups.begin(0.0)
    lookups.end("a", ("192.0.2.1",), 0.0)
    lookups.want(["c"], 1.0)
    assert lookups.known() == {}
    assert lookups.begin(1.0) == ["c"]
    assert not lookups.end("b", ("192.0.2.2",), 1.0)
    assert not lookups.end("c", (), 1.0)
    assert lookups.begin(100.0) == ["c"]


def test_a_name_that_is_wanted_again_while_it_is_looked_up(lookups):
    lookups.want(["a"], 0.0)
    lookups.begin(0.0)
    lookups.want([], 1.0)
    assert not lookups.untried()
    lookups.want(["a"], 2.0)
    assert lookups.begin(2.0) == []
    assert lookups.end("a", ("192.0.2.1",), 3.0)
    assert lookups.known() == {"a": ("192.0.2.1",)}


def test_late_ones_leave_their_places_to_others(lookups):
    hanging, others = names(AT_ONCE, "a"), names(3, "b")
    lookups.want(hanging + others, 0.0)
    assert lookups.begin(0.0) == hanging
    assert lookups.next_at(0.0) == PATIENCE_SECONDS
    assert lookups.become_late(PATIENCE_SECONDS - 0.1) == []
    assert lookups.begin(PATIENCE_SECONDS - 0.1) == []
    assert lookups.become_late(PATIENCE_SECONDS) == hanging
    assert lookups.become_late(PATIENCE_SECONDS) == []
    assert lookups.begin(PATIENCE_SECONDS) == others
    assert lookups.end(hanging[0], ("192.0.2.1",), 60.0), "its answer is used whenever it comes"


def test_what_always_hangs_never_keeps_others_waiting(lookups):
    """Others have an answer within moments, however many hang, and whatever came first."""
    hanging, others = names(3 * MOST, "a"), names(AT_ONCE, "b")
    lookups.want(hanging, 0.0)
    now = 0.0
    under_way = set()
    while now < 10 * REFRESH_SECONDS:
        under_way |= set(lookups.begin(now))
        lookups.become_late(now)
        now += 0.5
        if now % 10 == 0:  # the system's resolver gives up in the end
            for name in sorted(under_way):
                lookups.end(name, (), now)
            under_way.clear()
        assert len(under_way) <= MOST
    lookups.want(hanging + others, now)
    answered = set()
    began = now
    while answered != set(others):
        for name in lookups.begin(now):
            if name in others:
                assert lookups.end(name, ("192.0.2.1",), now)
                answered.add(name)
        lookups.become_late(now)
        now += 0.5
        assert now < began + 2 * PATIENCE_SECONDS


STEPS = st.tuples(st.sampled_from(["want", "begin", "end", "fail"]), st.integers(0, 5), st.floats(0, 40))


@given(st.lists(STEPS))
def test_whatever_happens_no_name_is_looked_up_twice_at_once(steps):
    lookups, now, under_way = Lookups(), 0.0, []
    for step, n, seconds in steps:
        now += seconds
        if step == "want":
            lookups.want(names(n), now)
        elif step == "begin":
            begun = lookups.begin(now)
            assert not set(begun) & set(under_way)
            under_way += begun
        elif under_way:
            lookups.end(under_way.pop(n % len(under_way)), ("192.0.2.1",) if step == "end" else (), now)
        lookups.become_late(now)
        at = lookups.next_at(now)
        assert at is None or at > now
