"""Phrases for error messages: values, lists of names, likely typos."""

import difflib
from collections.abc import Iterable, Mapping

_LONGEST_QUOTE = 60
_MOST_NAMES = 20


def found(value: object) -> str:
    """Describe `value`: `a list`, `the number 5`, `the text "abc"`, `nothing`."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {number(value)}"
        case str():
            return f"the text {quoted(value)}"
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return f"a {type(value).__name__}"


def quoted(text: str) -> str:
    """Return `text` in double quotes, truncated if it is too long."""
    return f'"{_cut(text)}"'


def number(value: float) -> str:
    """Return the digits of `value`, truncated if there are too many."""
    return _cut(str(value))


def choices(names: Iterable[str]) -> str:
    """Return `names` as `a, b or c`."""
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def known(word: str, names: Iterable[str], label: str) -> str:
    """Return the hint for an unknown `word`: the likeliest of `names`, then all of them after `label`."""
    names = list(names)
    listed = ", ".join(map(_cut, names[:_MOST_NAMES])) or "none"
    if len(names) > _MOST_NAMES:
        listed += f" and {len(names) - _MOST_NAMES} more"
    # difflib takes quadratic time, and the word may be of any length.
    likely = difflib.get_close_matches(word[:_LONGEST_QUOTE], names, n=1)
    return f"did you mean {likely[0]}? {label}: {listed}" if likely else f"{label}: {listed}"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 1] + "…"
