"""How commands print tables, durations, and texts from the network."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDTH_OF_A_PIPE = 10_000
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def print_json(answer: Any) -> None:
    """Print an answer of the admin API."""
    click.echo(json.dumps(answer, indent=2))


def console() -> Console:
    """Return the console for tables: as wide as the terminal, or wide enough for everything if there is none."""
    terminal = sys.stdout.isatty()
    return Console(file=sys.stdout, width=None if terminal else _WIDTH_OF_A_PIPE, highlight=False, emoji=False)


def table(gap: int) -> Table:
    """Return an empty table without lines. :param gap: spaces between columns"""
    return Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim")


def visible(text: object) -> str:
    """Escape the control characters in a foreign text, which a terminal would interpret."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def plain(text: object) -> Text:
    """Return a foreign text for a table, in which neither markup nor control characters have an effect."""
    return Text(visible(text))


def duration(seconds: float) -> str:
    """Format seconds for people: ``0.4s``, ``59s``, ``5m 3s``, ``2h 5m``, ``3d 4h``."""
    if seconds < 9.95:  # above that, it would round to 10.0
        return f"{seconds:.1f}s"
    parts = []
    left = int(seconds)
    for size, unit in _UNITS:
        number, left = divmod(left, size)
        parts.append(f"{number}{unit}" if number else "")
    first = next(index for index, part in enumerate(parts) if part)
    return " ".join(filter(None, parts[first : first + 2]))


def interval(seconds: float) -> str:
    """Format a configured or planned time like :func:`duration`, but rounded: ``5s``, ``1.5s``, ``4m``."""
    return duration(seconds if seconds < 9.95 else round(seconds)).replace(".0s", "s")


def round_trip(seconds: float | None) -> str:
    """Format a round-trip time: ``0.4 ms``, ``38 ms``, ``2.1s``; ``-`` if there is none yet."""
    if seconds is None:
        return "-"
    milliseconds = seconds * 1000
    if milliseconds >= 999.5:  # would round to 1000 ms
        return duration(seconds)
    return f"{milliseconds:.{1 if milliseconds < 9.95 else 0}f} ms"


def size(number: float) -> str:
    """Format a number of bytes: ``17 B``, ``4.2 KiB``."""
    exponent = 0
    while number >= 1024 and exponent < len(_BYTE_UNITS) - 1:
        number /= 1024
        exponent += 1
    digits = 1 if exponent and number < 100 else 0
    return f"{number:.{digits}f} {_BYTE_UNITS[exponent]}"
