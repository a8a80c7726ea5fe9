"""A table's description of itself: the place of each cell by name, so that programs with other layouts can read it.

The program that creates a table writes its description as JSON into the header. The first four cells of the header give
its place and never move, and the form of the JSON changes only with :data:`FORM`. So a program can read the table of
any other program, older or newer, without knowing its layout. ``conversion.py`` does that.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

FORM = 1
MAGIC = 0x6774_7761_7965_3031  # "gtwaye01"
CELL_BYTES = 8
_HEAD = struct.Struct("=4q")  # MAGIC, version of the layout, where the description begins and its length in bytes
MAX_BYTES = 1 << 20


class Undescribed(ValueError):
    """This is no table, or it has no valid description; ``str()`` says which."""


@dataclass(frozen=True)
class Section:
    """A part of the table: blocks of the same kind, ``count`` for each slot."""

    at: int
    """its first cell"""
    cells: int
    """of one block"""
    count: int
    names: Mapping[str, tuple[int, int]]
    """place of each cell in a block, and how many cells have that name"""

    def block(self, slot: int, number: int = 0) -> int:
        """Where a block of a slot begins."""
        return self.at + (slot * self.count + number) * self.cells

    def end(self, slots: int) -> int:
        """The first cell after the section."""
        return self.block(slots)


@dataclass(frozen=True)
class PackedTexts:
    """Texts of a row that are packed one after another (``texts.py``)."""

    at: int
    """where they begin in the row, in bytes"""
    size: int
    """how many bytes are in the row; ``LONG_TEXTS`` more are in its block of long texts"""
    texts: tuple[tuple[str, int], ...]
    """their names in order, each with the most bytes it may have"""


@dataclass(frozen=True)
class Description:
    """Description of one table."""

    version: int
    """of the layout"""
    workers: int
    slots: int
    header: Section
    worker: Section
    backend: Section
    totals: Section
    states: Section
    """one block for each backend, of no slot; without cells in a table from before health checks"""
    row: Section
    session: Section
    """blocks as many as rows, each with the sessions of a row's sides; without cells in a table from before TLS"""
    texts: Mapping[str, tuple[int, int]]
    """place of each text's length in a row, in bytes, and the most bytes the text behind it may have. Where texts are
    packed, only the first has a place of its own, for programs that know no packed texts"""
    packed: PackedTexts | None
    """None in a table from before texts were packed"""
    long_texts: Section
    """blocks as many as rows; without cells in a table from before texts were packed"""
    values: Mapping[str, Mapping[str, int]]
    """names of values, by the name of the cell without its side"""
    bounds: Mapping[str, tuple[int, ...]]
    """upper bounds of a histogram's buckets, by the name of its cells without the side; the last bucket has none"""
    essential: frozenset[str]
    """cells of a row or a session, without the side: a program that does not know one must not resume a tunnel in which
    it is not 0"""

    @property
    def size_bytes(self) -> int:
        """Of the table."""
        return max(section.end(self.slots) for section in (self.row, self.session, self.long_texts)) * CELL_BYTES

    def dump(self) -> bytes:
        """As JSON, for :meth:`load`. Equal descriptions give equal bytes."""
        found: dict[str, Any] = {"form": FORM, "essential": sorted(self.essential)}
        for name in _SECTIONS:
            section = getattr(self, name)
            if section == NOTHING:
                continue
            found[name] = {
                "at": section.at,
                "cells": section.cells,
                "count": section.count,
                "names": {key: list(place) for key, place in section.names.items()},
            }
        for name in ("version", "workers", "slots"):
            found[name] = getattr(self, name)
        for name in ("texts", "bounds"):
            found[name] = {key: list(value) for key, value in getattr(self, name).items()}
        if self.packed is not None:
            found["packed"] = [self.packed.at, self.packed.size, [list(text) for text in self.packed.texts]]
        found["values"] = {key: dict(value) for key, value in self.values.items()}
        return json.dumps(found, separators=(",", ":"), sort_keys=True).encode("ascii")

    @classmethod
    def load(cls, data: bytes) -> Description:
        """Parse a description. :raises Undescribed: this is none, or it contradicts itself"""
        try:
            found = json.loads(data)
            if found["form"] != FORM:
                raise Undescribed(
                    f"the table describes itself in form {found['form']!r}, which this program cannot read"
                )
            made = cls(
                version=_whole(found["version"]),
                workers=_whole(found["workers"], 1),
                slots=_whole(found["slots"], 1),
                header=_section(found["header"]),
                worker=_section(found["worker"]),
                backend=_section(found["backend"]),
                totals=_section(found["totals"]),
                states=_section(found["states"]) if "states" in found else NOTHING,
                row=_section(found["row"]),
                session=_section(found["session"]) if "session" in found else NOTHING,
                texts={name: _place(place) for name, place in found["texts"].items()},
                packed=_packed(found["packed"]) if "packed" in found else None,
                long_texts=_section(found["long_texts"]) if "long_texts" in found else NOTHING,
                values={
                    cell: {name: _whole(value, -(2**63)) for name, value in names.items()}
                    for cell, names in found["values"].items()
                },
                bounds={name: tuple(map(_whole, bounds)) for name, bounds in found["bounds"].items()},
                essential=frozenset(map(str, found["essential"])),
            )
        except Undescribed:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Undescribed(f"the table's description is damaged: {type(error).__name__}: {error}") from None
        made._check()
        return made

    def _check(self) -> None:
        """:raises Undescribed: a part lies outside of what contains it"""
        for section in (getattr(self, name) for name in _SECTIONS if name not in ("session", "long_texts")):
            if section.end(1 if section in (self.header, self.states) else self.slots) > self.row.end(self.slots):
                raise Undescribed("the table's description is damaged: a section lies behind the last one")
        for section in (getattr(self, name) for name in _SECTIONS):
            for at, size in section.names.values():
                if at + size > section.cells:
                    raise Undescribed("the table's description is damaged: a cell lies outside of its block")
        if self.session.count not in (0, self.row.count):
            raise Undescribed("the table's description is damaged: it has not as many pairs of sessions as rows")
        if self.long_texts.count not in (0, self.row.count):
            raise Undescribed("the table's description is damaged: it has not as many blocks of long texts as rows")
        ends = [at + 2 + size for at, size in self.texts.values()]
        if self.packed is not None:
            ends.append(self.packed.at + self.packed.size)
        if max(ends, default=0) > self.row.cells * CELL_BYTES:
            raise Undescribed("the table's description is damaged: a text lies outside of its row")
        for name, bounds in self.bounds.items():
            if any(before >= after for before, after in pairwise(bounds)):
                raise Undescribed(f"the table's description is damaged: bounds of {name} do not rise")
        for section in (self.totals, self.row):
            for name, (_, size) in section.names.items():
                bare = name.split()[-1]
                if bare in self.bounds and size != len(self.bounds[bare]) + 1:
                    raise Undescribed(f"the table's description is damaged: {name} has not as many cells as buckets")


