"""Old workers go on with a table of another layout, and tunnels move from there to a new worker.

The old worker of these tests is a real one (``harness.py``), with a table of our layout. Before each look at it that is
written anew in a layout of another kind, as if the worker had written that.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from random import Random

from gateway.tunnels.moving import parcel
from gateway.tunnels.moving.handover import Handover, take_over
from gateway.tunnels.moving.mirrors import Mirrors
from gateway.tunnels.relay.poller import Poller
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.upkeep.sweep import Sweep

from .harness import DESCRIPTORS, Rig
from .other_layouts import address_in, other, translated
from .owners import Ending

NAMES = (3, 3)


class Transition:
    """Slot 0 is an old worker's, which knows another layout; slot 1 is that of the worker that replaces it."""

    def __init__(self, rig: Rig, seed: int = 0, drop: bool = False) -> None:
        self.rig = rig
        self.theirs, self.default = other(rig.table.description, Random(seed), drop)
        self.handover = Handover(rig.slice, rig.relay)
        self.fd = translated(rig.table, self.theirs, self.default, NAMES)
        self.mirrors = Mirrors.inherit(os.dup(self.fd), 16, lambda: NAMES, {0})
        self.table = self.mirrors.table
        self.slice = Slice(self.table, 1)
        self.poller: Poller = Poller(self.table, DESCRIPTORS, Ending(self.slice.release))
        self.relays = True

    def write(self) -> None:
        """The old worker has written its table."""
        fd = translated(self.rig.table, self.theirs, self.default, NAMES)
        with open(fd, "rb") as file:
            os.pwrite(self.fd, file.read(), 0)

    def release(self, most: int = 100) -> tuple[int, list[parcel.Tunnel]]:
        """The old worker's parcel, as one of that layout would fill it in."""
        fd = self.handover.release(most)
        tunnels = parcel.unpack(fd)
        parcel.readdress(fd, [address_in(self.rig.table, self.theirs, 0, each.row) for each in tunnels])
        self.write()
        return fd, parcel.unpack(fd)

    def move(self) -> tuple[int, list[int]]:
        """One round, as the supervisor has it done."""
        fd, tunnels = self.release()
        stay = self.mirrors.moving(0, fd, tunnels)
        kept = {each.id: tuple(map(os.dup, self.rig.kept[each.id])) for each in tunnels if each.id not in stay}
        moved = take_over(self.slice, self.poller.relay, self.table.copy_of, fd, kept)
        os.close(fd)
        self.handover.forget(moved[1])
        return moved

    def go_on_with_the_new_one(self) -> None:
        """The rig drives the new worker from now on."""
        self.rig.poller.select(0)
        self.rig.poller.close()
        self.rig.poller, self.rig.slice, self.rig.relay = self.poller, self.slice, self.poller.relay
        self.rig.sweeper = Sweep(self.slice, self.poller.relay)
        self.old_table, self.rig.table, self.rig.cells = self.rig.table, self.table, self.table.cells

    def close(self) -> None:
        for row in list(self.table.rows(1)):
            self.poller.relay.finish(row)
        self.poller.select(0)
        self.rig.poller.select(0)
        other_table = self.table
        if self.rig.poller is self.poller:
            other_table = self.old_table
        else:
            self.poller.close()
        del self.handover, self.poller  # a relay holds on to its table
        self.rig.close()
        with contextlib.suppress(BufferError):  # the traceback of a failed test holds on to it, too
            other_table.close()
        self.mirrors.close()
        os.close(self.fd)


Begin = Callable[..., Transition]
