"""Slots of this program's table whose workers write another one, of the layout of the program that has started them.

After an upgrade to a program with another layout, old workers go on with the table that they know. The supervisor makes
a new one, and what each of them writes is *mirrored* there, in the slot that is its own in both: totals (which are
written over, so that they count once), what it knows of backends, its rows. So whoever reads the new table sees all
tunnels and all that was ever counted, and nobody but this module knows of another layout:

* Readers have the mirrors brought up to date before they look (:meth:`Mirrors.refresh`).
* Tunnels that an old worker has released are converted, and the new one takes them over from the mirror as if it were
  the slot of an old worker of its own layout (:meth:`Mirrors.moving`).
* When an old worker is gone, its mirror is brought up to date for the last time, and is a slot like any: a successor
  may find tunnels in it, and counts on in its totals (:meth:`Mirrors.settle`).

If the new workers do not start, the old ones stay, as do their mirrors, and the next upgrade inherits both tables.
"""

from __future__ import annotations

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
    MAX_BACKENDS,
    MAX_ROUTES,
    ROW_CELLS,
    STATE,
    W_HIGH_ROWS,
)
from gateway.tunnels.table.table import OtherLayout, Table

Names = Callable[[], tuple[int, int]]
"""How many routes and how many backends have numbers: blocks of others are empty, and not touched."""

OF_ITS_OWN = frozenset({"H_WORKERS", "H_ROWS_PER_WORKER"})
"""Cells of the header that are about the table, and not about the gateway."""

AT_ONCE = 256
"""Rows that are mirrored before somebody else gets a turn."""

_EMPTY_ROW = memoryview(bytes(ROW_CELLS * CELL_BYTES)).cast("q")


class _Source:
    """A table that is mirrored: of another layout, or another table of the same one."""

    def __init__(self, fd: int, table: Table, names: tuple[int, int]) -> None:
        """:raises ValueError: it cannot be converted"""
        for what, number, most in zip(("routes", "backends"), names, (MAX_ROUTES, MAX_BACKENDS), strict=True):
            if number > most:
                raise CannotConvert(f"{number} {what} have numbers, and there is room for {most}")
        self.foreign = Foreign(fd)
        try:
            self.conversion = Conversion(self.foreign.description, table.description)
        except BaseException:
            self.foreign.close()
            raise


