"""Mirrors: slots of this program's table that copy what old workers write into a table of another layout.

After an upgrade to a program with another layout, the old workers keep writing the table they know. The supervisor
makes a new one, and *mirrors* there what each old worker writes, in the same slot: its totals (overwritten, so that
they count once), its data about backends, and its rows. Readers of the new table therefore see all tunnels and
everything ever counted, and no other module has to know about other layouts:

* Readers refresh the mirrors before they look (:meth:`Mirrors.refresh`).
* Tunnels that an old worker released are converted; the new worker takes them over from the mirror, as it would from a
  slot of its own layout (:meth:`Mirrors.moving`).
* When an old worker has exited, its mirror is refreshed one last time and becomes an ordinary slot: a successor may
  find tunnels there, and continues its totals (:meth:`Mirrors.settle`).

If the new workers fail to start, the old ones stay, as do their mirrors, and the next upgrade inherits both tables.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from gateway.tunnels.moving import parcel
from gateway.tunnels.table import description
from gateway.tunnels.table.conversion import CannotConvert, Conversion, Foreign
from gateway.tunnels.table.layout import (
    CELL_BYTES,
    DIRTY,
    FREE,
    ID,
    LONG_TEXTS,
    MAX_BACKENDS,
    MAX_ROUTES,
    ROW_CELLS,
    STATE,
    W_HIGH_ROWS,
)
from gateway.tunnels.table.table import OtherLayout, Table

Names = Callable[[], tuple[int, int]]
"""How many routes and backends have numbers; the blocks of other numbers are empty and are not touched."""

OF_ITS_OWN = frozenset({"H_WORKERS", "H_ROWS_PER_WORKER"})
"""Cells of the header that describe the table itself."""

OF_THE_GATEWAY = frozenset({"H_SECRET_LOW", "H_SECRET_HIGH"})
"""Cells of the header that a table from before they existed has no value for: those of the new table stay."""

AT_ONCE = 256
"""Rows that are mirrored between two releases of the lock."""

UNREADABLE = "row"
"""In place of a cell's name: converting the row raised, so that the tunnel cannot be resumed."""

log = logging.getLogger("gateway")
_EMPTY_ROW = memoryview(bytes(ROW_CELLS * CELL_BYTES)).cast("q")


class _Source:
    """A table that is mirrored: of another layout, or another table of this one."""

    def __init__(self, fd: int, table: Table, names: tuple[int, int]) -> None:
        """:raises ValueError: it cannot be converted"""
        for what, number, most in zip(("routes", "backends"), names, (MAX_ROUTES, MAX_BACKENDS), strict=True):
            if number > most:
                raise CannotConvert(f"{number} {what} have numbers, and the table has room for {most}")
        self.foreign = Foreign(fd)
        try:
            self.conversion = Conversion(self.foreign.description, table.description)
        except BaseException:
            self.foreign.close()
            raise


