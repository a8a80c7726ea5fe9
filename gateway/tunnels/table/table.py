"""The shared table: one row for each live tunnel, readable by every process, written by the worker that owns it.

The supervisor and all readers use :class:`Table`; ``slice.py`` is the part that one worker writes. ``layout.py``
describes the cells.
"""

from __future__ import annotations

import mmap
import os
import secrets
import time
from array import array
from collections.abc import Iterator, Sequence
from typing import Protocol
from weakref import WeakSet

from gateway.protocol.tls.state import SESSION_CELLS
from gateway.tunnels.table import description
from gateway.tunnels.table.fields import describe
from gateway.tunnels.table.layout import (
    B_CONNECT_NS,
    B_IDLE,
    B_LIVE,
    B_REQUESTS,
    BACKEND,
    BACKEND_CELLS,
    CELL_BYTES,
    FREE,
    H_ROWS_PER_WORKER,
    H_SECRET_HIGH,
    H_SECRET_LOW,
    H_STARTED_UNIX_NS,
    H_WORKERS,
    HEADER_CELLS,
    LIVE,
    LONG_TEXTS,
    LONG_TEXTS_BYTES,
    LONG_TEXTS_CELLS,
    MAX_BACKENDS,
    MAX_ROUTES,
    ROUTE_CELLS,
    ROW_CELLS,
    SESSIONS_CELLS,
    SIDE_0,
    SIDE_CELLS,
    STATE,
    STATE_CELLS,
    T_CUTOFF_NS,
    T_FAULTS,
    T_INTERVAL_NS,
    T_REQUESTS,
    TEXT_BYTES,
    TEXT_CELL,
    TLS,
    TOTAL_CELLS,
    W_HIGH_ROWS,
    W_PID,
    W_READY,
    WORKER_CELLS,
)
from gateway.tunnels.table.mapping import map_table
from gateway.tunnels.table.texts import NAMES, texts_of

_ROW_BYTES = ROW_CELLS * CELL_BYTES
_TEXTS_AT = TEXT_CELL * CELL_BYTES
_EMPTY_ROW = memoryview(bytes(ROW_CELLS * CELL_BYTES)).cast("q")
_NO_SESSIONS = memoryview(bytes(SESSIONS_CELLS * CELL_BYTES)).cast("q")
_NO_LONG_TEXTS = bytes(LONG_TEXTS_CELLS * CELL_BYTES)
_BACKENDS_CELLS = MAX_BACKENDS * BACKEND_CELLS  # of one slot; likewise the next
_ROUTES_CELLS = MAX_ROUTES * ROUTE_CELLS


class OtherLayout(ValueError):
    """A table of another layout, which ``conversion.py`` can convert."""


class Borrower(Protocol):
    """Holds a view of the cells of its own, without which the mapping can be closed."""

    def close(self) -> None:
        """Give it back."""


