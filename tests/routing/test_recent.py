"""A bounded memory: what is asked for stays, what is not goes."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.recent import Recent


def test_what_is_kept_is_found():
    recent = Recent(4)
    assert recent.get("a") is None
    recent.keep("a", 1)
    assert recent.get("a") == 1
    recent.keep("a", 2)
    assert recent.get("a") == 2


def test_the_oldest_go():
    recent = Recent(4)
    for number in range(10):
        recent.keep(number, str(number))
    assert [recent.get(number) for number in (5, 9)] == [None, "9"]


def test_what_is_asked_for_stays():
    recent = Recent(4)
    recent.keep("usual", True)
    for number in range(100):
        recent.keep(number, True)
        assert recent.get("usual")


@given(st.integers(1, 8), st.lists(st.tuples(st.booleans(), st.integers(0, 20))))
def test_it_never_has_more_than_it_may_nor_anything_but_the_latest(most, steps):
    recent = Recent(most)
    kept = {}
    for time, (keeps, key) in enumerate(steps):
        if keeps:
            recent.keep(key, time)
            kept[key] = time
            assert recent.get(key) == time
        else:
            assert recent.get(key) in (None, kept.get(key))
        assert len(recent) <= max(most, 2)
