"""A program whose table has another layout: what is in it is bigger, elsewhere, or new."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from gateway.tunnels.table import description
from tests.support.files import rewrite
from tests.support.gateway import Gateway


def edit(file: Path, *changes: tuple[str, str | Callable[[re.Match[str]], str]]) -> None:
    """Change a file, each time in one place. :param changes: regular expressions, and what stands there then"""
    text = file.read_text()
    for pattern, new in changes:
        text, count = re.subn(pattern, new, text, flags=re.MULTILINE)
        assert count == 1, f"{pattern} is {count} times in {file.name}"
    rewrite(file, text)


def more(by: int, before: str = "") -> Callable[[re.Match[str]], str]:
    """What is found, with a larger number, which is its last group. :param before: to stand before it"""
    return lambda found: before + found.group()[: found.start(1) - found.start()] + str(int(found.group(1)) + by)


def relayout(program: Path) -> Callable[[], None]:
    """Give a program another layout. :returns: gives it the old one again"""
    files = {
        file: file.read_text() for file in (program / "tunnels/table/layout.py", program / "tunnels/table/fields.py")
    }
    layout, fields = files
    edit(
        layout,
        (r"^VERSION = (\d+)", more(1)),
        (r"^WORKER_CELLS = (\d+)", more(8)),
        (r"^    W_PID,$", "    W_WEATHER,\n    W_PID,"),
        (r"^\) = range\((\d+)(?=\)\nWORKER_CELLS)", more(1)),
        (r"for s in \(2, 5, 10, 25,", "for s in (1, 2, 3, 5, 10, 25,"),
        (r"^T_PINGS = OPCODES \+ 2", "T_PINGS = OPCODES + 3"),
        (r"^T_PONGS = OPCODES \+ 3", "T_PONGS = OPCODES + 2"),
        (r"^    DIRTY,", "    PACED_AT_ALL,\n    DIRTY,"),
        (r"^    PHASE,.*\n    DEADLINE_NS,", "    DEADLINE_NS,\n    PHASE,"),
        (r"^\) = range\((\d+)(?=\)\nSIDE_0)", more(1)),
        (r"^SIDE_0 = (\d+)", more(4)),
        (r"^SIDE_CELLS = (\d+)", more(12)),
        (r"^SCANNER = (\d+)", more(3)),
        (r"^\) = range\(SCANNER \+ SCANNER_CELLS, SCANNER \+ SCANNER_CELLS \+ (\d+)", more(1, "    MOOD,\n")),
        (r"^ROW_CELLS = (\d+)", more(48)),
        (r'^    "close_frame",', '    "weather",\n    "close_frame",'),
        (r"^    CLOSE_FRAME,", "    WEATHER,\n    CLOSE_FRAME,"),
        (r'"host": 94, "path": 254', '"path": 300, "host": 120'),
    )
    edit(
        fields,
        (r"^WORKER: Defaults = {$", 'WORKER: Defaults = {\n    "W_WEATHER": 0,'),
        (r"^ROW: Defaults = {$", 'ROW: Defaults = {\n    "PACED_AT_ALL": 5,'),
        (r"^SIDE: Defaults = {$", 'SIDE: Defaults = {\n    "MOOD": 7,'),
    )
    edit(program / "version.py", ("VERSION = .*", 'VERSION = "99.2"'))

    def restore() -> None:
        for file, text in files.items():
            rewrite(file, text)
        edit(program / "version.py", ("VERSION = .*", 'VERSION = "99.1"'))

    return restore


def layouts_of(gateway: Gateway) -> list[int]:
    """Versions of the layouts of all tables that the supervisor has."""
    found = set()
    for entry in Path(f"/proc/{gateway.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # some come and go
            if "memfd:gateway-tunnels" in os.readlink(entry):
                with entry.open("rb") as file:
                    found.add(description.read(file.fileno()).version)
    return sorted(found)
