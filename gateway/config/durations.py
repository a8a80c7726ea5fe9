"""Durations as users write them: `250ms`, `10s`, `5m`, `1h`, `1.5s`, or `off`."""

import re
from fractions import Fraction
from typing import Annotated

from pydantic import PlainValidator, WithJsonSchema

from gateway.config.errors import BadValue
from gateway.config.words import found, number

_SECONDS = {"ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600)}
_SHORTEST_SECONDS = Fraction(1, 1000)
_LONGEST_SECONDS = Fraction(365 * 24 * 3600)

_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")
_DURATION = re.compile(rf"({_NUMBER.pattern})({'|'.join(_SECONDS)})")
_EXAMPLES = "250ms, 10s, 5m or 1h"


def parse_duration(value: object) -> float:
    """Return the seconds that the text `value` stands for: a number and one of ms, s, m, h.

    Raises:
        BadValue: it is no duration, or not one from a millisecond to a year.
    """
    if value is False or value == "off":
        raise BadValue("cannot be off", f"a duration, such as {_EXAMPLES}")
    return _parse(value, f"such as {_EXAMPLES}")


def parse_duration_or_off(value: object) -> float | None:
    """Return the seconds that `value` stands for, or None for `off`, which YAML reads as false.

    Raises:
        BadValue: it is neither `off` nor a duration from a millisecond to a year.
    """
    return None if value is False or value == "off" else _parse(value, f"such as {_EXAMPLES}, or off")


_JSON_SCHEMA = {"type": "string", "pattern": f"^{_DURATION.pattern}$"}

Duration = Annotated[float, PlainValidator(parse_duration), WithJsonSchema(_JSON_SCHEMA)]
"""Seconds."""

DurationOrOff = Annotated[
    float | None,
    PlainValidator(parse_duration_or_off),
    WithJsonSchema({"anyOf": [_JSON_SCHEMA, {"enum": ["off", False]}]}),
]
"""Seconds, or None for off."""


def _parse(value: object, hint: str) -> float:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise BadValue(f"expected a duration, found {found(value)}", _missing_unit(value) or hint)
    amount, _, unit = match.groups()
    seconds = Fraction(amount) * _SECONDS[unit]
    if seconds < _SHORTEST_SECONDS:
        raise BadValue(f"{match[0]} is too short", f"at least 1ms, {hint}")
    if seconds > _LONGEST_SECONDS:
        raise BadValue(f"{match[0]} is too long", "at most 8760h, which is a year")
    return float(seconds)


def _missing_unit(value: object) -> str | None:
    # Whoever writes 10 has a unit in mind, and this cannot know which.
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    digits = value if isinstance(value, str) else number(value)
    if not _NUMBER.fullmatch(digits):
        return None
    return f"with its unit: {digits}s for seconds, {digits}ms for milliseconds"
