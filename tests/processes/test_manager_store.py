"""The way into the service manager's store, against a stand-in: names, order, a full socket, a manager that is gone."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.processes.manager_store import ManagerStore, offered, take_passed
from tests.support.deadline import eventually
from tests.support.fdstore import ACTIVATED, DescriptorKeeper


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[DescriptorKeeper]:
    made = DescriptorKeeper(tmp_path / "notify", 1000)
    yield made
    made.close()


@pytest.fixture
async def store(keeper: DescriptorKeeper) -> AsyncIterator[ManagerStore]:
    made = ManagerStore(keeper.environ["NOTIFY_SOCKET"], 1000, asyncio.get_running_loop())
    yield made
    made.close()


def put(store: ManagerStore, name: str) -> os.stat_result:
    """Put a file of its own; what tells it from others."""
    fd = os.memfd_create("test")
    store.put(name, fd)
    found = os.fstat(fd)
    os.close(fd)
    return found


async def test_what_is_put_is_kept_until_it_is_removed(keeper: DescriptorKeeper, store: ManagerStore) -> None:
    first, second = put(store, "first"), put(store, "second")
    await eventually(lambda: len(keeper.kept) == 2, "both")
    assert [(name, os.fstat(fd).st_ino) for name, fd in keeper.kept] == [
        ("first", first.st_ino),
        ("second", second.st_ino),
    ]
    assert store.room == 998
    store.remove("first")
    store.remove("nothing")
    await eventually(lambda: keeper.names == ["second"], "the first to be removed")
    assert (store.room, store.names) == (999, {"second"})
    assert await store.sent(1)


async def test_a_full_socket_is_tried_again_and_the_order_is_kept(
    keeper: DescriptorKeeper, store: ManagerStore
) -> None:
    keeper.pause()
    for n in range(100):
        put(store, str(n))
    store.remove("0")
    put(store, "0")
    assert not store.settled
    assert not await store.sent(0.05)
    keeper.go_on()
    assert await store.sent(5)
    await eventually(lambda: keeper.names == [*map(str, range(1, 100)), "0"], "all of it")


async def test_a_manager_that_is_gone_for_a_while(
    tmp_path: Path, keeper: DescriptorKeeper, store: ManagerStore, caplog: pytest.LogCaptureFixture
) -> None:
    os.rename(tmp_path / "notify", tmp_path / "elsewhere")
    put(store, "patient")
    put(store, "as well")
    assert not await store.sent(0.05)
    os.rename(tmp_path / "elsewhere", tmp_path / "notify")
    assert await store.sent(5)
    await eventually(lambda: len(keeper.kept) == 2, "both")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_what_is_not_sent_is_let_go(keeper: DescriptorKeeper) -> None:
    store = ManagerStore(keeper.environ["NOTIFY_SOCKET"] + "-nobody", 1000, asyncio.get_running_loop())
    before = len(os.listdir("/proc/self/fd"))
    put(store, "in vain")
    assert len(os.listdir("/proc/self/fd")) == before + 1
    store.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("environ", "most"),
    [
        ({"NOTIFY_SOCKET": "/run/notify", "FDSTORE": "512"}, 512),
        ({"NOTIFY_SOCKET": "/run/notify", "FDSTORE": "0"}, 0),
        ({"NOTIFY_SOCKET": "/run/notify", "FDSTORE": "many"}, 0),
        ({"NOTIFY_SOCKET": "/run/notify", "FDSTORE": "²"}, 0),
        ({"NOTIFY_SOCKET": "/run/notify"}, 0),
        ({"FDSTORE": "512"}, 0),
    ],
)
def test_what_is_offered(environ: dict[str, str], most: int) -> None:
    assert offered(environ) == most


def test_what_is_passed_is_found_by_name() -> None:
    """In a process of its own, as numbers count from 3."""
    program = (
        "import os\nfrom gateway.processes.manager_store import take_passed\n"
        "found = take_passed(os.environ)\n"
        "print({n: [(os.read(fd, 9).decode(), os.get_inheritable(fd)) for fd in fds] for n, fds in found.items()})\n"
        "print([name for name in os.environ if name.startswith('LISTEN')], take_passed(os.environ))"
    )
    descriptors = []
    for text in (b"a", b"b", b"c"):
        reading, writing = os.pipe()
        os.write(writing, text)
        os.close(writing)
        descriptors.append(reading)
    passed = [f"{fd}:{name}" for fd, name in zip(descriptors, ("x", "y-1", "x"), strict=True)]
    done = subprocess.run(
        [sys.executable, ACTIVATED, *passed, "--", sys.executable, "-c", program],
        pass_fds=descriptors,
        capture_output=True,
        text=True,
        check=False,
    )
    for fd in descriptors:
        os.close(fd)
    assert done.stdout.splitlines() == ["{'x': [('a', False), ('c', False)], 'y-1': [('b', False)]}", "[] {}"], done


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "two", "LISTEN_FDNAMES": "a:b"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"},
    ],
)
def test_what_is_meant_for_others_or_makes_no_sense_is_not_taken(environ: dict[str, str]) -> None:
    assert take_passed(environ) == {}
    assert environ == {}
