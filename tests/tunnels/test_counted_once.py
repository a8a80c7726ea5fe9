"""In an upgrade a process dies, or a tunnel ends, at any point of a handover: each tunnel's end is counted once.

The order of events is fixed here. The supervisor's part is that of ``processes/upgrade.py``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest

from gateway.tunnels.moving import parcel
from gateway.tunnels.moving.adoption import Adoption, adopt
from gateway.tunnels.moving.handover import Handover, take_over
from gateway.tunnels.relay.poller import Poller
from gateway.tunnels.table.layout import B_LIVE, COUNTED, FREE, ID, LIVE, RELEASED, ROW_CELLS, STATE
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.table.slots import disown, settle

from .harness import DESCRIPTORS, Rig, Tunnel
from .owners import Ending
from .states import HELLO

TUNNELS = 3


class Upgrade:
    """A worker in slot 0, the rig's, and one in slot 1 that replaces it; both count ends here."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.table = rig.table
        self.tunnels = [rig.open() for _ in range(TUNNELS)]
        self.counted: Counter[int] = Counter()
        rig.before_end = lambda row: self.counted.update([rig.cells[row + ID]])
        self.handover = Handover(rig.slice, rig.relay)
        self.slice = Slice(rig.table, 1)
        self.poller = self.relays_for(self.slice)
        self._successors: list[Poller] = []

    def relays_for(self, slice_: Slice) -> Poller:
        """What relays for a worker."""
        return Poller(self.table, DESCRIPTORS, Ending(lambda row: self.count(slice_, row)))

    def count(self, slice_: Slice, row: int) -> None:
        """What a worker does with a tunnel that has ended."""
        self.counted[self.table.cells[row + ID]] += 1
        slice_.release(row)

    def release(self) -> int:
        return self.handover.release(100)

    def take(self, fd: int) -> list[int]:
        """The new worker takes over; ids of those that it leaves."""
        kept = {each.id: tuple(map(os.dup, self.rig.kept[each.id])) for each in parcel.unpack(fd)}
        _, left = take_over(self.slice, self.poller.relay, self.table.copy_of, fd, kept)
        os.close(fd)
        return left

    def end(self, *tunnels: Tunnel) -> None:
        """Clients and backends of tunnels leave, which the new worker sees."""
        self.rig.poller.select(0)
        old, self.rig.poller, self.rig.relay = self.rig.poller, self.poller, self.poller.relay
        for tunnel in tunnels:
            tunnel.client.close()
            tunnel.backend.close()
        self.rig.until(lambda: all(self.counted[tunnel.id] for tunnel in tunnels), "the ends")
        self.rig.poller, self.rig.relay = old, old.relay

    def succeeded(self, slot: int) -> Adoption:
        """The worker of a slot is dead, and it has a successor. Nothing is in its store."""
        slice_ = Slice(self.table, slot)
        poller = self.relays_for(slice_)
        self._successors.append(poller)
        return adopt(slice_, poller.relay, {}, lambda row: self.count(slice_, row), lambda tunnel: None)

    def states(self, slot: int) -> list[int]:
        """Of the rows of a slot that were used and are not free."""
        first = self.table.first_row(slot)
        rows = range(first, first + self.table.rows_per_worker * ROW_CELLS, ROW_CELLS)
        return [state for row in rows if (state := self.table.cells[row + STATE]) != FREE]

    def close(self) -> None:
        for row in list(self.table.rows()):  # those that nobody but the new worker ever served since
            self.poller.relay.finish(row)
        self.poller.select(0)
        for poller in (self.poller, *self._successors):
            poller.close()


@pytest.fixture
def upgrade(rig: Rig) -> Iterator[Upgrade]:
    made = Upgrade(rig)
    yield made
    made.close()


def test_the_old_worker_dies_before_it_forgets(upgrade: Upgrade) -> None:
    assert upgrade.take(upgrade.release()) == []
    assert upgrade.succeeded(0) == Adoption(0, 0, 0)
    assert upgrade.states(0) == []
    assert upgrade.states(1) == [LIVE] * TUNNELS
    upgrade.end(*upgrade.tunnels)
    assert upgrade.counted == {tunnel.id: 1 for tunnel in upgrade.tunnels}
    assert upgrade.slice.rows_in_use == 0


