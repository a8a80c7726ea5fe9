# cython: boundscheck=True
"""A worker's slice of the shared table: the only part that it writes. ``layout.py`` describes the cells.

Compiled by Cython if a C compiler is available (types in ``slice.pxd``), run as it is otherwise. Unlike in the relay,
indices stay checked: a row that another process left may say anything.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Protocol

from gateway.protocol.tls.state import SESSION_CELLS
from gateway.tunnels.table.layout import (
    B_CONNECT_NS,
    B_IDLE,
    B_LIVE,
    B_REQUESTS,
    BACKEND,
    BACKEND_CELLS,
    CAUSE,
    CELL_BYTES,
    COUNTED,
    DEADLINE_NS,
    DIRTY,
    END_SIDE,
    EXPIRES_NS,
    FREE,
    ID,
    INITIATOR,
    LONG_TEXTS,
    MAX_BACKENDS,
    MAX_ROUTES,
    NEVER,
    PING_AFTER_NS,
    RELEASED,
    RESERVED,
    ROUTE,
    ROUTE_CELLS,
    ROW_CELLS,
    SIDE_0,
    SIDE_CELLS,
    STATE,
    T_REQUESTS,
    TEXT_BYTES,
    TEXT_CELL,
    TLS,
    TOTALS,
    W_HIGH_ROWS,
    W_LAST_ID,
)
from gateway.tunnels.table.table import Table
from gateway.tunnels.table.texts import packed

_EMPTY_ROW = memoryview(array("q", bytes(ROW_CELLS * CELL_BYTES)))
_NO_CELLS = memoryview(array("q"))
_BACKENDS_CELLS = MAX_BACKENDS * BACKEND_CELLS  # of one slot; likewise the next
_ROUTES_CELLS = MAX_ROUTES * ROUTE_CELLS


def _reserved_row() -> memoryview[int]:
    cells = array("q", _EMPTY_ROW[:TEXT_CELL])
    cells[STATE] = RESERVED
    cells[DEADLINE_NS] = cells[EXPIRES_NS] = NEVER
    cells[INITIATOR] = cells[CAUSE] = cells[END_SIDE] = -1
    for side in range(2):
        cells[SIDE_0 + side * SIDE_CELLS + PING_AFTER_NS] = NEVER
    return memoryview(cells)


RESERVED_ROW = _reserved_row()
"""A row that nothing is known of yet, without its texts."""


class RowCounts(Protocol):
    """Counts the tunnels of a slice by something that is not in the table (``tunnels/quotas/rows.py``)."""

    def taken(self, row: int) -> None:
        """The tunnel of a row was taken over from another worker."""

    def released(self, row: int) -> None:
        """A row is about to be freed, whether or not it came to a tunnel."""


class Slice:
    """The part of the table that one worker writes: its block, its totals, its rows."""

    def __init__(self, table: Table, slot: int) -> None:
        """Take over the slice of a slot, whatever state its last worker left it in. Live rows are kept."""
        self.table = table
        self.slot = slot
        self.cells = table.cells
        self.own = table.cells  # the same, with types in the compiled build
        self._reserved_row = RESERVED_ROW
        self._empty_row = _EMPTY_ROW
        self._rows_per_worker = table.rows_per_worker
        self.block = table.worker(slot)
        self.counts: RowCounts | None = None
        self.first = table.first_row(slot)
        self._backends_at = table.backend_at(slot, 0)
        self._routes_at = table.totals_at(slot, 0)
        self._free: list[int] = []  # a heap: the lowest first keeps used rows together
        self._taken: dict[int, int] = {}
        """rows of tunnels that were taken over, each with the row that the previous worker may still have for it"""
        table.lend(self)
        self._reset_gauges()
        for row in self.rows():
            if self.cells[row + STATE] == FREE:
                self._empty(row)
                self._free.append(row)
            else:
                if not (0 <= self.cells[row + BACKEND] < MAX_BACKENDS and 0 <= self.cells[row + ROUTE] < MAX_ROUTES):
                    # A corrupt row must not keep the worker from starting: its tunnel is lost.
                    self.cells[row + BACKEND] = self.cells[row + ROUTE] = 0
                    self.cells[row + DIRTY] = 1
                self._check_sessions(row)
                self._occupy(row, self.cells[row + BACKEND])

    def close(self) -> None:
        """Give the cells back: the table is about to be unmapped (:meth:`Table.unmap`)."""
        self.own = _NO_CELLS

    @property
    def used_rows(self) -> int:
        """How many rows of the slice were ever used."""
        return self.cells[self.block + W_HIGH_ROWS]

    @property
    def rows_in_use(self) -> int:
        """Rows that hold a tunnel or a handshake."""
        self.forget_taken()
        return self.used_rows - len(self._free)

    def rows(self) -> range:
        """All rows that were ever used, whatever their state."""
        return range(self.first, self.first + self.used_rows * ROW_CELLS, ROW_CELLS)

    def allocate(self, route: int, backend: int) -> int | None:
        """Reserve a row for a handshake; None if the slice is full. :meth:`release` frees it.

        :raises IndexError: there are no such numbers; another worker's row may hold them if it is corrupt
        """
        if not (0 <= route < MAX_ROUTES and 0 <= backend < MAX_BACKENDS):
            raise IndexError(f"there is no route {route} with a backend {backend}")
        cells = self.own
        if self._taken and not self._free:
            self.forget_taken()
        if self._free:
            row = heappop(self._free)
        else:
            used = cells[self.block + W_HIGH_ROWS]
            if used == self._rows_per_worker:
                return None
            row = self.first + used * ROW_CELLS
            cells[row + DEADLINE_NS] = NEVER
            cells[self.block + W_HIGH_ROWS] = used + 1
        serial = cells[self.block + W_LAST_ID] + 1
        cells[self.block + W_LAST_ID] = serial
        cells[row : row + TEXT_CELL] = self._reserved_row
        cells[row + ID] = self.slot << 48 | serial
        cells[row + ROUTE] = route
        cells[row + TOTALS] = self._routes_at + route * ROUTE_CELLS
        self._occupy(row, backend)
        return row

    def receive(self, cells: Sequence[int], texts: bytes, sessions: Sequence[int] | None = None) -> int | None:
        """Copy the row of a tunnel from another worker, its id included; None if the slice is full.

        :param cells: the row without its texts. The caller writes ``STATE`` when it serves the tunnel
        :param texts: packed
        :param sessions: of both sides, if one uses TLS
        """
        row = self.allocate(cells[ROUTE], cells[BACKEND])
        if row is None:
            return None
        own = self.cells
        totals = own[row + TOTALS]
        own[row + STATE + 1 : row + TEXT_CELL] = array("q", cells[STATE + 1 :])
        own[row + TOTALS] = totals
        self._check_sessions(row)
        if sessions is not None:
            self.table.write_sessions(row, sessions)
        self.table.write_texts(row, texts)
        return row

    def _check_sessions(self, row: int) -> None:
        """Have the ``TLS`` cells of a row give the places of its own sessions, wherever it came from."""
        for side in range(2):
            at = row + SIDE_0 + side * SIDE_CELLS + TLS
            if self.cells[at]:
                self.cells[at] = self.table.session_at(row, side)

    def begin_session(self, row: int, side: int, session: Sequence[int]) -> None:
        """Make a side of a reserved row a TLS connection. :param session: ``SESSION_CELLS`` integers"""
        at = self.table.session_at(row, side)
        self.cells[row + SIDE_0 + side * SIDE_CELLS + TLS] = at  # first, so that the keys are wiped with the row
        self.cells[at : at + SESSION_CELLS] = array("q", session)

    def take(self, row: int, before: int) -> None:
        """Note that this slice has a tunnel now, and counts its end.

        :param row: where it was received
        :param before: its row in the previous worker's slice. As long as that says ``RELEASED``, the new row outlives
            the tunnel: a process that finds both rows after a crash then knows that the end was counted
        """
        self._taken[row] = before
        if self.counts is not None:
            self.counts.taken(row)

    def forget_taken(self) -> None:
        """Free rows that outlived their tunnels, as far as the previous worker has forgotten these."""
        if not self._taken:
            return
        for row, before in list(self._taken.items()):
            if not self._is_released(before, self.cells[row + ID]):
                del self._taken[row]
                if self.own[row + STATE] == COUNTED:
                    self._free_row(row)

    def _is_released(self, row: int, tunnel: int) -> bool:
        return self.own[row + STATE] == RELEASED and self.own[row + ID] == tunnel

    def use_backend(self, row: int, backend: int) -> None:
        """Move a reserved row to another backend, because the first could not be reached."""
        self._vacate(row)
        self._occupy(row, backend)

    def release(self, row: int) -> None:
        """Free a row, and empty it. If it was taken over, it stays ``COUNTED`` until the previous worker forgets it."""
        if self.counts is not None:
            self.counts.released(row)
        try:
            self._vacate(row)
        finally:  # a corrupt ``BACKEND`` must not leak the row
            before = self._taken.get(row) if self._taken else None
            if before is not None and self._is_released(before, self.own[row + ID]):
                self.table.wipe_sessions(row)
                self.own[row + STATE] = COUNTED
            else:
                self._taken.pop(row, None)
                self._free_row(row)

    def _free_row(self, row: int) -> None:
        # FREE first: a reader that finds the row live must find it whole.
        self.own[row + STATE] = FREE
        self._empty(row)
        heappush(self._free, row)

    # --- plain requests -----------------------------------------------------------------------------------------------

    def begin_request(self, route: int, backend: int) -> None:
        """Count a plain request as in flight, until :meth:`end_request`. Arguments are numbers in the registry."""
        self.own[self._routes_at + route * ROUTE_CELLS + T_REQUESTS] += 1
        self.own[self._backends_at + backend * BACKEND_CELLS + B_REQUESTS] += 1

    def move_request(self, backend: int, other: int) -> None:
        """Count a request in flight for another backend, because the first could not be reached."""
        self.own[self._backends_at + backend * BACKEND_CELLS + B_REQUESTS] -= 1
        self.own[self._backends_at + other * BACKEND_CELLS + B_REQUESTS] += 1

    def end_request(self, route: int, backend: int) -> None:
        """Count a request as over. :param backend: the latest one it was counted for"""
        self.own[self._routes_at + route * ROUTE_CELLS + T_REQUESTS] -= 1
        self.own[self._backends_at + backend * BACKEND_CELLS + B_REQUESTS] -= 1

    def idle_connections(self, backend: int, delta: int) -> None:
        """Count pooled connections to a backend that became idle; a negative ``delta`` for those that are no longer."""
        self.own[self._backends_at + backend * BACKEND_CELLS + B_IDLE] += delta

    # --- backends and texts -------------------------------------------------------------------------------------------

    def note_connect(self, backend: int, ok: bool, now: int) -> None:
        """Record the outcome of an attempt to connect to a backend. :param now: ``CLOCK_MONOTONIC`` in nanoseconds"""
        self.own[self._backends_at + backend * BACKEND_CELLS + B_CONNECT_NS] = now if ok else -now

    def write_texts(
        self,
        row: int,
        client: bytes = b"",
        host: bytes = b"",
        path: bytes = b"",
        subprotocol: bytes = b"",
        request_id: bytes = b"",
    ) -> None:
        """Write the texts of a reserved row, once; those that do not fit are cut (``layout.TEXTS``)."""
        texts = packed(client, host, path, subprotocol, request_id)
        if len(texts) > TEXT_BYTES:
            self.table.write_texts(row, texts)
        else:
            at = (row + TEXT_CELL) * CELL_BYTES
            self.table.bytes[at : at + len(texts)] = texts

    def _empty(self, row: int) -> None:
        cells = self.own
        if cells[row + SIDE_0 + TLS] or cells[row + SIDE_0 + SIDE_CELLS + TLS]:
            self.table.wipe_sessions(row)
        if cells[row + LONG_TEXTS]:
            self.table.wipe_long_texts(row)
        cells[row : row + ROW_CELLS] = self._empty_row
        cells[row + DEADLINE_NS] = NEVER

    def _reset_gauges(self) -> None:
        """Reset the gauges of a worker that has exited."""
        for cell in (B_LIVE, B_REQUESTS, B_IDLE):
            self._reset(self._backends_at, _BACKENDS_CELLS, BACKEND_CELLS, cell)
        self._reset(self._routes_at, _ROUTES_CELLS, ROUTE_CELLS, T_REQUESTS)

    def _reset(self, at: int, cells: int, step: int, cell: int) -> None:
        # Read through the descriptor: reading a page through the mapping allocates it.
        block = memoryview(os.pread(self.table.fd, cells * CELL_BYTES, at * CELL_BYTES)).cast("q")
        for n, value in enumerate(block[cell::step].tolist()):
            if value:
                self.own[at + n * step + cell] = 0

    def _occupy(self, row: int, backend: int) -> None:
        self.own[row + BACKEND] = backend
        self.own[self._backends_at + backend * BACKEND_CELLS + B_LIVE] += 1

    def _vacate(self, row: int) -> None:
        backend = self.own[row + BACKEND]
        if not 0 <= backend < MAX_BACKENDS:
            raise IndexError(f"a corrupt row names a backend {backend}")
        self.own[self._backends_at + backend * BACKEND_CELLS + B_LIVE] -= 1
