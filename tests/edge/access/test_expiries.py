"""When tunnels end whose credentials expire."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.access.expiries import MAX_SECONDS_KNOWN, NS, Expiries
from gateway.edge.access.granted import Expiry
from gateway.tunnels.table.layout import NEVER

NOW = 1_800_000_000.0
NOW_NS = 5_000 * NS


def ends(expiries, at_unix, count=1, spread=10.0):
    """Seconds from now."""
    return [(expiries.end_of(Expiry(at_unix, 4401, spread), NOW_NS)[0] - NOW_NS) / NS for _ in range(count)]


def test_few_end_when_their_token_expires():
    expiries = Expiries(lambda: NOW)
    assert ends(expiries, NOW + 60, 3) == [60.0, 60.01, 60.02]
    assert ends(expiries, NOW + 61) == [61.0]
    assert ends(expiries, NOW + 60, 1, 0.0) == [60.0]


def test_ten_thousand_end_evenly():
    moments = ends(Expiries(lambda: NOW), NOW + 60, 10_000)
    assert min(moments) == 60.0
    assert max(moments) < 70.0
    assert set(Counter(int(moment) for moment in moments).values()) == {1000}
    assert set(Counter(round(moment, 2) for moment in moments).values()) == {10}


def test_those_that_have_expired_end_at_once():
    expiries = Expiries(lambda: NOW)
    assert ends(expiries, NOW) == [0.0]
    assert ends(expiries, NOW - 2.0**53) == [0.0]


def test_those_that_never_expire():
    assert Expiries(lambda: NOW).end_of(Expiry(2.0**53, 4401, 10.0), NOW_NS) == (NEVER, 4401)
    assert Expiries(lambda: NOW).end_of(None, NOW_NS) == (NEVER, 0)


@given(st.lists(st.floats(-(2.0**53), 2.0**53), max_size=20), st.floats(0, 1e6))
def test_any_time_fits_a_cell(times, spread):
    expiries = Expiries(lambda: NOW)
    for at_unix in times:
        assert NOW_NS <= expiries.end_of(Expiry(at_unix, 4401, spread), NOW_NS)[0] <= NEVER


def test_what_is_known_is_bounded():
    now = [NOW]
    expiries = Expiries(lambda: now[0])
    for second in range(3 * MAX_SECONDS_KNOWN):
        ends(expiries, NOW + 1 + second)
        assert len(expiries._counts) <= MAX_SECONDS_KNOWN
    now[0] += 3 * MAX_SECONDS_KNOWN
    latest = NOW + 3 * MAX_SECONDS_KNOWN
    (first, second) = (expiries.end_of(Expiry(latest + 5, 4401, 10.0), NOW_NS) for _ in range(2))
    assert second[0] - first[0] == NS // 100
