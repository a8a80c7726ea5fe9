"""The notify protocol, against a real datagram socket."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.processes.notify import Notifier
from tests.support.deadline import within
from tests.support.notify import Manager


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@gateway-test-{secrets.token_hex(8)}"
    manager = Manager(address)
    yield manager
    manager.close()


def status() -> str:
    return "as always"


def test_a_life(manager: Manager) -> None:
    notifier = Notifier(manager.environ, status)
    notifier.ready()
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloaded()
    notifier.stopping(41.5)
    ready, reloading, reloaded, stopping = manager.messages()
    assert ready == reloaded == {"READY": "1", "STATUS": "as always"}
    assert before <= int(reloading.pop("MONOTONIC_USEC")) <= after
    assert reloading == {"RELOADING": "1", "STATUS": "as always"}
    assert stopping == {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": "41500000", "STATUS": "as always"}


def test_a_reload_during_the_start_is_not_the_end_of_the_start(manager: Manager) -> None:
    notifier = Notifier(manager.environ, status)
    notifier.reloading()
    notifier.reloaded()
    assert manager.messages() == []
    notifier.reloading()
    notifier.ready()
    notifier.reloaded()
    assert [message.keys() for message in manager.messages()] == [{"READY", "STATUS"}]


def test_whoever_stops_does_not_become_ready(manager: Manager) -> None:
    notifier = Notifier(manager.environ, status)
    notifier.ready()
    notifier.reloading()
    notifier.stopping()
    notifier.reloaded()
    notifier.ready()
    notifier.reloading()
    notifier.stopping(10)
    assert [message.keys() for message in manager.messages()][2:] == [{"STOPPING", "STATUS"}]


async def test_the_watchdog_is_told_at_half_of_its_time(manager: Manager) -> None:
    numbers = iter(range(100))
    environ = {**manager.environ, "WATCHDOG_USEC": "200000", "WATCHDOG_PID": str(os.getpid())}
    telling = asyncio.create_task(Notifier(environ, lambda: str(next(numbers))).keep_reporting())
    times = []
    for number in range(6):
        assert await manager.message() == {"WATCHDOG": "1", "STATUS": str(number)}
        times.append(time.monotonic())
    telling.cancel()
    assert times[-1] - times[0] >= 5 * 0.1 - 0.05


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": ""},
        {"WATCHDOG_USEC": "-1"},
        {"WATCHDOG_USEC": "²"},
        {"WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "200000", "WATCHDOG_PID": "?"},
    ],
)
async def test_without_a_watchdog_only_the_status_is_told(manager: Manager, environ: dict[str, str]) -> None:
    telling = asyncio.create_task(Notifier({**manager.environ, **environ}, status).keep_reporting())
    assert await manager.message() == {"STATUS": "as always"}
    telling.cancel()


async def test_without_a_socket_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def never() -> str:
        raise AssertionError("nobody asks")

    notifier = Notifier({"WATCHDOG_USEC": "200000"}, never)
    notifier.ready()
    notifier.reloading()
    notifier.reloaded()
    notifier.stopping()
    await within(notifier.keep_reporting(), "nothing")
    assert caplog.records == []


async def test_an_address_of_another_family_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": "vsock:2:1234"}, status)
    notifier.ready()
    await within(notifier.keep_reporting(), "nothing")
    assert [record.message for record in caplog.records] == [
        "ignored NOTIFY_SOCKET, which is neither a path nor a name with @: vsock:2:1234"
    ]


@pytest.mark.parametrize("address", ["/nowhere/at/all", "@gateway-nobody-is-here", "/" + "x" * 200])
def test_a_manager_that_is_gone_harms_nobody(caplog: pytest.LogCaptureFixture, address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address}, status)
    for _ in range(5):
        notifier.ready()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_what_a_busy_manager_had_no_room_for_is_told_later(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier({**manager.environ, "WATCHDOG_USEC": "20000"}, status)
    while not caplog.records:
        notifier.ready()
    notifier.reloading()
    notifier.reloaded()
    notifier.stopping(1)
    assert len(caplog.records) == 1
    assert all(message == {"READY": "1", "STATUS": "as always"} for message in manager.messages())
    telling = asyncio.create_task(notifier.keep_reporting())
    late = {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": "1000000", "WATCHDOG": "1", "STATUS": "as always"}
    assert await manager.message() == late
    assert await manager.message() == {"WATCHDOG": "1", "STATUS": "as always"}
    telling.cancel()


async def test_a_manager_that_comes_back_is_told_where_things_stand(tmp_path: Path) -> None:
    first = Manager(str(tmp_path / "notify"))
    notifier = Notifier(first.environ, status)
    first.close()
    os.unlink(tmp_path / "notify")
    notifier.ready()
    second = Manager(str(tmp_path / "notify"))
    telling = asyncio.create_task(notifier.keep_reporting())
    assert await second.message() == {"READY": "1", "STATUS": "as always"}
    telling.cancel()
    second.close()
