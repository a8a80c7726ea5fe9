"""An upgrade to another layout, as the service manager sees it: both tables are kept until nobody writes the old."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from gateway.processes import record
from gateway.processes.inheritance import Inheritance, InheritedStore
from gateway.processes.keeping import Keeping, number_of, prefix_of
from gateway.processes.manager_store import ManagerStore
from gateway.processes.resumption import find
from gateway.tunnels.moving.mirrors import Mirrors
from gateway.tunnels.table import description
from gateway.tunnels.table.layout import W_ADOPTED, W_HIGH_ROWS
from gateway.tunnels.table.table import Table
from tests.support.deadline import eventually, turn
from tests.support.fdstore import DescriptorKeeper
from tests.tunnels.other_layouts import other, translated

from .records import GOOD, config

NAMES = (1, 1)


def kept_in(table: int) -> int:
    """What ``H_KEPT`` says to workers that write a table."""
    (at, _) = description.read(table).header.names["H_KEPT"]
    return int.from_bytes(os.pread(table, 8, at * 8), "little")


class Upgraded:
    """A supervisor after such an upgrade: slot 0 is an old worker's."""

    def __init__(self, directory: Path, most: int) -> None:
        self.keeper = DescriptorKeeper(directory / "notify", most)
        first = Table.create(1, 16)
        first.cells[first.worker(0) + W_ADOPTED] = 5
        self.layout, default = other(first.description, Random(1), drop=False)
        self.old = translated(first, self.layout, default, NAMES)
        prefix = prefix_of(first)
        first.close()
        lifeline, self.lifeline = os.pipe()
        self.record = record.create()
        address = self.keeper.environ["NOTIFY_SOCKET"]
        before = ManagerStore(address, most, asyncio.get_running_loop())
        names = [f"{prefix}table-{number_of(self.old)}", f"{prefix}record", f"{prefix}lifeline-1"]
        for name, fd in zip(names, (self.old, self.record, lifeline), strict=True):
            before.put(name, fd)
        before.close()
        os.close(lifeline)
        self.mirrors = Mirrors.inherit(os.dup(self.old), 16, lambda: NAMES, {0})
        self.mirrors.write_header("H_KEPT", 1)  # as it was before
        self.store = ManagerStore(address, most, asyncio.get_running_loop(), names)
        self.left = InheritedStore(os.dup(self.record), os.dup(self.lifeline), 1, names, {}, [])
        self.keeping: Keeping

    def go_on(self) -> None:
        self.keeping = Keeping.inherit(self.store, self.mirrors, self.left, {})
        self.mirrors.on_settled = self.note

    def note(self) -> bool:
        known = Inheritance.parse(GOOD, alone=True)
        return self.keeping.save(replace(known, table=self.mirrors.table.fd, mirrors=self.mirrors.left()))

    def promises(self) -> list[int]:
        """What old and new workers go by."""
        return [kept_in(self.old), kept_in(self.mirrors.table.fd)]

    def adopted_by_the_old_worker(self, number: int) -> None:
        at = self.layout.worker.block(0) + self.layout.worker.names["W_ADOPTED"][0]
        os.pwrite(self.old, number.to_bytes(8, "little"), at * 8)

    def resumed(self) -> Table:
        """The table that a supervisor would go on with that is started now."""
        (kept,) = find({name: [os.dup(fd)] for name, fd in self.keeper.kept})
        mirrors, _ = kept.read(config())
        kept.close()
        assert len(mirrors) == 0
        return mirrors.table

    def close(self) -> None:
        self.keeping.close()
        self.mirrors.close()
        self.mirrors.table.close()
        for fd in (self.old, self.record, self.lifeline):
            os.close(fd)
        self.keeper.close()


@pytest.fixture
async def upgraded(tmp_path: Path) -> AsyncIterator[Upgraded]:
    made = Upgraded(tmp_path, 20)
    yield made
    made.close()