_SECTIONS = ("header", "worker", "backend", "totals", "states", "row", "session", "long_texts")
NOTHING = Section(0, 0, 0, {})
"""A section that a table does not have."""


def write(fd: int, description: Description, most_bytes: int) -> None:
    """Write the first cells of a table and its description. :param most_bytes: size of the header"""
    data = description.dump()
    if _HEAD_BYTES + len(data) > most_bytes:
        raise AssertionError("the description does not fit into the table's header")
    os.pwrite(fd, data, _HEAD_BYTES)
    os.pwrite(fd, _HEAD.pack(MAGIC, description.version, _HEAD_BYTES, len(data)), 0)


_HEAD_BYTES = 16 * CELL_BYTES
"""Where the description begins: after the named cells of the header."""


def read(fd: int) -> Description:
    """Read a table's description. :raises Undescribed: this is no table, or its description is not valid"""
    head = os.pread(fd, _HEAD.size, 0)
    if len(head) < _HEAD.size or _HEAD.unpack(head)[0] != MAGIC:
        raise Undescribed("this is not a table of a gateway")
    _, version, at, length = _HEAD.unpack(head)
    if at <= 0 or not 0 < length <= MAX_BYTES:
        raise Undescribed("this is not a table that describes itself, as every gateway makes it since that exists")
    data = os.pread(fd, length, at)
    description = Description.load(data)
    if version != description.version:
        raise Undescribed(f"this is not a table to rely on: it is of version {version} and of {description.version}")
    if description.size_bytes > os.fstat(fd).st_size:
        raise Undescribed("the table is shorter than it says of itself")
    return description


def _whole(value: Any, least: int = 0) -> int:
    if type(value) is not int or not least <= value < 2**63:
        raise ValueError(f"{value!r} is not a number that can be here")
    return value


def _place(value: Any) -> tuple[int, int]:
    at, size = value
    return _whole(at), _whole(size)


def _packed(value: Any) -> PackedTexts:
    at, size, texts = value
    return PackedTexts(_whole(at), _whole(size), tuple((str(name), _whole(most)) for name, most in texts))


def _section(found: dict[str, Any]) -> Section:
    names = {str(name): _place(place) for name, place in found["names"].items()}
    return Section(_whole(found["at"]), _whole(found["cells"], 1), _whole(found["count"]), names)
