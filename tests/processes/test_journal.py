"""Connections in the manager's store: what is in a segment, when it is sent again, and how it shows when it is lost."""

from __future__ import annotations

import asyncio
import os
import socket
from array import array
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest

from gateway.processes import journal
from gateway.processes.journal import AT_ONCE, Journal
from gateway.processes.manager_store import ManagerStore
from tests.support.deadline import eventually
from tests.support.fdstore import DescriptorKeeper

Pair = tuple[int, int]


class Bench:
    """A journal, and the manager that keeps it."""

    def __init__(self, directory: Path, most: int, said: int | None = None) -> None:
        self.keeper = DescriptorKeeper(directory / f"notify-{most}", most, said)
        loop = asyncio.get_running_loop()
        numbers = count()
        self.lost = 0
        self.store = ManagerStore(self.keeper.environ["NOTIFY_SOCKET"], int(self.keeper.environ["FDSTORE"]), loop)
        self.journal = Journal(self.store, loop, lambda: f"gateway-1-tunnels-{next(numbers)}", self._lost)
        self.pairs: dict[int, Pair] = {}

    def _lost(self) -> None:
        self.lost += 1

    def open(self, tunnels: range) -> None:
        for tunnel in tunnels:
            self.pairs[tunnel] = (os.memfd_create("client"), os.memfd_create("backend"))
        self.journal.keep((tunnel, self.pairs[tunnel]) for tunnel in tunnels)

    def end(self, tunnels: range) -> None:
        for tunnel in tunnels:
            self.journal.forget(tunnel)
            for fd in self.pairs.pop(tunnel):
                os.close(fd)

    def kept(self) -> dict[int, tuple[int, int]]:
        """What the manager has: inodes by tunnel."""
        found: dict[int, tuple[int, int]] = {}
        for fd in self.keeper.of_kind("tunnels"):
            for tunnel, pair in journal.read(fd):
                inodes = os.fstat(pair[0]).st_ino, os.fstat(pair[1]).st_ino
                assert found.setdefault(tunnel, inodes) == inodes
                for each in pair:
                    assert not os.get_inheritable(each)
                    os.close(each)
        return found

    def all_right(self) -> bool:
        """Whether each tunnel that lives is there, with its own connections."""
        kept = self.kept()
        return all(
            kept.get(tunnel) == (os.fstat(a).st_ino, os.fstat(b).st_ino) for tunnel, (a, b) in self.pairs.items()
        )

    def close(self) -> None:
        self.end(range(0))
        self.journal.close()
        self.store.close()
        self.keeper.close()
        for pair in self.pairs.values():
            for fd in pair:
                os.close(fd)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path, 1000)
    yield made
    made.close()


async def test_what_opens_is_in_store_without_another_word(bench: Bench) -> None:
    bench.journal.open()
    await eventually(lambda: bench.keeper.kept, "a segment")
    bench.open(range(300))
    assert bench.all_right()
    bench.open(range(300, 301))
    assert bench.all_right()
    assert len(bench.keeper.names_seen) == 1
    assert len(bench.journal) == 301


async def test_whoever_reads_takes_nothing_away(bench: Bench) -> None:
    bench.open(range(2 * AT_ONCE + 1))
    await eventually(bench.all_right, "all of them")
    before = len(os.listdir("/proc/self/fd"))
    assert bench.kept() == bench.kept()
    assert len(bench.kept()) == 2 * AT_ONCE + 1
    assert len(os.listdir("/proc/self/fd")) == before


async def test_it_is_all_there_when_the_writer_is_dead(bench: Bench) -> None:
    bench.open(range(10))
    bench.open(range(10, 20))
    await bench.store.sent(1)
    bench.journal.close()
    await eventually(bench.all_right, "what is on its way to the manager")


async def test_one_at_a_time_fills_segment_after_segment(bench: Bench) -> None:
    for tunnel in range(1500):
        bench.open(range(tunnel, tunnel + 1))
    await eventually(bench.all_right, "all of them")
    assert 2 < len(bench.keeper.kept) < 20
    assert bench.lost == 0


async def test_what_has_ended_is_let_go(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "UPKEEP_SECONDS", 0.01)
    monkeypatch.setattr(journal, "MAX_AGE_SECONDS", 0.05)
    bench.open(range(1000))
    bench.end(range(10, 1000))
    await eventually(lambda: sorted(bench.kept()) == list(range(10)), "the others to be let go")
    assert bench.all_right()
    assert len(bench.keeper.kept) == 1
    bench.open(range(2000, 2010))
    assert bench.all_right()
    bench.end(range(10))
    bench.end(range(2000, 2010))
    await eventually(lambda: not bench.kept(), "all of them to be let go")
    assert len(bench.journal) == 0


