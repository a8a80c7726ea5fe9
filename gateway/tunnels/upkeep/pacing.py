"""Closing many tunnels spread over time: when each one's turn is.

Clients that are all closed at once all reconnect at once. Each row holds its turn (``PACED_NS``); the sweep
(``sweep.py``) closes it then, and runs more often until the last turn has come.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from gateway.tunnels.table.layout import BACKEND, CLOSING_NS, DEADLINE_NS, ID, KIND, OPAQUE, PACED_CODE, PACED_NS
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.table.table import Table

NS = 1_000_000_000
TURN_SECONDS = 0.05
"""Between two sweeps while turns are pending."""

GOLDEN_RATIO = 0x9E3779B1
"""Times 2^32, to a whole number."""

LOSSES_AT_ONCE = 20
"""Clients closed at once when their backend vanishes, and in each second after that, over all workers."""

LOSS_SPREAD_NS = 5 * NS
"""The longest time over which the clients of a lost backend are closed, however many they are."""


def plan_drain(slice_: Slice, now: int, period_ns: int, code: int, backends: Collection[int] | None = None) -> int:
    """Schedule the close of each tunnel of a slice, evenly spread over a period; return the clock of the last.

    All workers do this at the same time, each for its own slice. Their turns are interleaved, so that the closes are
    evenly spread over all workers together.

    :param now: ``CLOCK_MONOTONIC`` in nanoseconds; the first turn is now
    :param period_ns: over which the closes are spread
    :param code: close code for both sides
    :param backends: numbers of the backends whose tunnels are closed; all if absent
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
    """Cancel the turns of tunnels to backends that are in service again."""
    if backends:
        cells = slice_.cells
        for row in _meant(slice_.table, slice_.slot, backends):
            if _takes_turns(cells, row):
                cells[row + PACED_NS] = 0


class Drains:
    """Drains that have begun, for tunnels that open only then: their handshakes were at the backends already."""

    def __init__(self) -> None:
        self._until: dict[int, tuple[int, int]] = {}
        """when the last turn of a backend's tunnels is, and the close code"""
        self._all: tuple[int, int] | None = None

    def __bool__(self) -> bool:
        return bool(self._until) or self._all is not None

    def begin(self, until_ns: int, code: int, backends: Collection[int] | None = None) -> None:
        """A drain has begun. :param until_ns: the clock of its end. Others as of :func:`plan_drain`"""
        if backends is None:
            self._all = (until_ns, code)
        else:
            self._until.update(dict.fromkeys(backends, (until_ns, code)))

    def cancel(self, backends: Collection[int]) -> None:
        """Backends are in service again."""
        for backend in backends:
            self._until.pop(backend, None)

    def give_turn(self, cells: memoryview[int], row: int, now: int) -> int:
        """Schedule the close of a tunnel that has just opened within what is left of the drain it belongs to.

        :returns: the clock then; 0 if it belongs to none, or is ending already
        """
        drain = self._all or self._until.get(cells[row + BACKEND])
        if drain is None or cells[row + PACED_NS] or not _takes_turns(cells, row):
            return 0
        until_ns, code = drain
        # Multiples of the golden ratio: any number of ids in a row are spread evenly.
        turn = now + max(until_ns - now, 0) * (cells[row + ID] * GOLDEN_RATIO % 2**32) // 2**32
        cells[row + PACED_CODE] = code
        cells[row + PACED_NS] = turn
        cells[row + DEADLINE_NS] = min(cells[row + DEADLINE_NS], turn)
        return turn


def give_turns(slice_: Slice, turns: Mapping[int, int], code: int) -> int:
    """Schedule the close of some WebSocket tunnels; return the clock of the last. Those that are ending, or have their
    turn already, are left alone.

    :param turns: ids of tunnels, and the clock at which each is closed
    :param code: close code for both sides
    """
    cells = slice_.cells
    last = 0
    for row in slice_.table.rows(slice_.slot):
        when = turns.get(cells[row + ID])
        if when is None or cells[row + CLOSING_NS] or cells[row + PACED_NS] or cells[row + KIND] == OPAQUE:
            continue
        cells[row + PACED_CODE] = code
        cells[row + PACED_NS] = when
        cells[row + DEADLINE_NS] = min(cells[row + DEADLINE_NS], when)
        last = max(last, when)
    return last


def _takes_turns(cells: memoryview[int], row: int) -> bool:
    """Whether a drain must close a tunnel: one that is ending is left alone, unless it is half-closed and opaque."""
    return not cells[row + CLOSING_NS] or cells[row + KIND] == OPAQUE


def _meant(table: Table, slot: int, backends: Collection[int] | None) -> Iterator[int]:
    cells = table.cells
    return (row for row in table.rows(slot) if backends is None or cells[row + BACKEND] in backends)


@dataclass(slots=True)
class _Burst:
    """Losses of tunnels to one backend in quick succession."""

    step_ns: int
    """between two turns"""
    last_ns: int
    """turn of the latest"""
    count: int = 0


class Losses:
    """When clients of a lost backend get their Close frames."""

    def __init__(self, workers: int) -> None:
        """:param workers: each of which sees its share of a backend's tunnels"""
        self._at_once = -(-LOSSES_AT_ONCE // workers)
        self._bursts: dict[int, _Burst] = {}

    def turn_ns(self, backend: int, tunnels: int, now: int) -> int:
        """The clock at which the client of a tunnel that just lost its backend gets its Close frame.

        :param backend: its number
        :param tunnels: this worker's tunnels to it, lost ones included: an upper bound of the losses to come
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
