"""Handover: in an upgrade, tunnels move from the old worker to the new one, and neither endpoint notices.

The old worker stops serving a batch of tunnels (:meth:`Handover.release`) and puts their ids and the bytes it holds
into a parcel (``parcel.py``). The new worker resumes them (:func:`take_over`): it copies their rows into its own slice
and registers their connections, which the supervisor sends it, with epoll. Then the old worker drops them
(:meth:`Handover.forget`). Until then it can serve them again (:meth:`Handover.resume`). So exactly one worker serves a
tunnel, or can resume it, at any time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Sequence
from itertools import islice

from gateway.tunnels.moving import parcel
from gateway.tunnels.moving.adoption import Connections, resume
from gateway.tunnels.relay.relay import Relay
from gateway.tunnels.table.layout import ID, LIVE, STATE, W_ADOPTED
from gateway.tunnels.table.slice import Slice

log = logging.getLogger("gateway")

ReadRow = Callable[[int], tuple[list[int], bytes, Sequence[int] | None]]
"""As ``Table.copy_of``: returns a row's cells, its texts as bytes, and its sessions."""


class Handover:
    """The old worker's part."""

    def __init__(self, slice_: Slice, relay: Relay) -> None:
        self._slice = slice_
        self._relay = relay
        self._released: dict[int, int] = {}  # rows by the tunnel's id
        self._left: set[int] = set()

    @property
    def under_way(self) -> bool:
        """Whether released tunnels have neither been forgotten nor resumed yet."""
        return bool(self._released)

    def release(self, most: int) -> int:
        """Stop serving up to ``most`` tunnels. Those the new worker could not take before are not offered again.

        :returns: the descriptor of a parcel
        :raises OSError: there is no memory for the parcel; the tunnels are served as before
        """
        cells = self._slice.cells
        tunnels = []
        rows = (row for row in self._slice.table.rows(self._slice.slot) if cells[row + ID] not in self._left)
        for row in list(islice(rows, most)):
            tunnel = cells[row + ID]
            try:
                held = self._relay.release(row)
            except Exception as error:  # this one cannot move, the others can
                self._relay.fail(row, "handover", error)
                continue
            self._released[tunnel] = row
            tunnels.append(parcel.Tunnel(tunnel, row, *held))
        try:
            return parcel.pack(tunnels)
        except OSError:
            self.resume()
            raise

    def resume(self) -> None:
        """Serve the released tunnels again."""
        for row in self._released.values():
            self._resume(row)
        self._released.clear()

    def forget(self, left: Collection[int]) -> None:
        """Drop the released tunnels: the new worker serves them.

        :param left: ids of tunnels that it could not take; they are served here again
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
    """Resume the tunnels of a parcel.

    :param read: reads a row of the old worker
    :param kept: connections by tunnel id; this worker owns them from now on
    :returns: how many were resumed, and the ids of those that stay with the old worker: their connections are missing,
        their row cannot be read, or the slice is full
    :raises ValueError: the parcel is damaged; nothing was done
    """
    left = []
    taken = 0
    cells = slice_.cells
    slice_.forget_taken()
    for tunnel in parcel.unpack(parcel_fd):
        connections = kept.pop(tunnel.id, None)
        row = None if connections is None else _receive(slice_, read, tunnel)
        if connections is None or row is None:
            left.append(tunnel.id)
            for fd in connections or ():
                os.close(fd)
            continue
        cells[row + STATE] = LIVE
        slice_.take(row, tunnel.row)
        taken += resume(row, relay, cells, connections, tunnel[2:])
    for connections in kept.values():
        for fd in connections:
            os.close(fd)
    cells[slice_.block + W_ADOPTED] += taken
    return taken, left


def _receive(slice_: Slice, read: ReadRow, tunnel: parcel.Tunnel) -> int | None:
    """Copy a tunnel's row into a slice. :returns: the new row; None if that failed, and the old worker keeps it"""
    try:
        row = slice_.receive(*read(tunnel.row))
        if row is not None and slice_.cells[row + ID] != tunnel.id:
            slice_.release(row)
            raise ValueError(f"row {tunnel.row} is not that of tunnel {tunnel.id:x}")
    except Exception:
        log.exception("tunnel %x: its row cannot be read, so it stays with the old worker", tunnel.id)
        return None
    return row
