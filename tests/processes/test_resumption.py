"""What a service manager passes is sorted: gateways of this program, the latest first, and what is somebody else's."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.processes import record, resumption
from gateway.processes.inheritance import CannotInherit
from gateway.processes.keeping import number_of, prefix_of
from gateway.processes.resumption import Kept, StillServed, find
from gateway.tunnels.table.table import Table
from tests.support.deadline import within
from tests.support.process import gone

from .records import GOOD, config


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def memory() -> int:
    return os.memfd_create("test")


def test_names_are_sorted_by_gateway(caplog: pytest.LogCaptureFixture) -> None:
    names = ["gateway-9-table-3", "gateway-10-table-4", "gateway-10-tunnels-7", "gateway-9-listen-3"]
    passed = {name: [memory()] for name in names}
    found = find(passed)
    assert [kept.prefix for kept in found] == ["gateway-10-", "gateway-9-"]  # hexadecimal
    assert found[0].descriptors == {"table-4": passed[names[1]][0], "tunnels-7": passed[names[2]][0]}
    assert sorted(found[1].names) == ["gateway-9-listen-3", "gateway-9-table-3"]
    assert not caplog.records
    for kept in found:
        kept.close()


def test_a_name_that_comes_twice_is_taken_once() -> None:
    before = open_fds()
    (kept,) = find({"gateway-1-listen-2": [memory(), memory(), memory()]})
    assert len(kept.descriptors) == 1
    assert open_fds() == before + 1
    kept.close()
    assert open_fds() == before


@pytest.mark.parametrize(
    "name", ["http", "stored", "gateway-table", "gateway-1-table", "gateway-x-table", "gateway-1-listen-", "x"]
)
def test_what_is_not_ours_is_left_alone(caplog: pytest.LogCaptureFixture, name: str) -> None:
    fd = memory()
    assert find({name: [fd]}) == []
    assert [record.message for record in caplog.records] == [
        f"ignored an unknown descriptor from the service manager: {name}"
    ]
    os.close(fd)  # it is open


# --- whether it can be carried on -------------------------------------------------------------------------------------


@contextmanager
def kept(text: bytes, table: bytes | None = None) -> Iterator[Kept]:
    made = Table.create(1, 16)
    described = record.create()
    record.write(described, text.replace(b'"table": -1', b'"table": %d' % number_of(made.fd)))
    if table is not None:
        os.pwrite(made.fd, table, 0)
    name = f"table-{number_of(made.fd)}"
    found = Kept(prefix_of(made), {name: os.dup(made.fd), "record": described, "lifeline-1": memory()})
    made.close()
    before = open_fds()
    yield found
    assert open_fds() == before, "something was left open"
    found.close()


def test_what_is_whole_is_read_whatever_its_workers_spoke() -> None:
    with kept(GOOD) as found:
        assert found.complete
        mirrors, inheritance = found.read(config())
        assert (mirrors.table.rows_per_worker, inheritance.generation) == (16, 3)
        mirrors.table.close()


def test_auto_is_what_it_was() -> None:
    with kept(GOOD) as found:
        mirrors, inheritance = found.read(config(max_tunnels="auto"))
        assert (mirrors.table.rows_per_worker, inheritance.max_tunnels) == (16, 16)
        mirrors.table.close()


@pytest.mark.parametrize(
    ("text", "table", "asked", "why"),
    [
        (b"", None, {}, "that gateway had shut down"),
        (b"nonsense", None, {}, "cannot be read"),
        (b"[]", None, {}, "another format"),
        (b'{"form": 1}', None, {}, "incomplete"),
        (GOOD.replace(b'"form": 1', b'"form": 99'), None, {}, "another format"),
        (GOOD, b"x" * 8, {}, "not a table"),
        (GOOD, None, {"workers": 2}, "workers or max_tunnels"),
        (GOOD, None, {"max_tunnels": 17}, "workers or max_tunnels"),
    ],
)
def test_what_cannot_be_carried_on_says_why(text: bytes, table: bytes | None, asked: dict[str, int], why: str) -> None:
    with kept(text, table) as found, pytest.raises(CannotInherit, match=why):
        found.read(config(**asked))


# --- who is still there -----------------------------------------------------------------------------------------------


def holder(writing: int) -> subprocess.Popen[bytes]:
    """A process that holds the writing end of a lifeline."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], pass_fds=[writing])


async def test_nobody_is_waited_for_who_is_gone() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    found = Kept("gateway-1-", {"lifeline-1": reading})
    await within(found.until_unused(), "it to be unused", 1)
    found.close()


async def test_who_is_there_is_waited_for_and_then_killed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Processes with the reading end, such as the manager and this one, are not."""
    reading, writing = os.pipe()
    process = holder(writing)
    os.close(writing)
    found = Kept("gateway-1-", {"lifeline-1": reading})
    waiting = asyncio.create_task(found.until_unused())
    done, _ = await asyncio.wait((waiting,), timeout=0.1)
    assert not done
    waiting.cancel()
    await asyncio.wait((waiting,))
    monkeypatch.setattr(resumption, "PATIENCE_SECONDS", 0.2)
    await found.until_unused()
    await gone(process.pid)
    assert process.wait() == -9
    assert "still running after 0.2 s" in caplog.text
    found.close()


async def test_who_cannot_be_killed_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumption, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(resumption, "_holders", lambda lifeline: iter(()))
    reading, writing = os.pipe()
    found = Kept("gateway-1-", {"lifeline-1": reading})
    with pytest.raises(StillServed, match="pids: unknown"):
        await found.until_unused()
    os.close(writing)
    found.close()


def test_a_process_is_seen_by_the_end_that_it_holds() -> None:
    reading, writing = os.pipe()
    process = holder(writing)
    os.close(writing)
    assert list(resumption._holders(reading)) == [process.pid]
    process.kill()
    process.wait()
    assert list(resumption._holders(reading)) == []
    os.close(reading)
