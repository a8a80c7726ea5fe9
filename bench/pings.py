"""How evenly Pings are spread, from how many came in each tenth of a second."""

from collections.abc import Sequence

SECOND = 10


def pings_a_second(tenths: Sequence[int]) -> float:
    return sum(tenths) * SECOND / len(tenths)


def busiest_second(tenths: Sequence[int]) -> float:
    """Returns the most Pings that came in any one second, whichever tenth it begins with, over the mean of all."""
    most = max(sum(tenths[start : start + SECOND]) for start in range(len(tenths) - SECOND + 1))
    return most / pings_a_second(tenths)
