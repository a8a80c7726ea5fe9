"""The lock: between processes, freed by a kill, and never waited for long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from gateway.tunnels.quotas.lock import PATIENCE_NS, RESIGNED_NS, Lock

pytestmark = pytest.mark.either_build

HOLD = """
import sys
from gateway.tunnels.quotas.lock import Lock
assert Lock(int(sys.argv[1])).acquire(7)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def fd() -> Iterator[int]:
    made = os.memfd_create("test")
    yield made
    os.close(made)


@pytest.fixture
def holder(fd: int) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(fd)], pass_fds=[fd], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


class Time:
    """A clock that goes on when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0
        self.slept = 0

    def __call__(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += int(seconds * 1e9)
        self.slept += 1


def test_a_killed_holder_frees_it(fd: int, holder: subprocess.Popen[str]) -> None:
    lock = Lock(fd)
    assert lock.acquire(8)  # another one
    assert not lock.acquire(7)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert lock.acquire(7)


def test_a_stopped_holder_holds_nobody_up(fd: int, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGSTOP)
    time, missed = Time(), []
    lock = Lock(fd, lambda: missed.append(time.now), time, time.sleep)
    assert not lock.acquire(7)
    assert PATIENCE_NS <= time.now <= 1.1 * PATIENCE_NS
    slept = time.slept
    for _ in range(100):
        assert not lock.acquire(7)
    assert time.slept == slept  # it waits once, not a hundred times
    assert len(missed) == 101
    assert lock.acquire(8)  # others are not affected
    time.now += RESIGNED_NS
    assert not lock.acquire(7)
    assert time.slept == 2 * slept


def test_it_is_acquired_as_soon_as_it_is_free(fd: int, holder: subprocess.Popen[str]) -> None:
    time = Time()

    def sleep(seconds: float) -> None:
        holder.kill()
        holder.wait()

    lock = Lock(fd, lambda: pytest.fail("missed"), time, sleep)
    assert lock.acquire(7)
    lock.release(7)


def test_a_released_lock_is_free_for_others(fd: int, holder: subprocess.Popen[str]) -> None:
    lock = Lock(fd)
    assert lock.acquire(9)
    lock.release(9)
    check = "import sys; from gateway.tunnels.quotas.lock import Lock; sys.exit(not Lock(int(sys.argv[1])).acquire(9))"
    subprocess.run([sys.executable, "-c", check, str(fd)], pass_fds=[fd], check=True)