class Mirrors:
    """This program's table, and which of its slots are mirrors."""

    def __init__(self, table: Table, names: Names) -> None:
        """No slot is a mirror; see :meth:`inherit`."""
        self.table = table
        self.unknown: Counter[str] = Counter()
        """tunnels that cannot be resumed, by the cell that prevents it; as of the start"""
        self.on_settled: Callable[[], object] = lambda: None
        """called when a slot stops being a mirror, before anything else writes there"""
        self._names = names
        self._lock = threading.Lock()
        self._sources: dict[int, _Source] = {}
        self._unreadable: set[tuple[int, int]] = set()

    @classmethod
    def inherit(
        cls,
        fd: int,
        max_tunnels: int,
        names: Names,
        running: Collection[int] = (),
        others: Mapping[int, int] | None = None,
    ) -> Mirrors:
        """Use the table of the previous program, or convert it.

        :param fd: of the table; this object owns it from now on, as it does those in ``others``
        :param max_tunnels: as configured now
        :param running: slots whose workers are alive. The others are converted once and for all
        :param others: descriptors of further tables by slot, for slots that were mirrors in the previous program
            (:meth:`left`)
        :raises ValueError: a descriptor is not a table, or cannot be converted; all descriptors stay open
        """
        opened: dict[int, _Source] = {}
        try:
            self = cls(Table(fd), names)
        except OtherLayout:
            self = cls(Table.create(description.read(fd).workers, max_tunnels), names)
        try:
            for slot, other in (others or {}).items():
                if other not in opened:
                    opened[other] = _Source(other, self.table, names())
                self._sources[slot] = opened[other]
            if self.table.fd != fd:
                opened[fd] = _Source(fd, self.table, names())
                self._convert(opened[fd], running)
            self.unknown += self.refresh()
            for slot in self._sources.keys() - set(running):
                self.settle(slot)
        except BaseException:
            for source in opened.values():
                source.foreign.close()
            self.table.unmap()
            if self.table.fd != fd:
                os.close(self.table.fd)
            raise
        for number, source in opened.items():
            if source not in self._sources.values():
                source.foreign.close()
            os.close(number)
        return self

    def __len__(self) -> int:
        """How many slots are mirrors."""
        return len(self._sources)

    def check(self) -> None:
        """Check that every tunnel can be resumed, except those that are ending.

        :raises CannotConvert: some cannot
        """
        found = {name: count for name, count in self.unknown.items() if name != "CAUSE"}
        if found:
            what = ", ".join(f"{count} by {name}" for name, count in found.items())
            raise CannotConvert(f"this program does not know the state of some tunnels ({what}); try again later")

    def tables(self) -> list[int]:
        """Descriptors of all tables, this program's own first."""
        return [self.table.fd, *{source.foreign.fd for source in self._sources.values()}]

    def write_header(self, name: str, value: int) -> None:
        """Write a cell of the header in all tables that have it, so that all workers see it."""
        for fd in self.tables():
            place = description.read(fd).header.names.get(name)
            if place is not None:
                os.pwrite(fd, value.to_bytes(CELL_BYTES, sys.byteorder, signed=True), place[0] * CELL_BYTES)

    def left(self) -> list[tuple[int, int]]:
        """Slots that are mirrors, with the descriptors of their tables, for the next program."""
        return [(slot, source.foreign.fd) for slot, source in self._sources.items()]

    def refresh(self, rows: bool = True) -> Counter[str]:
        """Bring all mirrors up to date; any thread may call this.

        :param rows: also the rows; without them it is quick
        :returns: as ``unknown``
        """
        unknown: Counter[str] = Counter()
        for slot, source in list(self._sources.items()):
            at = 0
            while True:
                with self._lock:
                    if self._sources.get(slot) is not source:  # its worker exited meanwhile
                        break
                    if at == 0:
                        self._copy_blocks(source, slot)
                    end = min(at + AT_ONCE, source.foreign.used_rows(slot)) if rows else 0
                    for number in self._in_use(source, slot, at, end):
                        if (cell := self._copy_row(source, slot, number)) is not None:
                            unknown[cell] += 1
                if end < at + AT_ONCE:
                    break
                at = end
                time.sleep(0)  # lets another thread take the lock
        return unknown

    def moving(self, slot: int, parcel_fd: int, tunnels: Iterable[parcel.Tunnel]) -> frozenset[int]:
        """Convert the rows of an old worker's parcel, and make the parcel point to the converted rows.

        :param tunnels: the contents of the parcel
        :returns: ids of tunnels that cannot be resumed in this layout
        :raises ValueError: a row is not that of its tunnel
        """
        unknown: set[int] = set()
        rows = []
        with self._lock:
            source = self._sources.get(slot)
            if source is None:
                return frozenset()
            for tunnel in tunnels:
                number = source.foreign.number_of(slot, tunnel.row)
                row = self._row(slot, number)
                if self._copy_row(source, slot, number, keys=True) is not None:
                    unknown.add(tunnel.id)
                elif self.table.cells[row + ID] != tunnel.id:
                    raise ValueError(f"row {number} of slot {slot} is not that of tunnel {tunnel.id:x}")
                rows.append(row)
        parcel.readdress(parcel_fd, rows)
        return frozenset(unknown)

    def settle(self, slot: int) -> None:
        """The worker of a slot has exited: copy its data one last time; the slot is an ordinary one from now on."""
        with self._lock:
            source = self._sources.pop(slot, None)
            if source is None:
                return
            self._copy_blocks(source, slot)
            for number in self._in_use(source, slot, 0, source.foreign.used_rows(slot)):
                self._copy_row(source, slot, number, keys=True)
            self.table.forget_requests(slot, *self._names())
        self.on_settled()
        with self._lock:
            if source not in self._sources.values():
                source.foreign.close()

    def close(self) -> None:
        """Close the tables that are mirrored."""
        with self._lock:
            for source in set(self._sources.values()):
                source.foreign.close()
            self._sources.clear()

    # --- blocks and rows ----------------------------------------------------------------------------------------------

    def _convert(self, source: _Source, running: Collection[int]) -> None:
        """Take over the main table of the previous program.

        :raises CannotConvert: there is no room for all tunnels
        """
        header, _ = source.conversion.header.convert(source.foreign.block(source.foreign.description.header, 0))
        known = source.foreign.description.header.names
        for name, (at, _) in self.table.description.header.names.items():
            if name not in OF_ITS_OWN and (name in known or name not in OF_THE_GATEWAY):
                self.table.cells[at] = header[at]
        self._copy_states(source)
        for slot in range(self.table.slots):
            if slot in self._sources:
                continue
            if slot in running:
                if source.foreign.description.row.count > self.table.rows_per_worker:
                    raise CannotConvert(
                        f"the table has room for {self.table.rows_per_worker} tunnels per worker, and that of"
                        f" the running workers for {source.foreign.description.row.count}"
                    )
                self._sources[slot] = source
                continue
            # Rows of a dead worker may move, so that a smaller table will do if it holds all tunnels.
            self._copy_blocks(source, slot)
            self.table.forget_requests(slot, *self._names())
            used = enumerate(source.foreign.in_use(slot, 0, source.foreign.used_rows(slot)))
            rows = [number for number, is_used in used if is_used]
            if len(rows) > self.table.rows_per_worker:
                raise CannotConvert(
                    f"slot {slot} has {len(rows)} open tunnels, and the table has room for {self.table.rows_per_worker}"
                )
            for to, number in enumerate(rows):
                if (cell := self._copy_row(source, slot, number, to, keys=True)) is not None:
                    self.unknown[cell] += 1
            self.table.cells[self.table.worker(slot) + W_HIGH_ROWS] = len(rows)

    def _copy_states(self, source: _Source) -> None:
        """Copy the states of backends, which belong to no slot."""
        old, new, blocks = source.foreign.description.states, self.table.description.states, source.conversion.states
        if blocks is None:
            return
        for number in range(min(self._names()[1], old.count)):
            block, _ = blocks.convert(source.foreign.block(old, 0, number))
            at = new.block(0, number)
            self.table.cells[at : at + new.cells] = array("q", block)

    def _copy_blocks(self, source: _Source, slot: int) -> None:
        """Copy everything but the rows."""
        table, foreign, conversion = self.table, source.foreign, source.conversion
        old, new = foreign.description, table.description
        routes, backends = self._names()
        for section, to, blocks, number in (
            (old.worker, new.worker, conversion.worker, 1),
            (old.backend, new.backend, conversion.backend, min(backends, old.backend.count)),
            (old.totals, new.totals, conversion.totals, min(routes, old.totals.count)),
        ):
            for n in range(number):
                at = to.block(slot, n)
                block, _ = blocks.convert(foreign.block(section, slot, n))
                table.cells[at : at + to.cells] = array("q", block)

    def _in_use(self, source: _Source, slot: int, start: int, end: int) -> Iterator[int]:
        """Numbers of rows that are in use in the source or in the mirror."""
        mirrored = self.table.cells[self._row(slot, start) + STATE : self._row(slot, end) + STATE : ROW_CELLS].tolist()
        for number, used in enumerate(source.foreign.in_use(slot, start, end), start):
            if used or mirrored[number - start] != FREE:
                yield number

    def _copy_row(
        self, source: _Source, slot: int, number: int, to: int | None = None, keys: bool = False
    ) -> str | None:
        """
        :param to: the number of the mirror's row, if it differs
        :param keys: copy the sessions as well: somebody may resume the tunnel
        :returns: the cell that keeps the tunnel from being resumed, or ``UNREADABLE``; None for most
        """
        at = self._row(slot, number if to is None else to)
        try:
            return self._convert_row(source, slot, number, at, keys)
        except Exception as error:  # one row must not cost the others theirs
            if (slot, number) not in self._unreadable:
                self._unreadable.add((slot, number))
                log.error("slot %d, row %d: not convertible, so its tunnel cannot move", slot, number, exc_info=error)
            self._empty(at)
            return UNREADABLE

    def _convert_row(self, source: _Source, slot: int, number: int, at: int, keys: bool) -> str | None:
        cells = self.table.cells
        row = source.foreign.row(slot, number)
        if row is None:
            if cells[at + STATE] != FREE:
                self._empty(at)
            return None
        converted, unknown, is_tls = source.conversion.row(slot, self._number(slot, at), row)
        sessions, unknown_there = (
            source.conversion.sessions(source.foreign.sessions(slot, number)) if is_tls else ([], None)
        )
        unknown = unknown or unknown_there
        state = converted[STATE]
        if (cells[at + STATE], cells[at + ID], cells[at + LONG_TEXTS]) != (state, converted[ID], converted[LONG_TEXTS]):
            # As the owner of a row does: a reader that finds it live has found it whole.
            cells[at + STATE] = converted[STATE] = FREE
            if cells[at + ID] != converted[ID]:
                self.table.wipe_sessions(at)
            self.table.wipe_long_texts(at)
        if unknown is not None:
            converted[DIRTY] = 1
            unknown = unknown.split()[-1]
        cells[at : at + ROW_CELLS] = converted[:ROW_CELLS]
        if converted[LONG_TEXTS]:
            self.table.write_long_texts(at, converted[ROW_CELLS:].tobytes())
        if keys and is_tls:
            self.table.write_sessions(at, sessions)
        cells[at + STATE] = state
        return unknown

    def _empty(self, row: int) -> None:
        self.table.cells[row + STATE] = FREE
        self.table.wipe_sessions(row)
        self.table.wipe_long_texts(row)
        self.table.cells[row : row + ROW_CELLS] = _EMPTY_ROW

    def _number(self, slot: int, row: int) -> int:
        return (row - self.table.first_row(slot)) // ROW_CELLS

    def _row(self, slot: int, number: int) -> int:
        return self.table.first_row(slot) + number * ROW_CELLS
