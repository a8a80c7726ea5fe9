"""Durations in the configuration: `250ms`, `10s`, `5m`, `1h`, `1.5s`, or `off`."""

import re
from typing import Annotated

from pydantic import PlainValidator, WithJsonSchema

from gateway.config.errors import BadValue
from gateway.config.words import found, number

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_SHORTEST_SECONDS = 0.001
_LONGEST_SECONDS = 365 * 24 * 3600.0

_PLACES = 12
_NUMBER = re.compile(rf"[0-9]{{1,12}}(\.[0-9]{{1,{_PLACES}}})?")
_DURATION = re.compile(rf"({_NUMBER.pattern})({'|'.join(_UNITS_MS)})")
_EXAMPLES = "such as 250ms, 10s, 5m or 1h"


def parse_duration(value: object, *, shortest_seconds: float = _SHORTEST_SECONDS, hint: str = _EXAMPLES) -> float:
    """Parse a duration, a number and one of ms, s, m, h; return seconds.

    :param value: the value in the file
    :param shortest_seconds: the shortest duration allowed
    :param hint: examples of valid values, for error messages
    :raises BadValue: it is not a duration between `shortest_seconds` and a year
    """
    if is_off(value):
        raise BadValue("cannot be off", f"a duration, {hint}")
    return _parse(value, shortest_seconds, hint)


def parse_duration_or_off(value: object) -> float | None:
    """Parse a duration and return seconds, or None for `off`, which YAML reads as false.

    :raises BadValue: it is neither `off` nor a duration from a millisecond to a year
    """
    return None if is_off(value) else _parse(value, _SHORTEST_SECONDS, f"{_EXAMPLES}, or off")


def is_off(value: object) -> bool:
    """Return whether `value` is `off`, which YAML reads as false if it is bare."""
    return value is False or value == "off"


def format_duration(seconds: float) -> str:
    """Format seconds as in the configuration: `250ms`, `90s`, `4m`."""
    if seconds < 1:
        return f"{seconds * 1000:.15g}ms"
    unit = next((unit for unit in ("h", "m") if seconds % (_UNITS_MS[unit] / 1000) == 0), "s")
    return f"{seconds / (_UNITS_MS[unit] / 1000):.15g}{unit}"


DURATION_JSON_SCHEMA = {"type": "string", "pattern": f"^{_DURATION.pattern}$"}

Duration = Annotated[float, PlainValidator(parse_duration), WithJsonSchema(DURATION_JSON_SCHEMA)]
"""Seconds."""

DurationOrOff = Annotated[
    float | None,
    PlainValidator(parse_duration_or_off),
    WithJsonSchema({"anyOf": [DURATION_JSON_SCHEMA, {"enum": ["off", False]}]}),
]
"""Seconds, or None for off."""


def _parse(value: object, shortest_seconds: float, hint: str) -> float:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise BadValue(f"expected a duration, found {found(value)}", _missing_unit(value) or hint)
    amount, _, unit = match.groups()
    whole, _, places = amount.partition(".")
    # In whole numbers, and divided once: the float that is nearest. Fractions would do it, too, but bring _decimal.
    seconds: float = int(whole + places.ljust(_PLACES, "0")) * _UNITS_MS[unit] / (1000 * 10**_PLACES)
    if seconds < shortest_seconds:
        raise BadValue(f"{match[0]} is too short", f"at least {format_duration(shortest_seconds)}, {hint}")
    if seconds > _LONGEST_SECONDS:
        raise BadValue(f"{match[0]} is too long", "at most 8760h, which is a year")
    return seconds


def _missing_unit(value: object) -> str | None:
    # A bare 10 was meant to have a unit, but there is no telling which.
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    digits = value if isinstance(value, str) else number(value)
    if not _NUMBER.fullmatch(digits):
        return None
    return f"with its unit: {digits}s for seconds, {digits}ms for milliseconds"
