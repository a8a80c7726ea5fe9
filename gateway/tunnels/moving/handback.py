"""Handing back: after the supervisor died, its workers leave their tunnels for the workers of the next supervisor.

Pending bytes get a moment to be sent, since a tunnel can be resumed only if no process has data of it in flight.
Nothing is read meanwhile, and no connection is shut down.
"""

from __future__ import annotations

import select
import time

from gateway.tunnels.relay.relay import Relay
from gateway.tunnels.table.layout import FD, LIVE, PENDING, SIDE_0, SIDE_CELLS, STATE
from gateway.tunnels.table.table import Slice


def hand_back(slice_: Slice, relay: Relay, seconds: float) -> int:
    """Stop serving the tunnels of a slice, and flush what is pending. Blocks; the process must exit afterwards.

    Released tunnels (``handover.py``) are left alone: another worker may serve them.

    :param seconds: how long pending bytes may take to be sent
    :returns: tunnels that still have bytes pending, and will be lost
    """
    cells = slice_.cells
    poll = select.poll()
    stalled: dict[int, tuple[int, int]] = {}
    for row in list(slice_.table.rows(slice_.slot)):
        pending = [side for side in range(2) if cells[row + SIDE_0 + side * SIDE_CELLS + PENDING]]
        try:
            relay.release(row)
        except Exception as error:  # this one is lost, the others are not
            relay.fail(row, "handing back", error)
            continue
        cells[row + STATE] = LIVE
        for side in pending:
            fd = cells[row + SIDE_0 + side * SIDE_CELLS + FD]
            stalled[fd] = (row, side)
            poll.register(fd, select.POLLOUT)
    give_up = time.monotonic() + seconds
    while stalled and (left := give_up - time.monotonic()) > 0:
        for fd, _ in poll.poll(left * 1000):
            if fd not in stalled:
                continue  # its tunnel ended because of the other side
            row, side = stalled[fd]
            try:
                relay.flush(row, side)
            except Exception as error:
                relay.fail(row, "handing back", error)
            for other in [each for each, place in stalled.items() if place[0] == row]:
                at = row + SIDE_0 + stalled[other][1] * SIDE_CELLS
                if cells[row + STATE] != LIVE or not cells[at + PENDING]:
                    del stalled[other]
                    poll.unregister(other)
    return len({row for row, _ in stalled.values()})
