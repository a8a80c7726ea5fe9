"""Times as people say them."""

import pytest

from gateway.probe.words import between, duration, interval


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.25, "0.2 s"),
        (1, "1 s"),
        (4.84, "4.8 s"),
        (19.98, "20 s"),
        (59.4, "59 s"),
        (60, "60 s"),
        (119.4, "119 s"),
        (119.6, "2 min"),
        (240, "4 min"),
        (241, "241 s"),
        (350, "350 s"),
        (630, "10 min 30 s"),
        (3600, "1 h"),
        (7440, "2 h 4 min"),
        (86400, "1 day"),
        (432000, "5 days"),
    ],
)
def test_duration(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (4.42, 5.11, "between 4.4 s and 5.2 s"),
        (59.6, 60.3, "between 59 s and 61 s"),
        (236.2, 240.7, "between 236 s and 241 s"),
        (0, 0.65, "between 0 s and 0.7 s"),
    ],
)
def test_a_bracket_is_rounded_outward(low, high, said):
    assert between(low, high) == said


@pytest.mark.parametrize(
    ("longest", "said"),
    [
        (0.3, "0.1–0.3 s"),  # noqa: RUF001
        (3.7, "2–3.5 s"),  # noqa: RUF001
        (47.7, "25–45 s"),  # noqa: RUF001
        (240, "2 min to 4 min"),
        (6000, "55 min to 1 h 40 min"),
    ],
)
def test_how_often_to_ping(longest, said):
    assert interval(longest) == said
