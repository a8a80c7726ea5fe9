"""The token bucket of a client."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.tunnels.quotas.bucket import NS, Rate, take

pytestmark = pytest.mark.either_build

RATE = Rate.of(5, 20)


def test_a_full_bucket_lets_in_a_burst_and_then_one_at_a_time() -> None:
    full, now = 0, 1000 * NS
    for _ in range(20):
        full, wait = take(full, now, RATE)
        assert wait == 0
    full, wait = take(full, now, RATE)
    assert wait == NS // 5
    assert take(full, now + wait - 1, RATE)[1] == 1
    assert take(full, now + wait, RATE)[1] == 0
    assert take(full, now + 4 * NS, RATE) == (now + 4 * NS + NS // 5, 0)  # full again


def test_what_is_refused_takes_nothing() -> None:
    full, now = 0, 7 * NS
    for _ in range(20):
        full, _ = take(full, now, RATE)
    for _ in range(1000):
        assert take(full, now, RATE) == (full, NS // 5)


def test_a_burst_of_one_is_an_even_pace() -> None:
    rate = Rate.of(0.5, 1)
    full, wait = take(0, 10 * NS, rate)
    assert wait == 0
    assert take(full, 11 * NS, rate)[1] == NS
    assert take(full, 12 * NS, rate)[1] == 0


def test_a_higher_rate_after_a_reload_applies_at_once() -> None:
    """An empty bucket of a slow rate must not lock a client out for hours."""
    slow, fast = Rate.of(0.001, 100), Rate.of(5, 20)
    full, now = 0, NS
    for _ in range(100):
        full, wait = take(full, now, slow)
        assert wait == 0
    full, wait = take(full, now, fast)
    assert wait == fast.cost_ns
    assert take(full, now + wait, fast)[1] == 0


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from([(5, 20), (0.1, 1), (1000, 3), (7, 7)]),
    st.lists(st.integers(0, 2 * NS), min_size=1, max_size=200),
)
def test_never_more_than_the_burst_and_what_came_back(limits: tuple[float, int], gaps: list[int]) -> None:
    rate = Rate.of(*limits)
    tokens, last = float(rate.burst), 0
    full = now = 0
    for gap in gaps:
        now += gap
        tokens = min(rate.burst, tokens + (now - last) / rate.cost_ns)
        last = now
        full, wait = take(full, now, rate)
        if wait:
            assert tokens < 1 + 1e-6
            assert wait == pytest.approx((1 - tokens) * rate.cost_ns, abs=len(gaps))
        else:
            assert tokens > 1 - 1e-6
            tokens -= 1
