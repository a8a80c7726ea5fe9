"""The layout of the quotas: one ``memfd`` of fixed size, mapped by the supervisor and by all workers::

    header | recently limited clients per slot | kinds | prefixes | buckets | tunnel counts per slot

An *entry* is one client of one route (``clients.py``). It has a cell in each of three columns (kind, prefix, bucket),
and one count for each slot: the tunnels of this client that the worker in this slot has. A worker writes only its own
column of counts, so a count is never wrong because two workers changed it at once, and the successor of a dead worker
corrects it alone. All counts of an entry together are the client's tunnels.

Entries are in sets of ``SET_ENTRIES``. A keyed hash decides which set a client belongs to, and its entry is anywhere in
that set, so finding it takes one look at a few cache lines, however many clients there are.
"""

from __future__ import annotations

from typing import NamedTuple

VERSION = 1
"""Of this layout. A process makes new quotas rather than use those of another version."""

MAGIC = 0x7361746F7571  # "quotas"

CELL_BYTES = 8
COUNT_BYTES = 4
HEADER_CELLS = 512
(
    H_MAGIC,
    H_VERSION,
    H_SLOTS,
    H_ENTRIES,
    H_SECRET,  # two cells
) = range(5)
SECRET_BYTES = 16

SET_ENTRIES = 64
"""With a table full of tunnels, each of another client, half the entries are in use, and 1 of 2 million sets of this
size would be full; of sets half as large, 1 of 3600."""

LEAST_ENTRIES = 1 << 17
"""Enough to remember the handshakes of 100,000 addresses, however small ``max_tunnels`` is."""

RECENT = 16
"""Recently limited clients that each worker remembers."""
(
    R_AT_UNIX_NS,  # of the latest time; 0 for an unused record, and while the record is written
    R_KIND,
    R_PREFIX,
    R_LIMIT,  # index into LIMITS
    R_TIMES,
) = range(5)
RECENT_CELLS = 5

LIMITS = ("handshakes_per_second", "tunnels_per_client")
"""As configured, and as labels of ``gateway_limited_total``."""
HANDSHAKES, TUNNELS = range(len(LIMITS))


class Places(NamedTuple):
    """Where the parts are: in cells of eight bytes, but for ``counts``, which is in counts of four."""

    slots: int
    entries: int
    recent: int
    kinds: int
    prefixes: int
    buckets: int
    counts: int
    size_bytes: int

    @classmethod
    def of(cls, slots: int, entries: int) -> Places:
        """:param entries: a power of two, ``SET_ENTRIES`` at least"""
        kinds = HEADER_CELLS + -(-slots * RECENT * RECENT_CELLS // HEADER_CELLS) * HEADER_CELLS
        counts = (kinds + 3 * entries) * CELL_BYTES // COUNT_BYTES
        return cls(
            slots,
            entries,
            HEADER_CELLS,
            kinds,
            kinds + entries,
            kinds + 2 * entries,
            counts,
            (counts + slots * entries) * COUNT_BYTES,
        )


def entries_for(max_tunnels: int) -> int:
    """How many entries quotas have for a table: at least twice as many as it holds tunnels."""
    return max(LEAST_ENTRIES, 1 << (2 * max_tunnels - 1).bit_length())