class Table:
    """The table of one gateway, over a ``memfd`` that every process maps."""

    def __init__(self, fd: int) -> None:
        """Map an existing table.

        :raises Undescribed: ``fd`` holds no table, or one that is damaged
        :raises OtherLayout: it is of another layout
        """
        self.fd = fd
        found = description.read(fd)
        self.description = describe(found.workers, found.row.count)
        if found != self.description:
            raise OtherLayout("this is not a table of this version of the gateway")
        self._map = map_table(fd, found.size_bytes)
        self.bytes = memoryview(self._map)
        self.cells = self.bytes.cast("q")
        self.workers = found.workers
        self.slots = found.slots
        self.rows_per_worker = found.row.count
        self._backends_at = found.backend.at
        self._totals_at = found.totals.at
        self._states_at = found.states.at
        self._rows_at = found.row.at
        self._sessions_at = found.session.at
        self._long_texts_at = found.long_texts.at
        self._borrowers: WeakSet[Borrower] = WeakSet()
        self._backend_blocks = range(self._backends_at, found.backend.end(found.slots), _BACKENDS_CELLS)

    @classmethod
    def create(cls, workers: int, max_tunnels: int) -> Table:
        """Create a table for ``workers`` that hold ``max_tunnels`` together, and for as many that replace them.

        Pages that were never used cost no memory.
        """
        described = describe(workers, -(-max_tunnels // workers))
        fd = os.memfd_create("gateway-tunnels")
        os.ftruncate(fd, described.size_bytes)
        description.write(fd, described, HEADER_CELLS * CELL_BYTES)
        header = {
            H_WORKERS: workers,
            H_ROWS_PER_WORKER: described.row.count,
            H_STARTED_UNIX_NS: time.time_ns(),
            H_SECRET_LOW: secrets.randbits(63),
            H_SECRET_HIGH: secrets.randbits(63),
        }
        for cell, value in header.items():
            os.pwrite(fd, value.to_bytes(CELL_BYTES, "little"), cell * CELL_BYTES)
        return cls(fd)

    def close(self) -> None:
        """Close the mapping and the descriptor."""
        self.unmap()
        os.close(self.fd)

    def unmap(self) -> None:
        """Close the mapping only. Slices of it are no longer usable."""
        for borrower in self._borrowers:
            borrower.close()
        self.cells.release()
        self.bytes.release()
        self._map.close()

    def lend(self, borrower: Borrower) -> None:
        """Note who has to give its view of the cells back before the mapping is closed."""
        self._borrowers.add(borrower)

    def worker(self, slot: int) -> int:
        """The first cell of the block of the worker in ``slot``."""
        return HEADER_CELLS + slot * WORKER_CELLS

    def index_of(self, slot: int) -> int:
        """The index of the worker that a slot is for, from 0."""
        return slot % self.workers

    def secret(self) -> bytes:
        """126 random bits, the same for all processes of a gateway as long as it runs, upgrades included."""
        return bytes(self.bytes[H_SECRET_LOW * CELL_BYTES : (H_SECRET_HIGH + 1) * CELL_BYTES])

    def other_slot(self, slot: int) -> int:
        """The slot of the worker that replaces the one in ``slot`` in an upgrade."""
        return (slot + self.workers) % self.slots

    def backend_at(self, slot: int, backend: int) -> int:
        """The first cell of a worker's block for a backend."""
        return self._backends_at + (slot * MAX_BACKENDS + backend) * BACKEND_CELLS

    def state_at(self, backend: int) -> int:
        """The first cell of a backend's state, which the supervisor writes."""
        return self._states_at + backend * STATE_CELLS

    def live(self, backend: int) -> int:
        """Tunnels to a backend, those in their handshake included, across all workers."""
        return self._over_slots(backend, B_LIVE)

    def load(self, backend: int) -> int:
        """Tunnels to a backend and plain requests in flight to it, across all workers: what balancing goes by."""
        return self._over_slots(backend, B_LIVE) + self._over_slots(backend, B_REQUESTS)

    def idle_connections(self, backend: int) -> int:
        """Pooled connections to a backend that no request is using, across all workers."""
        return self._over_slots(backend, B_IDLE)

    def requests(self, route: int) -> int:
        """Plain requests of a route in flight, across all workers."""
        return self._of_route(route, T_REQUESTS)

    def faults(self, route: int) -> int:
        """Tunnels of a route that ended because of an error in the gateway, over all workers so far."""
        return self._of_route(route, T_FAULTS)

    def _of_route(self, route: int, cell: int) -> int:
        return sum(self.cells[self.totals_at(slot, route) + cell] for slot in range(self.slots))

    def _over_slots(self, backend: int, cell: int) -> int:
        cells = self.cells
        at = backend * BACKEND_CELLS + cell
        total = 0
        for block in self._backend_blocks:
            total += cells[block + at]
        return total

    def is_up(self, backend: int) -> bool:
        """Whether the latest attempt of any worker to connect to a backend succeeded, or there was none."""
        latest = max(
            (self.cells[self.backend_at(slot, backend) + B_CONNECT_NS] for slot in range(self.slots)),
            key=abs,
        )
        return latest >= 0

    def totals_at(self, slot: int, route: int) -> int:
        """The first cell of a worker's totals of a route: ``TOTAL_CELLS`` for each direction, then those of both."""
        return self._totals_at + (slot * MAX_ROUTES + route) * ROUTE_CELLS

    def first_row(self, slot: int) -> int:
        """The first row of a worker's slice."""
        return self._rows_at + slot * self.rows_per_worker * ROW_CELLS

    def rows(self, slot: int | None = None) -> Iterator[int]:
        """Live rows of one worker, or of all."""
        cells = self.cells
        for worker in range(self.slots) if slot is None else (slot,):
            first = self.first_row(worker)
            used = cells[self.worker(worker) + W_HIGH_ROWS]
            for row in range(first, first + used * ROW_CELLS, ROW_CELLS):
                if cells[row + STATE] == LIVE:
                    yield row

    def tunnels(self) -> int:
        """How many tunnels are open, across all workers."""
        return sum(1 for _ in self.rows())

    def slot_of(self, row: int) -> int:
        """The slot that a row belongs to."""
        return (row - self._rows_at) // (self.rows_per_worker * ROW_CELLS)

    def clear(self, slot: int, routes: int, backends: int) -> None:
        """Empty the slice of a worker that has exited for good, and free its memory. Its counters stay.

        :param routes: how many routes have numbers; ``backends`` likewise
        """
        cells = self.cells
        block = self.worker(slot)
        first = self.first_row(slot)
        for row in range(first, first + cells[block + W_HIGH_ROWS] * ROW_CELLS, ROW_CELLS):
            cells[row + STATE] = FREE
            self.wipe_sessions(row)
            self.wipe_long_texts(row)
            cells[row : row + ROW_CELLS] = _EMPTY_ROW
        cells[block + W_HIGH_ROWS] = 0
        cells[block + W_READY] = 0
        cells[block + W_PID] = 0
        for backend in range(backends):
            cells[self.backend_at(slot, backend) + B_LIVE] = 0
        for route in range(routes):
            at = self.totals_at(slot, route)
            for side in (at, at + TOTAL_CELLS):
                cells[side + T_INTERVAL_NS] = cells[side + T_CUTOFF_NS] = 0
        self.forget_requests(slot, routes, backends)
        self._free_memory(first, ROW_CELLS)
        self._free_memory(self.session_at(first, 0), SESSIONS_CELLS)
        self._free_memory(self.long_texts_at(first), LONG_TEXTS_CELLS)

    def _free_memory(self, first: int, size: int) -> None:
        """Free the pages of a slot's blocks, which are empty. :param first: cell. :param size: cells of a block"""
        start = -(-first * CELL_BYTES // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (first + self.rows_per_worker * size) * CELL_BYTES // mmap.PAGESIZE * mmap.PAGESIZE
        if start < end:
            self._map.madvise(mmap.MADV_REMOVE, start, end - start)

    def forget_requests(self, slot: int, routes: int, backends: int) -> None:
        """Reset what a worker that has exited had in flight: plain requests, and idle connections to backends.

        :param routes: how many routes have numbers; ``backends`` likewise
        """
        cells = self.cells
        for backend in range(backends):
            at = self.backend_at(slot, backend)
            cells[at + B_REQUESTS] = cells[at + B_IDLE] = 0
        for route in range(routes):
            cells[self.totals_at(slot, route) + T_REQUESTS] = 0

    # --- numbers of backends ------------------------------------------------------------------------------------------

    def backends_in_use(self) -> set[int]:
        """Numbers of backends that a row of any slot or a worker's counters refer to."""
        cells = self.cells
        found: set[int] = set()
        for slot in range(self.slots):
            first = self.first_row(slot)
            end = first + cells[self.worker(slot) + W_HIGH_ROWS] * ROW_CELLS
            states, backends = cells[first + STATE : end : ROW_CELLS], cells[first + BACKEND : end : ROW_CELLS]
            if first < end:
                found.update(n for state, n in zip(states.tolist(), backends.tolist(), strict=True) if state != FREE)
        for block in self._backend_blocks:
            # Read through the descriptor: reading a page through the mapping allocates it.
            read = memoryview(os.pread(self.fd, _BACKENDS_CELLS * CELL_BYTES, block * CELL_BYTES)).cast("q")
            for cell in (B_LIVE, B_REQUESTS, B_IDLE):
                found.update(n for n, value in enumerate(read[cell::BACKEND_CELLS].tolist()) if value)
        return found

    def forget_backend(self, backend: int) -> None:
        """Zero everything about a backend whose number is given to another one. No worker knows it any more."""
        empty = memoryview(bytes(BACKEND_CELLS * CELL_BYTES)).cast("q")
        for slot in range(self.slots):
            at = self.backend_at(slot, backend)
            self.cells[at : at + BACKEND_CELLS] = empty

    # --- sessions -----------------------------------------------------------------------------------------------------

    def session_at(self, row: int, side: int) -> int:
        """The first cell of the session of a row's side. :param row: its first cell"""
        return self._sessions_at + (row - self._rows_at) // ROW_CELLS * SESSIONS_CELLS + side * SESSION_CELLS

    def sessions(self, row: int) -> Sequence[int] | None:
        """A copy of the sessions of a row: ``SESSION_CELLS`` for each side; None if both sides are plain."""
        if not self.has_sessions(row):
            return None
        at = self.session_at(row, 0)
        return array("q", self.cells[at : at + SESSIONS_CELLS])

    def has_sessions(self, row: int) -> bool:
        """Whether a side of a row uses TLS."""
        return self.cells[row + SIDE_0 + TLS] != 0 or self.cells[row + SIDE_0 + SIDE_CELLS + TLS] != 0

    def write_sessions(self, row: int, sessions: Sequence[int]) -> None:
        """Write both sessions of a row. Its ``TLS`` cells are set already, so that they are wiped with the row."""
        at = self.session_at(row, 0)
        self.cells[at : at + SESSIONS_CELLS] = array("q", sessions)

    def wipe_sessions(self, row: int) -> None:
        """Zero the keys of a row that has any. The pages of sessions that were never used are not touched."""
        if self.has_sessions(row):
            at = self.session_at(row, 0)
            self.cells[at : at + SESSIONS_CELLS] = _NO_SESSIONS

    # --- texts --------------------------------------------------------------------------------------------------------

    def long_texts_at(self, row: int) -> int:
        """The first cell of the long texts of a row. :param row: its first cell"""
        return self._long_texts_at + (row - self._rows_at) // ROW_CELLS * LONG_TEXTS_CELLS

    def write_texts(self, row: int, packed: bytes) -> None:
        """Write the texts of a row that nobody reads yet, and that has none. :param packed: as :func:`texts.packed`"""
        at = (row + TEXT_CELL) * CELL_BYTES
        if len(packed) > TEXT_BYTES:
            there, packed = packed[TEXT_BYTES:], packed[:TEXT_BYTES]
            self.cells[row + LONG_TEXTS] = len(there)  # first, so that they are wiped with the row
            self.write_long_texts(row, there)
        self.bytes[at : at + len(packed)] = packed

    def write_long_texts(self, row: int, texts: bytes) -> None:
        """Write the long texts of a row whose ``LONG_TEXTS`` is set already."""
        at = self.long_texts_at(row) * CELL_BYTES
        self.bytes[at : at + len(texts)] = texts

    def wipe_long_texts(self, row: int) -> None:
        """Zero the long texts of a free row, if it has any; otherwise the pages of long texts are not touched."""
        if self.cells[row + LONG_TEXTS]:
            self.write_long_texts(row, _NO_LONG_TEXTS)

    def _long_texts(self, row: int, size: int) -> bytes:
        """:param size: what ``LONG_TEXTS`` says, which is anything in a corrupt row"""
        if size <= 0:
            return b""
        at = self.long_texts_at(row) * CELL_BYTES
        return bytes(self.bytes[at : at + min(size, LONG_TEXTS_BYTES)])

    # --- copies -------------------------------------------------------------------------------------------------------

    def texts(self, row: int) -> dict[str, str]:
        """The texts of a row, by the names in ``layout.TEXTS``."""
        return dict(zip(NAMES, texts_of(self.snapshot(row)[1]), strict=True))

    def snapshot(self, row: int) -> tuple[memoryview[int], bytes]:
        """As :meth:`copy_of` without the sessions, for callers that read only a few cells."""
        at = row * CELL_BYTES
        data = self.bytes[at : at + _ROW_BYTES].tobytes()
        cells = memoryview(data).cast("q")
        texts = data[_TEXTS_AT:]
        size = cells[LONG_TEXTS]
        return cells, texts + self._long_texts(row, size) if size else texts

    def copy_of(self, row: int) -> tuple[list[int], bytes, Sequence[int] | None]:
        """A row's cells, separately its packed texts, for :func:`texts.texts_of`, and its :meth:`sessions`."""
        cells, texts = self.snapshot(row)
        return cells[:TEXT_CELL].tolist(), texts, self.sessions(row)