class Mirrors:
    """The table of this program, and which of its slots are mirrors."""

    def __init__(self, table: Table, names: Names) -> None:
        """No slot is a mirror; see :meth:`inherit`."""
        self.table = table
        self.unknown: Counter[str] = Counter()
        """tunnels that nobody can carry on, by the cell because of which; as of the beginning"""
        self.on_settled: Callable[[], object] = lambda: None
        """told when a slot is no mirror any more, before anybody else writes there"""
        self._names = names
        self._lock = threading.Lock()
        self._sources: dict[int, _Source] = {}

    @classmethod
    def inherit(
        cls,
        fd: int,
        max_tunnels: int,
        names: Names,
        running: Collection[int] = (),
        others: Mapping[int, int] | None = None,
    ) -> Mirrors:
        """Use a table that another program leaves, or convert it.

        :param fd: of the table; it is this object's from now on, as are those of others
        :param max_tunnels: as it is configured now
        :param running: slots whose workers live. What is in the others is converted at once, and for good
        :param others: descriptors of further tables, by slot: of slots that were mirrors for the program before
            (:meth:`left`)
        :raises ValueError: a table is none, or cannot be converted; descriptors are as they were then
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
        """See whether every tunnel can be carried on. Those that end already need not.

        :raises CannotConvert: some cannot
        """
        found = {name: count for name, count in self.unknown.items() if name != "CAUSE"}
        if found:
            what = ", ".join(f"{count} by {name}" for name, count in found.items())
            raise CannotConvert(f"tunnels are in a state that this program does not know: {what}; try again later")

    def tables(self) -> list[int]:
        """Descriptors of all tables, this program's own first."""
        return [self.table.fd, *{source.foreign.fd for source in self._sources.values()}]

    def tell_all(self, name: str, value: int) -> None:
        """Write a cell of the header in all tables that have it, for all workers to read."""
        for fd in self.tables():
            place = description.read(fd).header.names.get(name)
            if place is not None:
                os.pwrite(fd, value.to_bytes(CELL_BYTES, sys.byteorder, signed=True), place[0] * CELL_BYTES)

    def left(self) -> list[tuple[int, int]]:
        """Slots that are mirrors, with descriptors of the tables that they mirror: for the next program."""
        return [(slot, source.foreign.fd) for slot, source in self._sources.items()]

    def refresh(self, rows: bool = True) -> Counter[str]:
        """Bring all mirrors up to date; any thread may call this.

        :param rows: not only what stands beside them, which is quickly done
        :returns: as ``unknown``
        """
        unknown: Counter[str] = Counter()
        for slot, source in list(self._sources.items()):
            at = 0
            while True:
                with self._lock:
                    if self._sources.get(slot) is not source:  # its worker has gone meanwhile
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
                time.sleep(0)  # or whoever waits for the lock would not get it
        return unknown

    def moving(self, slot: int, parcel_fd: int, tunnels: Iterable[parcel.Tunnel]) -> frozenset[int]:
        """Have the parcel of an old worker name rows of this table, and these hold what it has released.

        :param tunnels: what is in it
        :returns: ids of tunnels that cannot be carried on in this layout
        :raises ValueError: the rows are not those of the tunnels
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
                if self._copy_row(source, slot, number) is not None:
                    unknown.add(tunnel.id)
                if self.table.cells[row + ID] != tunnel.id:
                    raise ValueError(f"row {number} of slot {slot} is not that of tunnel {tunnel.id:x}")
                rows.append(row)
        parcel.readdress(parcel_fd, rows)
        return frozenset(unknown)

    def settle(self, slot: int) -> None:
        """The worker of a slot is gone: whatever it has left is in this table from now on."""
        with self._lock:
            source = self._sources.pop(slot, None)
            if source is None:
                return
            self._copy_blocks(source, slot)
            for number in self._in_use(source, slot, 0, source.foreign.used_rows(slot)):
                self._copy_row(source, slot, number)
            self.table.forget_requests(slot, *self._names())
        self.on_settled()
        with self._lock:
            if source not in self._sources.values():
                source.foreign.close()

    def close(self) -> None:
        """Let go of the tables that are mirrored."""
        with self._lock:
            for source in set(self._sources.values()):
                source.foreign.close()
            self._sources.clear()

    # --- blocks and rows ----------------------------------------------------------------------------------------------

    def _convert(self, source: _Source, running: Collection[int]) -> None:
        """Take over the main table of the program before.

        :raises CannotConvert: there is no room for all tunnels
        """
        header, _ = source.conversion.header.convert(source.foreign.block(source.foreign.description.header, 0))
        for name, (at, _) in self.table.description.header.names.items():
            if name not in OF_ITS_OWN:
                self.table.cells[at] = header[at]
        for slot in range(self.table.slots):
            if slot in self._sources:
                continue
            if slot in running:
                if source.foreign.description.row.count > self.table.rows_per_worker:
                    raise CannotConvert(
                        f"there is room for {self.table.rows_per_worker} tunnels in each worker,"
                        f" and the old ones have room for {source.foreign.description.row.count}"
                    )
                self._sources[slot] = source
                continue
            # Nobody minds where the rows of the dead are: this table may have fewer, if they are enough.
            self._copy_blocks(source, slot)
            self.table.forget_requests(slot, *self._names())
            used = enumerate(source.foreign.in_use(slot, 0, source.foreign.used_rows(slot)))
            rows = [number for number, is_used in used if is_used]
            if len(rows) > self.table.rows_per_worker:
                raise CannotConvert(
                    f"{len(rows)} tunnels are open in slot {slot}, and there is room for {self.table.rows_per_worker}"
                )
            for to, number in enumerate(rows):
                if (cell := self._copy_row(source, slot, number, to)) is not None:
                    self.unknown[cell] += 1
            self.table.cells[self.table.worker(slot) + W_HIGH_ROWS] = len(rows)

    def _copy_blocks(self, source: _Source, slot: int) -> None:
        """All but the rows."""
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
        """Numbers of rows that are in use, or whose mirrors are."""
        mirrored = self.table.cells[self._row(slot, start) + STATE : self._row(slot, end) + STATE : ROW_CELLS].tolist()
        for number, used in enumerate(source.foreign.in_use(slot, start, end), start):
            if used or mirrored[number - start] != FREE:
                yield number

    def _copy_row(self, source: _Source, slot: int, number: int, to: int | None = None) -> str | None:
        """
        :param to: the number of the row that becomes its mirror, if another one
        :returns: the cell because of which nobody can carry the tunnel on; None for most
        """
        cells = self.table.cells
        at = self._row(slot, number if to is None else to)
        row = source.foreign.row(slot, number)
        if row is None:
            if cells[at + STATE] != FREE:
                cells[at + STATE] = FREE
                cells[at : at + ROW_CELLS] = _EMPTY_ROW
            return None
        converted, unknown = source.conversion.row(slot, row)
        state = converted[STATE]
        if (cells[at + STATE], cells[at + ID]) != (state, converted[ID]):
            # As whoever owns a row does it: one that is live is whole, and of one tunnel.
            cells[at + STATE] = converted[STATE] = FREE
        if unknown is not None:
            converted[DIRTY] = 1
            unknown = unknown.split()[-1]
        cells[at : at + ROW_CELLS] = converted
        cells[at + STATE] = state
        return unknown

    def _row(self, slot: int, number: int) -> int:
        return self.table.first_row(slot) + number * ROW_CELLS
