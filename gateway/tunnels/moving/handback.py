"""Handing back: after the supervisor died, its workers leave their tunnels for the workers of the next supervisor.

Pending bytes get a moment to be sent, and TLS records that have come by half to be completed, since a tunnel can be
resumed only if no process has data of it in flight. Nothing else is read meanwhile, and no connection is shut down.
"""

from __future__ import annotations

import select
import time

from gateway.protocol.tls.state import HALF
from gateway.tunnels.relay.relay import Relay
from gateway.tunnels.table.layout import FD, LIVE, PENDING, SIDE_0, SIDE_CELLS, STATE, TLS
from gateway.tunnels.table.slice import Slice


def hand_back(slice_: Slice, relay: Relay, seconds: float) -> int:
    """Stop serving the tunnels of a slice, and complete what is in flight. Blocks; the process must exit afterwards.

    Released tunnels (``handover.py``) are left alone: another worker may serve them.

    :param seconds: how long that may take
    :returns: tunnels that still have data in flight here, and will be lost
    """
    cells = slice_.cells
    poll = select.poll()
    waiting: dict[int, tuple[int, int]] = {}
    for row in list(slice_.table.rows(slice_.slot)):
        try:
            relay.release(row)
        except Exception as error:  # this one is lost, the others are not
            relay.fail(row, "handing back", error)
            continue
        cells[row + STATE] = LIVE
        for side in range(2):
            fd = cells[row + SIDE_0 + side * SIDE_CELLS + FD]
            if events := _wanted(cells, row, side):
                waiting[fd] = (row, side)
                poll.register(fd, events)
    give_up = time.monotonic() + seconds
    while waiting and (left := give_up - time.monotonic()) > 0:
        for fd, _ in poll.poll(left * 1000):
            if fd not in waiting:
                continue  # its tunnel ended because of the other side
            row, side = waiting[fd]
            try:
                if _is_pending(cells, row, side):
                    relay.flush(row, side)
                elif _wanted(cells, row, side):
                    relay.complete_record(row, side)
            except Exception as error:
                relay.fail(row, "handing back", error)
            for other in range(2):  # what came from one side may now be pending for the other
                _wait_for(poll, waiting, cells, row, other)
            for each in [each for each, place in waiting.items() if place[0] == row and cells[row + STATE] != LIVE]:
                del waiting[each]
                poll.unregister(each)
    return len({row for row, _ in waiting.values()})


def _is_pending(cells: memoryview[int], row: int, side: int) -> bool:
    return cells[row + SIDE_0 + side * SIDE_CELLS + PENDING] != 0


def _wanted(cells: memoryview[int], row: int, side: int) -> int:
    """What to wait for on a side: that its socket takes bytes, or that the rest of a record comes; 0 for nothing."""
    if cells[row + STATE] != LIVE:
        return 0
    if _is_pending(cells, row, side):
        return select.POLLOUT
    session = cells[row + SIDE_0 + side * SIDE_CELLS + TLS]
    return select.POLLIN if session and cells[session + HALF] and not _is_pending(cells, row, 1 - side) else 0


def _wait_for(
    poll: select.poll, waiting: dict[int, tuple[int, int]], cells: memoryview[int], row: int, side: int
) -> None:
    """Have ``poll`` wait for what is wanted of a side now."""
    fd = cells[row + SIDE_0 + side * SIDE_CELLS + FD]
    events = _wanted(cells, row, side)
    if events:
        waiting[fd] = (row, side)
        poll.register(fd, events)
    elif waiting.pop(fd, None) is not None:
        poll.unregister(fd)
