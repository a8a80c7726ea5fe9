"""How often an address may guess."""

from ipaddress import ip_address

import pytest

from gateway.edge.access import attempts
from gateway.edge.access.attempts import MOST_FAILURES, WINDOW_SECONDS, Attempts, source_of


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def found(clock):
    return Attempts(clock)


HERE = source_of(ip_address("192.0.2.1"))
THERE = source_of(ip_address("192.0.2.2"))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::c000:201", "192.0.2.1", False),
    ],
)
def test_source(one, other, same):
    assert (source_of(ip_address(one)) == source_of(ip_address(other))) is same


def test_an_unknown_address_is_not_counted(found):
    for _ in range(MOST_FAILURES):
        found.failed(source_of(None))
    assert found.wait_seconds(None) == 0
    assert len(found) == 0


def test_failures_of_one_address(found, clock):
    for _ in range(MOST_FAILURES):
        assert found.wait_seconds(HERE) == 0
        clock.now += 1
        found.failed(HERE)
    assert found.wait_seconds(HERE) == WINDOW_SECONDS - MOST_FAILURES + 1
    assert found.wait_seconds(THERE) == 0
    clock.now += WINDOW_SECONDS - MOST_FAILURES + 1
    assert found.wait_seconds(HERE) == 0
    assert len(found) == 0


def test_an_old_failure_is_forgotten_by_the_next(found, clock):
    for _ in range(MOST_FAILURES - 1):
        found.failed(HERE)
    clock.now += WINDOW_SECONDS
    found.failed(HERE)
    found.failed(HERE)
    assert found.wait_seconds(HERE) == 0


def test_memory_is_bounded(found, monkeypatch):
    monkeypatch.setattr(attempts, "MOST_KEPT", 100)
    for number in range(1000):
        found.failed((6, number))
    assert len(found) == 100
    for _ in range(MOST_FAILURES - 1):
        found.failed((6, 999))
    assert found.wait_seconds((6, 999)) > 0