def test_the_old_worker_dies_and_tunnels_end_before_its_successor_looks(upgrade: Upgrade) -> None:
    assert upgrade.take(upgrade.release()) == []
    ended, *others = upgrade.tunnels
    upgrade.end(ended)
    assert sorted(upgrade.states(1)) == [LIVE] * len(others) + [COUNTED]
    assert upgrade.slice.rows_in_use == TUNNELS  # as somebody may still look
    assert upgrade.succeeded(0) == Adoption(0, 0, 0)
    assert upgrade.counted == {ended.id: 1}
    assert upgrade.slice.rows_in_use == len(others)
    upgrade.end(*others)
    assert upgrade.counted == {tunnel.id: 1 for tunnel in upgrade.tunnels}
    assert upgrade.slice.rows_in_use == 0
    assert upgrade.table.cells[upgrade.table.backend_at(1, 0) + B_LIVE] == 0


def test_tunnels_end_before_the_old_worker_forgets(upgrade: Upgrade) -> None:
    assert upgrade.take(upgrade.release()) == []
    upgrade.end(*upgrade.tunnels)
    assert upgrade.states(1) == [COUNTED] * TUNNELS
    upgrade.handover.forget(())
    assert upgrade.slice.rows_in_use == 0
    assert upgrade.states(0) == upgrade.states(1) == []
    assert upgrade.counted == {tunnel.id: 1 for tunnel in upgrade.tunnels}


def test_a_slice_that_is_full_of_ended_tunnels_has_room_once_they_are_forgotten(upgrade: Upgrade) -> None:
    assert upgrade.take(upgrade.release()) == []
    upgrade.end(*upgrade.tunnels)
    rows = []
    while (row := upgrade.slice.allocate(0, 0)) is not None:
        rows.append(row)
    assert len(rows) == upgrade.table.rows_per_worker - TUNNELS
    upgrade.handover.forget(())
    assert upgrade.slice.allocate(0, 0) is not None


@pytest.mark.parametrize("ends", [0, 1, TUNNELS])
def test_the_supervisor_dies_before_it_hears_of_it(upgrade: Upgrade, ends: int) -> None:
    """Nobody is told anything more, all processes end, and the next supervisor finds the table."""
    assert upgrade.take(upgrade.release()) == []
    upgrade.end(*upgrade.tunnels[:ends])
    settled = settle(upgrade.table, 1, 1)
    assert {upgrade.table.cells[row + ID] for row in upgrade.table.rows()} == {
        tunnel.id for tunnel in upgrade.tunnels[ends:]
    }
    assert upgrade.states(upgrade.table.other_slot(settled.slots[0])) == []
    assert upgrade.states(settled.slots[0]) == [LIVE] * (TUNNELS - ends)


def test_the_new_worker_dies_before_it_says_that_it_has_taken_over(upgrade: Upgrade) -> None:
    """The old one goes on, and counts the ends; the new one's successor finds nothing of them."""
    upgrade.take(upgrade.release())
    upgrade.poller.close()
    upgrade.poller = upgrade.relays_for(upgrade.slice)  # to close with
    disown(upgrade.table, 1, {tunnel.id for tunnel in upgrade.tunnels})
    upgrade.handover.resume()
    first = upgrade.tunnels[0]
    first.client.send(HELLO[0])
    upgrade.rig.until(lambda: first.backend.has(HELLO[0]), "a message")
    for tunnel in upgrade.tunnels:
        tunnel.client.close()
        tunnel.backend.close()
    upgrade.rig.until(lambda: len(upgrade.counted) == TUNNELS, "the ends")
    assert upgrade.succeeded(1) == Adoption(0, 0, 0)
    assert upgrade.counted == {tunnel.id: 1 for tunnel in upgrade.tunnels}


def test_what_the_new_worker_left_is_the_old_ones_loss(upgrade: Upgrade) -> None:
    """A tunnel whose connections were never in store stays with the old worker, and is lost with it: that counts."""
    fd = upgrade.release()
    unkept = upgrade.tunnels[0]
    kept = {each.id: tuple(map(os.dup, upgrade.rig.kept[each.id])) for each in parcel.unpack(fd)}
    for fd_of_it in kept.pop(unkept.id):
        os.close(fd_of_it)
    _, left = take_over(upgrade.slice, upgrade.poller.relay, upgrade.table.copy_of, fd, kept)
    os.close(fd)
    assert left == [unkept.id]
    assert upgrade.states(0) == [RELEASED] * TUNNELS
    assert upgrade.succeeded(0) == Adoption(0, 0, 1)
    assert upgrade.counted == {unkept.id: 1}