async def test_both_tables_are_kept_and_workers_of_both_may_rely_on_it(upgraded: Upgraded) -> None:
    upgraded.go_on()
    assert upgraded.promises() == [1, 1]
    await upgraded.keeping.rely(upgraded.note)
    assert upgraded.promises() == [1, 1]
    await eventually(lambda: len(upgraded.keeper.of_kind("table")) == 2, "both tables to be kept")
    upgraded.adopted_by_the_old_worker(7)
    table = upgraded.resumed()
    assert table.cells[table.worker(0) + W_ADOPTED] == 7
    table.close()
    upgraded.keeping.stop_relying()
    assert upgraded.promises() == [0, 0]


async def test_until_the_record_names_both_the_old_one_is_it(upgraded: Upgraded) -> None:
    upgraded.go_on()
    old = Inheritance.parse(GOOD.replace(b'"table": -1', b'"table": %d' % number_of(upgraded.old)), alone=True)
    record.write(upgraded.record, old.text())
    await eventually(lambda: len(upgraded.keeper.of_kind("table")) == 2, "both tables to be kept")
    upgraded.mirrors.table.cells[upgraded.mirrors.table.worker(1) + W_ADOPTED] = 9  # which nobody could have written
    table = upgraded.resumed()
    assert [table.cells[table.worker(slot) + W_ADOPTED] for slot in (0, 1)] == [5, 0]
    table.close()


async def test_the_old_one_is_let_go_when_its_last_worker_is_gone(upgraded: Upgraded) -> None:
    upgraded.go_on()
    await upgraded.keeping.rely(upgraded.note)
    await eventually(lambda: len(upgraded.keeper.of_kind("table")) == 2, "both tables to be kept")
    upgraded.adopted_by_the_old_worker(7)
    upgraded.mirrors.settle(0)
    await eventually(lambda: len(upgraded.keeper.of_kind("table")) == 1, "the old table to be removed")
    block = upgraded.mirrors.table.worker(0)
    upgraded.mirrors.table.cells[block + W_ADOPTED] = 8  # by a successor
    upgraded.adopted_by_the_old_worker(0)
    table = upgraded.resumed()
    assert (table.cells[block + W_ADOPTED], table.cells[block + W_HIGH_ROWS]) == (8, 0)
    table.close()
    assert kept_in(upgraded.mirrors.table.fd) == 1


async def test_nobody_relies_on_a_manager_that_does_not_listen(upgraded: Upgraded) -> None:
    upgraded.keeper.pause()
    upgraded.go_on()
    while upgraded.store.settled:  # its socket takes some
        upgraded.store.put(f"other-{len(upgraded.store.names)}", upgraded.lifeline)
    relying = asyncio.create_task(upgraded.keeping.rely(upgraded.note))
    await turn()
    assert upgraded.promises() == [0, 0]
    upgraded.keeper.go_on()
    await relying
    assert upgraded.promises() == [1, 1]


async def test_without_room_for_the_new_one_nobody_relies_on_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    upgraded = Upgraded(tmp_path, 3)
    upgraded.go_on()
    await upgraded.keeping.rely(upgraded.note)
    assert upgraded.promises() == [0, 0]
    assert "no room for another table" in caplog.text
    upgraded.close()


async def test_a_record_that_cannot_be_written_is_not_relied_on(
    upgraded: Upgraded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else a successor would take the slot of a worker that is gone for a mirror still."""
    upgraded.go_on()
    await upgraded.keeping.rely(upgraded.note)

    def fails(fd: int, text: bytes) -> None:
        raise OSError("no memory")

    monkeypatch.setattr(record, "write", fails)
    upgraded.mirrors.settle(0)
    assert kept_in(upgraded.mirrors.table.fd) == 0
    assert [each.levelno for each in caplog.records] == [logging.ERROR]
    await turn()
    assert len(upgraded.keeper.of_kind("table")) in (1, 2), "what the record names is kept"
    assert {f"{number_of(upgraded.old)}"} <= {name.rpartition("-")[2] for name in upgraded.store.names}
