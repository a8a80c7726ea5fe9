"""Quotas for tests: clients, shares, and stores that are cut short or interrupted."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from gateway.tunnels.quotas.clients import Client
from gateway.tunnels.quotas.entries import Entries
from gateway.tunnels.quotas.layout import H_SECRET, SECRET_BYTES
from gateway.tunnels.quotas.quotas import Quotas, Share


class NoLock:
    """Stands for a lock; notes who has it."""

    def __init__(self, is_free: bool = True) -> None:
        self.is_free = is_free
        self.held: list[int] = []

    def acquire(self, at: int) -> bool:
        if self.is_free:
            assert not self.held
            self.held.append(at)
        return self.is_free

    def release(self, at: int) -> None:
        assert self.held.pop() == at


class Killed(BaseException):
    """The process was killed."""


class Stores:
    """Shared memory as a process sees it that is interrupted before one of its stores."""

    def __init__(self, view: memoryview[int], before: Callable[[], None]) -> None:
        self._view = view
        self._before = before

    def __getitem__(self, at: Any) -> Any:
        return self._view[at]

    def __setitem__(self, at: int, value: int) -> None:
        self._before()
        self._view[at] = value


def interrupted(quotas: Quotas, slot: int, at: int, action: Callable[[], None], lock: Any = None) -> Share:
    """A share whose process calls ``action`` right before its store number ``at``, from 0."""
    stores = 0

    def before() -> None:
        nonlocal stores
        stores += 1
        if stores == at + 1:
            action()

    share = Share(quotas, slot, lock or NoLock())
    cells: Any = Stores(quotas.cells, before)
    counts: Any = Stores(quotas.counts, before)
    secret = quotas.cells[H_SECRET : H_SECRET + SECRET_BYTES // 8].tobytes()
    share._entries = Entries(cells, counts, quotas.places, secret)
    share._counts = counts
    return share


def client(number: int, route: int = 0) -> Client:
    return Client.of(route, ip_address(0x0A000000 + number))


def same_set(quotas: Quotas, count: int, route: int = 0) -> list[Client]:
    """Clients of one set, which nobody could find without the secret."""
    found: list[Client] = []
    number = 0
    wanted = quotas.entries.set_of(client(0, route))
    while len(found) < count:
        each = client(number, route)
        if quotas.entries.set_of(each) == wanted:
            found.append(each)
        number += 1
    return found
