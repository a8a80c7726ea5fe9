"""Closing many tunnels without closing them all at once: whose turn is when.

Clients that were all closed at once would all come back at once. A row says when its turn is (``PACED_NS``), the sweep
sees to it (``sweep.py``), and comes round more often until the last of them has had its turn.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from gateway.tunnels.table.layout import BACKEND, CLOSING_NS, DEADLINE_NS, KIND, OPAQUE, PACED_CODE, PACED_NS
from gateway.tunnels.table.table import Slice, Table

NS = 1_000_000_000
TURN_SECONDS = 0.05
"""Between two sweeps while somebody's turn is near."""

LOSSES_AT_ONCE = 20
"""Clients of one backend that are told at once when it vanishes, and in any second after that, over all workers."""

LOSS_SPREAD_NS = 5 * NS
"""Over which all clients of a backend are told, where they are more."""


def plan_drain(slice_: Slice, now: int, period_ns: int, code: int, backends: Collection[int] | None = None) -> int:
    """Give each tunnel of a slice its turn to be closed, evenly spread over a period; return the clock of the last.

    All workers do this at the same time, each for its own. Their turns are shifted against each other, so that together
    they are spread evenly, too.

    :param now: ``CLOCK_MONOTONIC`` in nanoseconds; the first turn is at once
    :param code: close code for both sides
    :param backends: numbers of those whose tunnels are meant; all tunnels if absent
    """
    cells = slice_.cells
    rows = [row for row in _meant(slice_.table, slice_.slot, backends) if _takes_turns(cells, row)]
    if not rows:
        return now
    sharers = [slot for slot in range(slice_.table.slots) if any(_meant(slice_.table, slot, backends))]
    turns = len(rows) * len(sharers)
    turn = sharers.index(slice_.slot)
    for row in rows:
        when = now + turn * period_ns // turns
        cells[row + PACED_CODE] = code
        cells[row + PACED_NS] = when
        cells[row + DEADLINE_NS] = min(cells[row + DEADLINE_NS], when)
        turn += len(sharers)
    return when


def cancel_drain(slice_: Slice, backends: Collection[int]) -> None:
    """Give up the turns of tunnels to backends that are in service again."""
    if backends:
        cells = slice_.cells
        for row in _meant(slice_.table, slice_.slot, backends):
            if _takes_turns(cells, row):
                cells[row + PACED_NS] = 0


def _takes_turns(cells: memoryview[int], row: int) -> bool:
    """Whether a drain has to close a tunnel: one that is ending is left alone, unless it is half-closed and opaque."""
    return not cells[row + CLOSING_NS] or cells[row + KIND] == OPAQUE


def _meant(table: Table, slot: int, backends: Collection[int] | None) -> Iterator[int]:
    cells = table.cells
    return (row for row in table.rows(slot) if backends is None or cells[row + BACKEND] in backends)


@dataclass(slots=True)
class _Burst:
    """Losses of one backend that follow each other closely."""

    step_ns: int
    """between two turns"""
    last_ns: int
    """turn of the latest"""
    count: int = 0


class Losses:
    """When a client is told that its backend has vanished, where others of that backend's are, too."""

    def __init__(self, workers: int) -> None:
        """:param workers: each of which sees its share of a backend's tunnels"""
        self._at_once = -(-LOSSES_AT_ONCE // workers)
        self._bursts: dict[int, _Burst] = {}

    def turn_ns(self, backend: int, tunnels: int, now: int) -> int:
        """The clock at which the client of a tunnel that has just lost its backend is told.

        :param backend: its number
        :param tunnels: that this worker holds to it, lost ones included: as many losses may still come
        :param now: ``CLOCK_MONOTONIC`` in nanoseconds
        """
        burst = self._bursts.get(backend)
        if burst is None or now > burst.last_ns + NS:
            burst = self._bursts[backend] = _Burst(NS // self._at_once, now)
        burst.count += 1
        burst.step_ns = min(burst.step_ns, LOSS_SPREAD_NS // max(tunnels, 1))
        if burst.count <= self._at_once:
            burst.last_ns = now
        else:
            burst.last_ns = min(max(burst.last_ns + burst.step_ns, now), now + LOSS_SPREAD_NS)
        return burst.last_ns
