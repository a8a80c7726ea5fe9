"""A unit file of systemd's, taken apart (systemd.syntax(7))."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path


class Unit:
    """Sections, and in each the values of every key, in order."""

    def __init__(self, text: str) -> None:
        """:raises ValueError: a line is none of a section's head, a comment and ``Key=value``"""
        self._values: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        section = ""
        for line in text.splitlines():
            if not line or line[0] in "#;":
                continue
            if line[0] == "[" and line[-1] == "]":
                section = line[1:-1]
                continue
            key, found, value = line.partition("=")
            if not (found and key.isalnum() and section) or value.endswith("\\"):
                raise ValueError(f"not a line of a unit: {line}")
            self._values[section, key].append(value)

    @classmethod
    def read(cls, path: Path) -> Unit:
        return cls(path.read_text())

    def one(self, section: str, key: str) -> str:
        """The value of a key that is there just once."""
        (value,) = self.all(section, key)
        return value

    def all(self, section: str, key: str) -> list[str]:
        """All values of a key."""
        return self._values[section, key]
