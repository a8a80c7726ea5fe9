"""Two workers over one table: tunnels of the one, which is a rig's, move to the other."""

from __future__ import annotations

import os

from gateway.tunnels.moving import parcel
from gateway.tunnels.moving.handover import Handover, take_over
from gateway.tunnels.relay.poller import Poller
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.upkeep.sweep import Sweep

from .harness import DESCRIPTORS, Rig
from .owners import Ending


class Pair:
    """A worker in slot 0, which is the rig's, and one that replaces it in slot 1."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.handover = Handover(rig.slice, rig.relay)
        self.slice = Slice(rig.table, 1)
        self.poller = Poller(rig.table, DESCRIPTORS, Ending(self.slice.release))
        self.old = (rig.poller, rig.slice)

    def move(self, most: int = 100, keep: bool = True) -> tuple[int, list[int]]:
        """One round, as the supervisor has it done."""
        fd = self.handover.release(most)
        kept = {each.id: tuple(map(os.dup, self.rig.kept[each.id])) for each in parcel.unpack(fd)} if keep else {}
        moved = take_over(self.slice, self.poller.relay, self.rig.table.copy_of, fd, kept)
        os.close(fd)
        self.handover.forget(moved[1])
        return moved

    def go_on_with_the_new_one(self) -> None:
        """The rig drives the new worker from now on."""
        self.rig.poller.select(0)
        self.rig.poller, self.rig.slice, self.rig.relay = self.poller, self.slice, self.poller.relay
        self.rig.sweeper = Sweep(self.slice, self.poller.relay)
