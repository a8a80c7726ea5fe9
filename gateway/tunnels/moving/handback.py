"""A worker leaves its tunnels as they are, for another process to carry on: the supervisor is gone, and will be back.

What is pending gets a moment to go out, as a tunnel can be carried on only if no process has a byte of it in hand.
Nothing is read meanwhile, and no connection is shut down.
"""

from __future__ import annotations

import select
import time

from gateway.tunnels.relay.relay import Relay
from gateway.tunnels.table.layout import FD, LIVE, PENDING, SIDE_0, SIDE_CELLS, STATE
from gateway.tunnels.table.table import Slice


def hand_back(slice_: Slice, relay: Relay, seconds: float) -> int:
    """Serve the tunnels of a slice no more. It waits, and the process is to exit behind it: nothing may be served then.

    Tunnels that were released (``handover.py``) are left alone: another worker may serve them.

    :param seconds: for what is pending to go out
    :returns: tunnels of which something is pending still
    """
    cells = slice_.cells
    poll = select.poll()
    stalled: dict[int, tuple[int, int]] = {}
    for row in list(slice_.table.rows(slice_.slot)):
        pending = [side for side in range(2) if cells[row + SIDE_0 + side * SIDE_CELLS + PENDING]]
        try:
            relay.release(row)
        except Exception as error:  # no other process can carry it on, and all others they can
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
                continue  # its tunnel has ended with the other side
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
