"""The clients that were limited most recently, for the status page: each worker remembers some."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from gateway.tunnels.quotas.clients import Client
from gateway.tunnels.quotas.layout import (
    R_AT_UNIX_NS,
    R_KIND,
    R_LIMIT,
    R_PREFIX,
    R_TIMES,
    RECENT,
    RECENT_CELLS,
    Places,
)


class Limited(NamedTuple):
    """A client that was limited."""

    client: Client
    limit: int
    """index into ``LIMITS``"""
    times: int
    """how often, since it was first remembered"""
    at_unix_ns: int
    """the latest time"""


def note(
    cells: memoryview[int], places: Places, slot: int, client: Client, limit: int, at_unix_ns: int, times: int = 1
) -> None:
    """Remember that the worker in a slot has limited a client, instead of what it remembers of longest ago."""
    records = list(_records(cells, places, slot))
    same = [each for each in records if each[1][R_KIND : R_LIMIT + 1] == [*client, limit] and each[1][R_AT_UNIX_NS]]
    if same:
        times += same[0][1][R_TIMES]
    at, _ = same[0] if same else min(records, key=lambda each: each[1][R_AT_UNIX_NS])
    cells[at + R_AT_UNIX_NS] = 0
    cells[at + R_KIND] = client.kind
    cells[at + R_PREFIX] = client.prefix
    cells[at + R_LIMIT] = limit
    cells[at + R_TIMES] = times
    cells[at + R_AT_UNIX_NS] = at_unix_ns


def remembered(cells: memoryview[int], places: Places) -> list[Limited]:
    """What all workers remember, the latest first."""
    found: dict[tuple[Client, int], Limited] = {}
    for slot in range(places.slots):
        for at, record in _records(cells, places, slot):
            at_unix_ns, kind, prefix, limit, times = record
            if not at_unix_ns or cells[at + R_AT_UNIX_NS] != at_unix_ns:
                continue  # unused, or written just now
            key = Client(kind, prefix), limit
            if key in found:
                times += found[key].times
                at_unix_ns = max(at_unix_ns, found[key].at_unix_ns)
            found[key] = Limited(*key, times, at_unix_ns)
    return sorted(found.values(), key=lambda each: -each.at_unix_ns)


def _records(cells: memoryview[int], places: Places, slot: int) -> Iterable[tuple[int, list[int]]]:
    first = places.recent + slot * RECENT * RECENT_CELLS
    for at in range(first, first + RECENT * RECENT_CELLS, RECENT_CELLS):
        yield at, cells[at : at + RECENT_CELLS].tolist()
