"""Formats times for the report."""

from __future__ import annotations

import math

_UNITS = ((86400, "day"), (3600, "h"), (60, "min"), (1, "s"))
_TENTHS_BELOW = 20.0


def duration(seconds: float) -> str:
    """Format seconds: ``4.8 s``, ``60 s``, ``350 s``, ``5 min``, ``12 min 30 s``, ``2 h 4 min``, ``5 days``."""
    if seconds < _TENTHS_BELOW:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    left = round(seconds)
    if left < 120 or (left < 600 and left % 60):
        return f"{left} s"
    parts = []
    for size, unit in _UNITS:
        number, left = divmod(left, size)
        if number:
            parts.append(f"{number} {unit}{'s' if unit == 'day' and number > 1 else ''}")
    return " ".join(parts[:2])


def between(low: float, high: float) -> str:
    """Format a bracket, rounded outward: ``between 4.4 s and 5.2 s``."""
    digits = 1 if high < _TENTHS_BELOW else 0
    scale = 10**digits
    return f"between {duration(math.floor(low * scale) / scale)} and {duration(math.ceil(high * scale) / scale)}"


def interval(longest: float) -> str:
    """Format how often to ping if at most ``longest`` seconds of silence are allowed: ``25–45 s``."""  # noqa: RUF002
    high, low = _handy(longest), _handy(longest * 0.56)
    if high < 120:
        return f"{low:g}–{high:g} s"  # noqa: RUF001  # that dash means a range
    return f"{duration(low)} to {duration(high)}"


def _handy(seconds: float) -> float:
    """Return a round number not above ``seconds``."""
    for above, step in ((1800, 300.0), (120, 30.0), (20, 5.0), (5, 1.0), (1, 0.5)):
        if seconds >= above:
            return math.floor(seconds / step) * step
    return math.floor(seconds * 10) / 10
