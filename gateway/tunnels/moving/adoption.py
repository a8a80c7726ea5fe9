"""What a worker does with the tunnels that another one left in its slice: those that can be carried on are, others end.

A tunnel can be carried on if its row is clean (``DIRTY`` is 0; ``relay.py`` says what that means) and both of its
connections were kept by the supervisor. Everything else about it is in the row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from gateway.tunnels.relay.relay import Relay
from gateway.tunnels.table.layout import (
    CAUSE,
    DIRTY,
    FD,
    GATEWAY,
    ID,
    INITIATOR,
    LIVE,
    RELEASED,
    RESERVED,
    SIDE_0,
    SIDE_CELLS,
    STATE,
    W_ADOPTED,
    WORKER_LOST,
)
from gateway.tunnels.table.table import Slice

Connections = tuple[int, int]
"""Descriptors of a tunnel's two connections: the client's and the backend's."""


class Adoption(NamedTuple):
    """How many tunnels a worker found in its slice, by what became of them."""

    adopted: int = 0
    dirty: int = 0
    """lost: the worker before had bytes of them in its hands"""
    unkept: int = 0
    """lost: their connections were not kept, or cannot be used"""


def adopt(
    slice_: Slice,
    relay: Relay,
    kept: dict[int, Connections],
    end: Callable[[int], None],
    forget: Callable[[int], None],
) -> Adoption:
    """Carry on the tunnels of a slice whose worker is no more. Its handshakes are gone, and their rows are given back.

    A worker that dies in here leaves its successor the same task, less the tunnel that it died of.

    :param kept: connections by the tunnel's id; they are this worker's from now on
    :param end: called with the row of a tunnel that is lost, as the relay calls its own; it releases the row
    :param forget: called with each id in ``kept`` that no tunnel has any more
    """
    cells = slice_.cells
    found: Counter[str] = Counter()
    for row in slice_.rows():
        try:
            if cells[row + STATE] == RESERVED:
                slice_.release(row)
            if cells[row + STATE] == RELEASED:
                cells[row + STATE] = LIVE  # nobody has taken it, or it would not be here any more
            if cells[row + STATE] == LIVE:
                found[_adopt(row, relay, cells, kept, end)] += 1
        except Exception as error:  # one tunnel's trouble must not cost all others their lives
            found["unkept"] += 1
            relay.fail(row, "adoption", error)
    for tunnel, connections in kept.items():
        # It ended, and its worker died before it could say so.
        _hang_up(relay, connections)
        forget(tunnel)
    cells[slice_.block + W_ADOPTED] += found["adopted"]
    return Adoption(**found)


def _adopt(
    row: int, relay: Relay, cells: memoryview[int], kept: dict[int, Connections], end: Callable[[int], None]
) -> str:
    """Carry on one tunnel, or end it. :returns: what it counts as, a field of :class:`Adoption`"""
    connections = kept.pop(cells[row + ID], None)
    if connections is not None and not cells[row + DIRTY]:
        return "adopted" if carry_on(row, relay, cells, connections) else "unkept"
    _forget_descriptors(cells, row)
    if connections is not None:
        _hang_up(relay, connections)
    _lose(cells, row)
    end(row)
    return "unkept" if connections is None else "dirty"


def carry_on(
    row: int, relay: Relay, cells: memoryview[int], connections: Connections, pending: tuple[bytes, bytes] = (b"", b"")
) -> bool:
    """Carry on a tunnel whose row is whole. :returns: False where that cannot be done: the tunnel has ended then

    :param connections: they are the relay's from now on
    :param pending: bytes that the worker before had in hand for the client and for the backend
    """
    _forget_descriptors(cells, row)
    try:
        relay.adopt(row, *connections, *pending)
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
    """Those in the row are numbers of another process: here they are other connections."""
    for side in range(2):
        cells[row + SIDE_0 + side * SIDE_CELLS + FD] = -1


def _lose(cells: memoryview[int], row: int) -> None:
    cells[row + INITIATOR] = GATEWAY
    cells[row + CAUSE] = WORKER_LOST


def _hang_up(relay: Relay, connections: Connections) -> None:
    for fd in connections:
        relay.hang_up(fd)