async def test_tunnels_are_sent_again_before_the_old_segment_goes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever the writer dies, the manager has every tunnel at least once."""
    monkeypatch.setattr(journal, "UPKEEP_SECONDS", 0.01)
    monkeypatch.setattr(journal, "MAX_AGE_SECONDS", 0.02)
    bench.open(range(50))
    await eventually(bench.all_right, "all of them")
    bench.end(range(25))
    first = bench.keeper.names
    keep, held = bench.keeper._keep, []

    def look(*arguments: object) -> None:
        keep(*arguments)  # type: ignore[arg-type]
        held.append(bench.all_right())

    monkeypatch.setattr(bench.keeper, "_keep", look)
    await eventually(lambda: not set(first) & set(bench.keeper.names), "the first segment to go")
    assert held == [True]
    assert bench.all_right()


async def test_connections_live_in_the_queue(bench: Bench) -> None:
    """Nobody else has them open, and their peers notice nothing."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        bench.journal.keep([(7, (theirs.fileno(), theirs.fileno()))])
        await eventually(bench.kept, "it")
        theirs.close()
        ours.settimeout(0.05)
        with pytest.raises(TimeoutError):
            ours.recv(1)
        bench.keeper.forget_all()
        ours.settimeout(5)
        assert ours.recv(1) == b""


async def test_a_manager_with_no_room_is_noticed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 0, said=100)
    bench.open(range(5))
    await eventually(lambda: bench.lost == 1, "the loss")
    assert len(bench.journal) == 0
    assert bench.store.names == set()
    bench.close()


async def test_more_than_fits_is_told_once_and_kept_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal, "UPKEEP_SECONDS", 0.01)
    monkeypatch.setattr(journal, "MAX_AGE_SECONDS", 0.02)
    bench = Bench(tmp_path, 2)
    for tunnel in range(2000):
        bench.open(range(tunnel, tunnel + 1))
    assert len(caplog.records) == 1
    assert "no room for the connections of 1 tunnels" in caplog.records[0].message
    assert len(bench.journal) < 2000
    bench.end(range(1))  # its segment is sent again, in few messages
    await eventually(bench.all_right, "all of them")
    assert len(bench.keeper.kept) <= 2
    assert bench.lost == 0
    bench.close()


async def test_another_program_goes_on(bench: Bench) -> None:
    bench.open(range(20))
    bench.end(range(5))
    await bench.store.sent(1)
    (segment,) = bench.journal.segments
    fd = os.dup(segment.sock.fileno())
    bench.journal.close()
    loop = asyncio.get_running_loop()
    bench.journal = Journal(bench.store, loop, lambda: "gateway-1-tunnels-99", bench._lost)
    bench.journal.restore(segment.name, fd, bench.pairs.items(), 5)
    bench.open(range(30, 40))
    await eventually(bench.all_right, "all of them")
    assert len(bench.keeper.names_seen) == 1
    assert len(bench.journal) == 25


def test_what_is_no_segment_is_not_read() -> None:
    fd = os.memfd_create("other")
    with pytest.raises(OSError, match="non-socket"):
        journal.read(fd)
    os.close(fd)


# --- one bad message, or one bad tunnel, stops no other ---------------------------------------------------------------


async def test_a_message_that_is_none_is_skipped(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.open(range(1))
    before = len(os.listdir("/proc/self/fd"))
    read, write = os.pipe()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [read, write]))]
    bench.journal.segments[0].sock.sendmsg([b"x" * 11], rights)
    os.close(read)
    os.close(write)
    bench.open(range(1, 2))
    await eventually(lambda: bench.keeper.kept, "the segment")
    assert bench.all_right()
    assert sorted(bench.kept()) == [0, 1]
    assert "skipped a malformed message in the service manager's store: 11 bytes" in caplog.text
    assert len(os.listdir("/proc/self/fd")) <= before + 3  # two of tunnel 1, and the manager's own


async def test_a_descriptor_that_is_closed_keeps_no_other_from_being_kept(bench: Bench) -> None:
    bench.open(range(1))
    closed = 9999
    bench.pairs[1] = (os.memfd_create("client"), os.memfd_create("backend"))
    bench.journal.keep([(5, (closed, closed)), (1, bench.pairs[1])])
    await eventually(bench.all_right, "the others")
    assert sorted(bench.kept()) == [0, 1]


async def test_upkeep_that_fails_once_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "UPKEEP_SECONDS", 0.01)
    monkeypatch.setattr(journal, "WORTHWHILE", 1)
    bench.open(range(3))
    await eventually(bench.all_right, "all of them")
    failed = []
    rewrite = bench.journal._rewrite

    def fails_once(segment: journal.Segment) -> None:
        if not failed:
            failed.append(segment)
            raise RuntimeError("no mood")
        rewrite(segment)

    monkeypatch.setattr(bench.journal, "_rewrite", fails_once)
    bench.end(range(1))
    await eventually(lambda: bench.all_right() and sorted(bench.kept()) == [1, 2], "the segment to be sent again")
    assert failed
