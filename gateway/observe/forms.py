"""The format of lines of the access log.

Compiled by Cython if a C compiler is available (types in ``forms.pxd``), run as it is otherwise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from gateway.observe.line import NOT_DECIMAL, json_line

Value = str | int | float | None
_FRACTIONS = [f".{millisecond:03d}+00:00" for millisecond in range(1000)]
_escaped = json.encoder.encode_basestring_ascii


class Form:
    """The format of one event's lines: the fields and their order."""

    def __init__(self, event: str, **fields: str) -> None:
        """
        :param fields: each value's ``printf`` conversion: ``%s`` for text and for values that may be missing
        """
        self.event = event
        self.fields = fields
        self._json = '{"time":"%s","event":"' + event + '"' + "".join(f',"{n}":{c}' for n, c in fields.items()) + "}\n"
        conversions = "|".join(re.escape(conversion) for conversion in {"%s", *fields.values()})
        self._literals = [literal.encode() for literal in re.split(conversions, self._json)]
        decimals = (re.fullmatch(r"%\.(\d)f", conversion) for conversion in fields.values())
        self._decimals = bytes(NOT_DECIMAL if found is None else int(found[1]) for found in decimals)

    def json(self, when: str, values: Sequence[Value]) -> str:
        """Format a line as JSON. Missing values are null."""
        return json_line(self._literals, self._decimals, when, values) or self._json % (
            when,
            *[_escaped(v) if v.__class__ is str else "null" if v is None else v for v in values],
        )

    def text(self, when: str, values: Sequence[Value]) -> str:
        """Format a line for people: time and event, then ``key=value``. Missing values are left out."""
        words = [when, self.event]
        for (name, conversion), value in zip(self.fields.items(), values, strict=True):
            if value is not None:
                words.append(f"{name}={_quoted(value) if isinstance(value, str) else conversion % value}")
        return " ".join(words) + "\n"


class Clock:
    """Formats times."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def text(self, at: float) -> str:
        """Format a time as in RFC 3339, with milliseconds. The part up to the second is kept for the next.

        :param at: in Unix seconds
        """
        second = int(at)
        if second != self._second:
            self._second = second
            self._text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return self._text + _FRACTIONS[int((at - second) * 1000)]


def _quoted(text: str) -> str:
    plain = text and text.isascii() and text.isprintable() and not set(text) & {" ", '"', "\\"}
    return text if plain else _escaped(text)
