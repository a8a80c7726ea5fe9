"""Conversion between table layouts, older or newer: cells are copied by name.

* Cells of both layouts are copied. Cells that only the old layout has are dropped; cells that only the new one has get
  their default (``fields.py``). A table that lacks a cell without a default cannot be converted.
* Named values (states, causes) are copied by name, as are texts, whether packed or each in a place of its own. They are
  cut if the new layout has less room for them.
* Each count of a histogram goes to the bucket that contains the upper bound of its old bucket. Counts up to a bound of
  both layouts stay exact, and none is lost.
* Positions within the table (``TOTALS``, ``PEER``, ``TLS``) are recomputed, and so is ``LONG_TEXTS``.
* The sessions of a row are converted like the row, but only for a process that is to use their keys.

If a row holds state that this layout cannot represent and that its byte streams depend on, it is converted for display
only: :attr:`ConvertedRow.unknown` is set, and the tunnel must not be resumed from it.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import NamedTuple

from gateway.tunnels.table import description
from gateway.tunnels.table.description import CELL_BYTES, Description, Section
from gateway.tunnels.table.fields import defaults
from gateway.tunnels.table.layout import SIDES
from gateway.tunnels.table.mapping import map_table
from gateway.tunnels.table.texts import LENGTH_BYTES, pack, unpack

WORKED_OUT = frozenset({"TOTALS", "PEER", "TLS", "LONG_TEXTS"})


class CannotConvert(ValueError):
    """A table of another layout cannot be converted; ``str()`` says why."""


class ConvertedRow(NamedTuple):
    """One row in the new layout."""

    cells: array[int]
    """and those of its long texts, as in :meth:`Foreign.row`"""
    unknown: str | None
    """the cell that keeps the tunnel from being resumed; None for most"""
    is_tls: bool
    """whether a side has a session"""


class _Blocks:
    """Converts blocks of one section, from a list of integers to another."""

    def __init__(self, old: Description, new: Description, section: str, default: Mapping[str, int | None]) -> None:
        """:raises CannotConvert: a cell is missing"""
        before: Section = getattr(old, section)
        after: Section = getattr(new, section)
        constants = [0]
        picks = [before.cells] * after.cells
        self._named: list[tuple[int, str, dict[int, int | None]]] = []
        essential = old.essential | new.essential
        self._lost = [
            (at + n, name)
            for name, (at, size) in before.names.items()
            if name not in after.names and name.split()[-1] in essential
            for n in range(size)
        ]
        self._counted: list[tuple[int, int, list[int]]] = []
        for name, (at, size) in after.names.items():
            bare = name.split()[-1]
            if bare in WORKED_OUT:
                continue
            if name not in before.names:
                value = default.get(name)
                if value is None:
                    raise CannotConvert(f"the table of layout {old.version} has no {name}, which {new.version} needs")
                picks[at : at + size] = [before.cells + len(constants)] * size
                constants.append(value)
                continue
            there, count = before.names[name]
            if bare in old.bounds and bare in new.bounds and old.bounds[bare] != new.bounds[bare]:
                self._counted += _by_bounds(old.bounds[bare], new.bounds[bare], there, at)
                continue
            for n in range(min(size, count)):
                picks[at + n] = there + n
            values = _by_name(old.values.get(bare, {}), new.values.get(bare, {}))
            if values:
                self._named.append((at, name, values))
        # One more, so that itemgetter returns a tuple even for a block of one cell.
        self._pick: Callable[[list[int]], tuple[int, ...]] = itemgetter(*picks, before.cells)
        self._constants = constants

    def convert(self, cells: list[int]) -> tuple[list[int], str | None]:
        """Convert a block.

        :returns: it, and the name of a cell that the new layout lacks although it is essential, or whose value has no
            name there
        """
        unknown = None
        found = list(self._pick(cells + self._constants))
        found.pop()
        for at, name, values in self._named:
            value = values.get(found[at], found[at])
            if value is None:
                unknown, value = name, 0
            found[at] = value
        for there, count, buckets in self._counted:
            for n in range(count):
                found[buckets[n]] += cells[there + n]
        for there, name in self._lost:
            if cells[there]:
                unknown = name
        return found, unknown


class Conversion:
    """Converts blocks between two tables; positions depend on their sizes."""

    def __init__(
        self, old: Description, new: Description, default: Callable[[str], Mapping[str, int | None]] = defaults
    ) -> None:
        """
        :param default: for cells that ``old`` lacks, by the name of the section
        :raises CannotConvert: the slots differ, or a required cell is missing
        """
        if (old.workers, old.slots) != (new.workers, new.slots):
            raise CannotConvert(
                f"the table is for {old.workers} workers in {old.slots} slots, not for {new.workers} in {new.slots}"
            )
        self.old = old
        self.new = new
        self.header = _Blocks(old, new, "header", default("header"))
        self.worker = _Blocks(old, new, "worker", default("worker"))
        self.backend = _Blocks(old, new, "backend", default("backend"))
        self.totals = _Blocks(old, new, "totals", default("totals"))
        self.states = _Blocks(old, new, "states", default("states")) if old.states.cells else None
        """of backends; None if the old layout has none"""
        self._row = _Blocks(old, new, "row", default("row"))
        self._session = _Blocks(old, new, "session", default("session")) if old.session.cells else None
        self._route_at = old.row.names.get("ROUTE", (0, 1))[0]
        self._totals_at = new.row.names.get("TOTALS", (None, 1))[0]
        self._peers = _peers(old, new)
        self._sessions = [
            (old.row.names[f"{side} TLS"][0], new.row.names[f"{side} TLS"][0], new.session.names[f"{side} VERSION"][0])
            for side in SIDES
            if {f"{side} TLS"} <= old.row.names.keys() & new.row.names.keys()
            if f"{side} VERSION" in new.session.names
        ]

    def row(self, slot: int, number: int, row: bytes) -> ConvertedRow:
        """Convert a row.

        :param slot: of the row
        :param number: of the converted row in the slot
        :param row: the whole row, as :meth:`Foreign.row` returns it
        """
        size = self.old.row.cells
        cells = memoryview(row)[: size * CELL_BYTES].cast("q").tolist()
        converted, unknown = self._row.convert(cells)
        if self._totals_at is not None:
            route = cells[self._route_at]
            converted[self._totals_at] = self.new.totals.block(slot, route if 0 <= route < self.new.totals.count else 0)
        for there, at, distance in self._peers:
            converted[at] = distance if cells[there] else 0
        is_tls = False
        for there, at, session in self._sessions:
            if cells[there]:
                is_tls = True
                converted[at] = self.new.session.block(slot, number) + session
        made = array("q", converted)
        _write_texts(self.new, made, _texts_of(self.old, row))
        return ConvertedRow(made, unknown, is_tls)

    def sessions(self, block: list[int]) -> tuple[list[int], str | None]:
        """Convert the sessions of a row in which ``is_tls`` is set. :returns: as :attr:`ConvertedRow.unknown`"""
        if self._session is None:
            raise CannotConvert(f"the table of layout {self.old.version} has a TLS connection and no sessions")
        return self._session.convert(block)


def _texts_of(described: Description, row: bytes) -> dict[str, bytes]:
    """The texts of a row, by name. :param row: as :meth:`Foreign.row` returns it"""
    packed = described.packed
    if packed is None:
        return {
            name: unpack(row[at : at + LENGTH_BYTES + size], (size,))[0] for name, (at, size) in described.texts.items()
        }
    data = row[packed.at : packed.at + packed.size] + row[described.row.cells * CELL_BYTES :]
    found = unpack(data, tuple(size for _, size in packed.texts))
    return {name: text for (name, _), text in zip(packed.texts, found, strict=True)}


def _write_texts(described: Description, row: array[int], texts: Mapping[str, bytes]) -> None:
    """Write texts into a row whose other cells are converted, and append the cells of its long texts."""
    packed = described.packed
    if packed is None:
        for name, (at, size) in described.texts.items():
            _put(row, at, pack([(texts.get(name, b""), size)]))
        return
    whole = pack([(texts.get(name, b""), size) for name, size in packed.texts])
    there = whole[packed.size :]
    _put(row, packed.at, whole[: packed.size])
    row[described.row.names["LONG_TEXTS"][0]] = len(there)
    row.frombytes(there + bytes(-len(there) % CELL_BYTES))


def _put(row: array[int], at: int, data: bytes) -> None:
    """:param at: where in the row, in bytes"""
    memoryview(row).cast("B")[at : at + len(data)] = data


class Foreign:
    """A table of any layout, for reading."""

    def __init__(self, fd: int) -> None:
        """
        :param fd: of the table; it is duplicated
        :raises Undescribed: as :func:`description.read`
        :raises CannotConvert: it lacks cells that every table has
        """
        self.description = described = description.read(fd)
        try:
            self._used = described.worker.names["W_HIGH_ROWS"][0]
            self._state = described.row.names["STATE"][0]
            self._id = described.row.names["ID"][0]
            self._free = described.values["STATE"]["FREE"]
            self._long = described.row.names["LONG_TEXTS"][0] if described.packed is not None else None
        except KeyError as error:
            raise CannotConvert(f"the table of layout {described.version} has no {error.args[0]}") from None
        self.fd = os.dup(fd)
        self._map = map_table(self.fd, described.size_bytes, read_only=True)
        self.cells = memoryview(self._map).cast("q")

    def close(self) -> None:
        """Close the mapping and the descriptor, if they are open."""
        if not self._map.closed:
            self.cells.release()
            self._map.close()
            os.close(self.fd)

    def block(self, section: Section, slot: int, number: int = 0) -> list[int]:
        """The cells of one block."""
        at = section.block(slot, number)
        return self.cells[at : at + section.cells].tolist()

    def used_rows(self, slot: int) -> int:
        """How many rows of a slot were ever used."""
        return min(self.cells[self.description.worker.block(slot) + self._used], self.description.row.count)

    def in_use(self, slot: int, start: int, end: int) -> list[bool]:
        """For the rows from one number to another: whether each is in use."""
        section = self.description.row
        first, last = section.block(slot, start) + self._state, section.block(slot, end) + self._state
        return [state != self._free for state in self.cells[first : last : section.cells].tolist()]

    def sessions(self, slot: int, number: int) -> list[int]:
        """The sessions of a row by its number in the slot: the cells of a block."""
        return self.block(self.description.session, slot, number)

    def row(self, slot: int, number: int) -> bytes | None:
        """A row by its number in the slot, and behind it the cells of its long texts that are in use.

        :returns: None if it is free, or changed while it was read
        """
        at = self.description.row.block(slot, number)
        state, tunnel = self.cells[at + self._state], self.cells[at + self._id]
        if state == self._free:
            return None
        row = self.cells[at : at + self.description.row.cells].tobytes()
        if self._long is not None and (size := self.cells[at + self._long]) > 0:
            there = self.description.long_texts.block(slot, number)
            cells = min(-(-size // CELL_BYTES), self.description.long_texts.cells)
            row += self.cells[there : there + cells].tobytes()
        whole = (state, tunnel) == (self.cells[at + self._state], self.cells[at + self._id])
        return row if whole else None

    def number_of(self, slot: int, row: int) -> int:
        """The number of a row in its slot. :param row: its first cell. :raises ValueError: the slot has no row there"""
        section = self.description.row
        number, rest = divmod(row - section.block(slot), section.cells)
        if rest or not 0 <= number < section.count:
            raise ValueError(f"slot {slot} has no row at {row}")
        return number


def _by_name(old: Mapping[str, int], new: Mapping[str, int]) -> dict[int, int | None]:
    """Values that differ in the new layout, with the new ones; None for those without a name there."""
    found = {value: new.get(name) for name, value in old.items()}
    return {value: other for value, other in found.items() if value != other}


def _by_bounds(old: tuple[int, ...], new: tuple[int, ...], there: int, at: int) -> list[tuple[int, int, list[int]]]:
    """Where the counts of a histogram go; those beyond the last bound stay beyond it."""
    return [(there, len(old) + 1, [at + bisect_left(new, bound) for bound in old] + [at + len(new)])]


def _peers(old: Description, new: Description) -> list[tuple[int, int, int]]:
    """The cells that hold the distance to the other side's scanner: old place, new place, distance.

    Empty if a layout lacks one of them.
    """
    names = [name for name in new.row.names if name.split()[-1] == "PEER" and name in old.row.names]
    if len(names) != len(SIDES):
        return []
    places = [new.row.names[name][0] for name in names]
    return [(old.row.names[name][0], at, sum(places) - 2 * at) for name, at in zip(names, places, strict=True)]
