"""Errors in a configuration.

::

    Exception
    ├── ConfigError      the file cannot be used; holds one Problem per mistake
    └── ValueError
        └── BadValue     one value is wrong; raised by validators, which do not know its position
            └── BadKey   the same, for a key rather than its value

A `BadValue` becomes a `Problem` in the loader, which knows lines and columns.
"""

import re
from dataclasses import dataclass
from typing import TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]
"""The path of keys to a value: `("routes", 0, "match")`."""

_LONGEST_KEY = 60
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


class BadValue(ValueError):
    """A value that cannot be used.

    `message` says what is wrong, `hint` what would be right. Neither includes the position or the key.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})"


class BadKey(BadValue):
    """A key that is not allowed in its place, whatever its value."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a file. `line` and `column` count from 1; `key` is empty for the file as a whole."""

    file: str
    line: int
    column: int
    key: KeyPath
    message: str
    hint: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}"
        return _one_line(f"{place}: {format_key(self.key)}: {self.message} ({self.hint})")


class ConfigError(Exception):
    """A configuration that cannot be used. `str()` lists all problems, one per line."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


def format_key(key: KeyPath) -> str:
    """Format a key path as `routes[0].match.path`; `file` means the whole file."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        elif len(part) > _LONGEST_KEY:
            text += f'."{part[:_LONGEST_KEY]}…"'
        else:
            text += f".{part}" if _PLAIN_KEY.fullmatch(part) else f'."{part}"'
    return text.removeprefix(".") or "file"


def _one_line(text: str) -> str:
    # Keys and values come from the file. A line break in one must not split the line, which tools parse, and an escape
    # sequence must not reach the terminal.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
