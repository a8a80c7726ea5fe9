"""Tunnels move from one living worker to another, as an upgrade asks for it, and neither side of them notices.

The worker that has them stops serving some (:meth:`Handover.release`), and tells which and what it holds of them
(``parcel.py``). The other takes them in (:func:`take_over`): it copies their rows into its own slice and has epoll
watch their connections, which the supervisor has sent it. Then the first forgets them. Until then it can serve them
again, as if nothing had been (:meth:`Handover.resume`): so there is always one worker that serves a tunnel or can go on
with it, and never two.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from itertools import islice

from gateway.tunnels.moving import parcel
from gateway.tunnels.moving.adoption import Connections, carry_on
from gateway.tunnels.relay.relay import Relay
from gateway.tunnels.table.layout import ID, LIVE, STATE, W_ADOPTED
from gateway.tunnels.table.table import Slice

log = logging.getLogger("gateway")

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
            try:
                pending = self._relay.release(row)
            except Exception as error:  # it cannot move, and all others can
                self._relay.fail(row, "handover", error)
                continue
            self._released[tunnel] = row
            tunnels.append(parcel.Tunnel(tunnel, row, *pending))
        try:
            return parcel.pack(tunnels)
        except OSError:
            self.resume()
            raise

    def resume(self) -> None:
        """Serve again what was released."""
        for row in self._released.values():
            self._resume(row)
        self._released.clear()

    def forget(self, left: Collection[int]) -> None:
        """Another worker serves what was released.

        :param left: ids of tunnels that it does not serve: they are served again
        """
        self._left.update(left)
        for tunnel in left:
            row = self._released.pop(tunnel, None)
            if row is not None:
                self._resume(row)
        for row in self._released.values():
            self._relay.disown(row)
            self._slice.release(row)
        self._released.clear()

    def _resume(self, row: int) -> None:
        try:
            self._relay.resume(row)
        except Exception as error:
            self._relay.fail(row, "handover", error)


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
        row = None if connections is None else _receive(slice_, read, tunnel)
        if connections is None or row is None:
            left.append(tunnel.id)
            for fd in connections or ():
                os.close(fd)
            continue
        cells[row + STATE] = LIVE
        taken += carry_on(row, relay, cells, connections, (tunnel.client_pending, tunnel.backend_pending))
    for connections in kept.values():
        for fd in connections:
            os.close(fd)
    cells[slice_.block + W_ADOPTED] += taken
    return taken, left


def _receive(slice_: Slice, read: ReadRow, tunnel: parcel.Tunnel) -> int | None:
    """Copy a tunnel's row into a slice. :returns: its row there; None where it cannot be: the worker before keeps it"""
    try:
        row = slice_.receive(*read(tunnel.row))
        if row is not None and slice_.cells[row + ID] != tunnel.id:
            slice_.release(row)
            raise ValueError(f"row {tunnel.row} is not that of tunnel {tunnel.id:x}")
    except Exception:
        log.exception("tunnel %x: its row cannot be read, so it stays with the old worker", tunnel.id)
        return None
    return row
