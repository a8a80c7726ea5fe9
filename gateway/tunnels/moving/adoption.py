"""Adoption: a new worker resumes the tunnels that a dead one left in its slice, and ends those it cannot resume.

A tunnel can be resumed if its row is clean (``DIRTY`` is 0; see ``relay.py``) and the supervisor has saved both of its
connections. Everything else about it is in the row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from gateway.tunnels.relay.relay import Relay
from gateway.tunnels.table.layout import (
    CAUSE,
    COUNTED,
    DIRTY,
    FD,
    GATEWAY,
    ID,
    INITIATOR,
    LIVE,
    RELEASED,
    RESERVED,
    ROW_CELLS,
    SIDE_0,
    SIDE_CELLS,
    STATE,
    W_ADOPTED,
    W_HIGH_ROWS,
    WORKER_LOST,
)
from gateway.tunnels.table.slice import Slice

Connections = tuple[int, int]
"""Descriptors of a tunnel's two connections: the client's and the backend's."""


class Adoption(NamedTuple):
    """How many tunnels a worker found in its slice, by outcome."""

    adopted: int = 0
    dirty: int = 0
    """lost: the dead worker had data of theirs in flight"""
    unkept: int = 0
    """lost: their connections were not saved, or cannot be used"""


def adopt(
    slice_: Slice,
    relay: Relay,
    kept: dict[int, Connections],
    end: Callable[[int], None],
    forget: Callable[[int], None],
) -> Adoption:
    """Resume the tunnels of a slice whose worker has died. Its handshakes are lost, and their rows are freed.

    A worker that crashes in here leaves its successor the same task, without the tunnel that crashed it. A tunnel that
    this slice released in an upgrade is resumed if its connections were given back; otherwise the other worker has it,
    and counts its end.

    :param kept: saved connections by tunnel id; this worker owns them from now on
    :param end: called with the row of each lost tunnel, like the relay's ``on_end``; it frees the row
    :param forget: called with each id in ``kept`` that has no row any more
    """
    cells = slice_.cells
    found: Counter[str] = Counter()
    elsewhere = _tunnels_of_other_slot(slice_)
    for row in slice_.rows():
        try:
            state, tunnel = cells[row + STATE], cells[row + ID]
            if state == RELEASED and (tunnel in kept or tunnel not in elsewhere):
                cells[row + STATE] = LIVE  # nobody has taken it
            elif state in (RESERVED, RELEASED, COUNTED):
                slice_.release(row)
            if cells[row + STATE] == LIVE:
                found[_adopt(row, relay, cells, kept, end)] += 1
        except Exception as error:  # one tunnel must not cost the others theirs
            found["unkept"] += 1
            relay.fail(row, "adoption", error)
    for tunnel, connections in kept.items():
        # It ended, and its worker died before reporting that.
        _hang_up(relay, connections)
        forget(tunnel)
    cells[slice_.block + W_ADOPTED] += found["adopted"]
    return Adoption(**found)


def _tunnels_of_other_slot(slice_: Slice) -> set[int]:
    """Ids of tunnels that the worker which replaces this one, or is replaced by it, serves or has counted as ended."""
    table, cells = slice_.table, slice_.cells
    first = table.first_row(other := table.other_slot(slice_.slot))
    rows = range(first, first + cells[table.worker(other) + W_HIGH_ROWS] * ROW_CELLS, ROW_CELLS)
    return {cells[row + ID] for row in rows if cells[row + STATE] in (LIVE, COUNTED)}


def _adopt(
    row: int, relay: Relay, cells: memoryview[int], kept: dict[int, Connections], end: Callable[[int], None]
) -> str:
    """Resume one tunnel, or end it. :returns: the outcome, a field of :class:`Adoption`"""
    connections = kept.pop(cells[row + ID], None)
    if connections is not None and not cells[row + DIRTY]:
        return "adopted" if resume(row, relay, cells, connections) else "unkept"
    _forget_descriptors(cells, row)
    if connections is not None:
        _hang_up(relay, connections)
    _lose(cells, row)
    end(row)
    return "unkept" if connections is None else "dirty"


def resume(
    row: int, relay: Relay, cells: memoryview[int], connections: Connections, held: tuple[bytes, ...] = ()
) -> bool:
    """Resume a tunnel from its row. :returns: False if that failed, and the tunnel has ended

    :param connections: the relay owns them from now on
    :param held: what the previous worker still had, as ``Relay.release`` returned it
    """
    _forget_descriptors(cells, row)
    try:
        relay.adopt(row, *connections, *held)
        return True
    except Exception as error:
        for side, fd in enumerate(connections):
            if cells[row + SIDE_0 + side * SIDE_CELLS + FD] != fd:
                relay.hang_up(fd)
        failure = error
    try:
        if isinstance(failure, OSError):  # epoll does not take a connection
            _lose(cells, row)
            relay.finish(row)
            return False
    except Exception as error:
        failure = error
    relay.fail(row, "adoption", failure)
    return False


def _forget_descriptors(cells: memoryview[int], row: int) -> None:
    """Clear descriptors of another process from a row: here the same numbers are other connections."""
    for side in range(2):
        cells[row + SIDE_0 + side * SIDE_CELLS + FD] = -1


def _lose(cells: memoryview[int], row: int) -> None:
    cells[row + INITIATOR] = GATEWAY
    cells[row + CAUSE] = WORKER_LOST


def _hang_up(relay: Relay, connections: Connections) -> None:
    for fd in connections:
        relay.hang_up(fd)
