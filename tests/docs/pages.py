"""The pages for users, taken apart: fenced blocks, tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
PAGES = [*DOCS, *DECISIONS, ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "deploy" / "README.md"]

COMPLETE = "# gateway.yaml"
"""The first line of a block that is a whole configuration."""

WITH_MISTAKES = "# gateway.yaml with mistakes"
"""The first line of one that is wrong; the block behind it is what the gateway says of it."""

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\|(.+)\|$")
_CODE = re.compile(r"`([^`]+)`")


class Block(NamedTuple):
    """A fenced block."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def first_line(self) -> str:
        return self.text.partition("\n")[0].strip()


def blocks(*languages: str, pages: list[Path] = PAGES) -> list[Block]:
    """Every block in one of these languages, in order."""
    return [block for page in pages for block in _blocks(page) if block.language in languages]


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in _BLOCK.finditer(text):
        yield Block(page, text.count("\n", 0, match.start()) + 2, match[1], match[2])


def rows(page: Path, heading: str = "") -> list[list[str]]:
    """Rows of all tables of a page, without their titles. :param heading: of the section to look in, ``### x``"""
    text = page.read_text()
    if heading:
        text = text.partition(f"\n{heading}\n")[2]
        assert text, f"{page.name} has no section {heading!r}"
        level = heading.partition(" ")[0]
        text = re.split(rf"^#{{1,{len(level)}}} ", text, maxsplit=1, flags=re.MULTILINE)[0]
    lines = [match[1] if (match := _ROW.match(line)) else None for line in text.splitlines()]
    found = []
    for line, following in zip(lines, [*lines[1:], None], strict=True):
        is_title = following is not None and set(following) <= set("-| ")
        if line is not None and not is_title and not set(line) <= set("-| "):
            found.append([cell.strip() for cell in line.replace("\\|", "\0").split("|")])
    return found


def codes(text: str) -> list[str]:
    """What stands in backticks."""
    return _CODE.findall(text)
