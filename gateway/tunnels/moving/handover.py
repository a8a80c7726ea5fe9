"""Tunnels move from one living worker to another, as an upgrade asks for it, and neither side of them notices.

The worker that has them stops serving some (:meth:`Handover.release`), and tells which and what it holds of them
(``parcel.py``). The other takes them in (:func:`take_over`): it copies their rows into its own slice and has epoll
watch their connections, which the supervisor has sent it. Then the first forgets them. Until then it can serve them
again, as if nothing had been (:meth:`Handover.resume`): so there is always one worker that serves a tunnel or can go on
with it, and never two.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from itertools import islice

from gateway.tunnels.moving import parcel
from gateway.tunnels.moving.adoption import Connections
from gateway.tunnels.relay.relay import Relay
from gateway.tunnels.table.layout import CAUSE, GATEWAY, ID, INITIATOR, LIVE, STATE, W_ADOPTED, WORKER_LOST
from gateway.tunnels.table.table import Slice

ReadRow = Callable[[int], tuple[list[int], bytes]]
"""What ``Table.copy_of`` does: a row's cells and, apart, its texts."""


class Handover:
    """The part of the worker that has the tunnels."""

    def __init__(self, slice_: Slice, relay: Relay) -> None:
        self._slice = slice_
        self._relay = relay
        self._released: dict[int, int] = {}  # rows by the tunnel's id
        self._left: set[int] = set()

    @property
    def under_way(self) -> bool:
        """Whether it is open who serves some tunnels."""
        return bool(self._released)

    def release(self, most: int) -> int:
        """Stop serving up to ``most`` tunnels: of those that nobody could take before, none.

        :returns: the descriptor of a parcel
        :raises OSError: there is no room for it; they are served then as before
        """
        cells = self._slice.cells
        tunnels = []
        rows = (row for row in self._slice.table.rows(self._slice.slot) if cells[row + ID] not in self._left)
        for row in list(islice(rows, most)):
            tunnel = cells[row + ID]
            self._released[tunnel] = row
            tunnels.append(parcel.Tunnel(tunnel, row, *self._relay.release(row)))
        try:
            return parcel.pack(tunnels)
        except OSError:
            self.resume()
            raise

    def resume(self) -> None:
        """Serve again what was released."""
        for row in self._released.values():
            self._relay.resume(row)
        self._released.clear()

    def forget(self, left: Collection[int]) -> None:
        """Another worker serves what was released.

        :param left: ids of tunnels that it does not serve: they are served again
        """
        self._left.update(left)
        for tunnel in left:
            row = self._released.pop(tunnel, None)
            if row is not None:
                self._relay.resume(row)
        for row in self._released.values():
            self._relay.disown(row)
            self._slice.release(row)
        self._released.clear()


def take_over(
    slice_: Slice, relay: Relay, read: ReadRow, parcel_fd: int, kept: dict[int, Connections]
) -> tuple[int, list[int]]:
    """Carry on the tunnels of a parcel.

    :param read: reads a row that one of them had
    :param kept: connections by the tunnel's id; they are this worker's from now on
    :returns: how many they are, and ids of those that were left alone: their connections are missing, or the slice is
        full
    :raises ValueError: the parcel is damaged; nothing was done then
    """
    left = []
    taken = 0
    cells = slice_.cells
    for tunnel in parcel.unpack(parcel_fd):
        connections = kept.pop(tunnel.id, None)
        row = None if connections is None else slice_.receive(*read(tunnel.row))
        if connections is None or row is None:
            left.append(tunnel.id)
            for fd in connections or ():
                os.close(fd)
            continue
        assert cells[row + ID] == tunnel.id
        cells[row + STATE] = LIVE
        try:
            relay.adopt(row, *connections, tunnel.client_pending, tunnel.backend_pending)
        except OSError:
            cells[row + INITIATOR] = GATEWAY
            cells[row + CAUSE] = WORKER_LOST
            relay.finish(row)
            continue
        taken += 1
    for connections in kept.values():
        for fd in connections:
            os.close(fd)
    cells[slice_.block + W_ADOPTED] += taken
    return taken, left
