"""Tunnels as they are counted: each once, from when its row is taken until it is freed, wherever it moves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from typing import Any

import pytest

from gateway.tunnels.quotas.clients import Address, Client
from gateway.tunnels.quotas.layout import SET_ENTRIES
from gateway.tunnels.quotas.quotas import Quotas
from gateway.tunnels.quotas.rows import CountedRows
from gateway.tunnels.table.layout import COUNTED, ID, LIVE, RELEASED, ROUTE, STATE
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.table.table import Table

from .made import same_set

pytestmark = pytest.mark.either_build

LIMITED, OTHER = 3, 4


def address_of(text: str) -> Address | None:
    return None if text == "unix" else ip_address(text)


class Gateway:
    """Two workers, each with a second slot."""

    def __init__(self) -> None:
        self.table = Table.create(2, 200)
        self.quotas = Quotas.create(self.table.slots, 200)

    def worker(self, slot: int, *routes: int) -> tuple[Slice, CountedRows]:
        """A worker that starts in a slot, whatever the last one left there."""
        slice_ = Slice(self.table, slot)
        rows = slice_.counts = CountedRows(self.quotas.share(slot), self.table, slot, address_of)
        rows.use(routes)
        return slice_, rows

    def tunnels(self, address: str, route: int = LIMITED) -> int:
        client = Client.of(route, ip_address(address))
        entry = self.quotas.entries.find(client, self.quotas.entries.set_of(client))
        return 0 if entry is None else self.quotas.entries.tunnels(entry)

    def close(self) -> None:
        self.table.close()
        self.quotas.close()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with closing(Gateway()) as made:
        yield made


def opened(slice_: Slice, address: str, route: int = LIMITED, rows: CountedRows | None = None) -> int:
    row = slice_.allocate(route, 0)
    assert row is not None
    slice_.write_texts(row, **{"client": address.encode()})
    slice_.cells[row + STATE] = LIVE
    if rows is not None:
        rows.count(row)
    return row


def test_a_row_is_given_back_once_when_it_is_freed(gateway: Gateway) -> None:
    slice_, rows = gateway.worker(0, LIMITED)
    row = slice_.allocate(LIMITED, 0)
    assert row is not None
    entry = gateway.quotas.share(0).take_tunnel(Client.of(LIMITED, ip_address("192.0.2.1")), 5)
    assert entry is not None
    rows.hold(row, entry)
    assert gateway.tunnels("192.0.2.1") == 1
    slice_.release(row)
    assert gateway.tunnels("192.0.2.1") == 0
    rows.released(row)
    assert gateway.tunnels("192.0.2.1") == 0


def test_only_tunnels_of_limited_routes_with_an_address_are_counted(gateway: Gateway) -> None:
    slice_, rows = gateway.worker(0, LIMITED)
    opened(slice_, "192.0.2.1", OTHER, rows)
    opened(slice_, "unix", LIMITED, rows)
    first = opened(slice_, "192.0.2.1", LIMITED, rows)
    rows.count(first)
    assert gateway.tunnels("192.0.2.1") == 1
    assert gateway.tunnels("192.0.2.1", OTHER) == 0


def test_a_route_that_gets_a_limit_counts_the_tunnels_that_it_has(gateway: Gateway) -> None:
    slice_, rows = gateway.worker(0)
    tunnels = [opened(slice_, "192.0.2.1") for _ in range(3)]
    rows.use({LIMITED})
    assert gateway.tunnels("192.0.2.1") == 3
    rows.use({LIMITED, OTHER})
    rows.use(())
    assert gateway.tunnels("192.0.2.1") == 3
    for row in tunnels:
        slice_.release(row)
    assert gateway.tunnels("192.0.2.1") == 0


def test_the_successor_of_a_dead_worker_counts_what_it_finds(gateway: Gateway) -> None:
    slice_, rows = gateway.worker(0, LIMITED)
    gateway.worker(1, LIMITED)
    for _ in range(3):
        opened(slice_, "192.0.2.1", LIMITED, rows)
    gateway.quotas.share(0).count_tunnel(Client.of(LIMITED, ip_address("192.0.2.1")))  # a handshake
    gateway.quotas.share(0).count_tunnel(Client.of(LIMITED, ip_address("192.0.2.9")))
    gateway.quotas.share(1).count_tunnel(Client.of(LIMITED, ip_address("192.0.2.1")))
    assert gateway.tunnels("192.0.2.1") == 5
    again, _ = gateway.worker(0, LIMITED)
    assert gateway.tunnels("192.0.2.1") == 4
    assert gateway.tunnels("192.0.2.9") == 0
    for row in list(gateway.table.rows(0)):
        again.release(row)
    assert gateway.tunnels("192.0.2.1") == 1


def test_while_a_successor_counts_there_are_never_too_few(gateway: Gateway) -> None:
    slice_, rows = gateway.worker(0, LIMITED)
    for _ in range(3):
        opened(slice_, "192.0.2.1", LIMITED, rows)
    seen = []

    def spying(text: str) -> Address | None:
        seen.append(gateway.tunnels("192.0.2.1"))
        return address_of(text)

    CountedRows(gateway.quotas.share(0), gateway.table, 0, spying).use({LIMITED})
    assert min(seen) >= 3
    assert gateway.tunnels("192.0.2.1") == 3


def test_without_limits_the_successor_forgets_what_was_counted(gateway: Gateway) -> None:
    slice_, rows = gateway.worker(0, LIMITED)
    opened(slice_, "192.0.2.1", LIMITED, rows)
    gateway.worker(0)
    assert gateway.tunnels("192.0.2.1") == 0


def test_a_tunnel_that_is_handed_over_is_counted_throughout(gateway: Gateway) -> None:
    old, rows = gateway.worker(0, LIMITED)
    row = opened(old, "192.0.2.1", LIMITED, rows)
    new, _ = gateway.worker(2, LIMITED)
    old.cells[row + STATE] = RELEASED
    received = new.receive(*gateway.table.copy_of(row))
    assert received is not None
    new.cells[received + STATE] = LIVE
    new.take(received, row)
    assert gateway.tunnels("192.0.2.1") == 2  # rather twice than not at all
    old.release(row)
    assert gateway.tunnels("192.0.2.1") == 1
    new.release(received)
    assert gateway.tunnels("192.0.2.1") == 0


def test_a_tunnel_that_ends_before_the_old_worker_forgets_it_is_given_back_once(gateway: Gateway) -> None:
    old, rows = gateway.worker(0, LIMITED)
    row = opened(old, "192.0.2.1", LIMITED, rows)
    new, _ = gateway.worker(2, LIMITED)
    old.cells[row + STATE] = RELEASED
    received = new.receive(*gateway.table.copy_of(row))
    assert received is not None
    new.cells[received + STATE] = LIVE
    new.take(received, row)
    new.release(received)
    assert new.cells[received + STATE] == COUNTED
    assert gateway.tunnels("192.0.2.1") == 1
    old.release(row)
    new.forget_taken()
    assert gateway.tunnels("192.0.2.1") == 0
    assert new.rows_in_use == 0


def test_a_row_that_could_not_be_taken_over_stays_with_the_old_worker(gateway: Gateway) -> None:
    old, rows = gateway.worker(0, LIMITED)
    row = opened(old, "192.0.2.1", LIMITED, rows)
    new, _ = gateway.worker(2, LIMITED)
    received = new.receive(*gateway.table.copy_of(row))
    assert received is not None
    new.release(received)
    assert gateway.tunnels("192.0.2.1") == 1
    gateway.quotas.clear(2)
    assert gateway.tunnels("192.0.2.1") == 1


def test_what_there_is_no_room_for_is_said(gateway: Gateway) -> None:
    clients = same_set(gateway.quotas, SET_ENTRIES + 1, LIMITED)
    slice_, rows = gateway.worker(0, LIMITED)
    for each in clients:
        opened(slice_, str(each), LIMITED, rows)
    assert rows.uncounted == 1
    for row in list(gateway.table.rows(0)):
        slice_.release(row)
    assert not any(gateway.tunnels(str(each)) for each in clients)


def test_a_row_that_makes_no_sense_costs_the_others_nothing(gateway: Gateway, caplog: Any) -> None:
    slice_, rows = gateway.worker(0)
    odd, good = opened(slice_, "192.0.2.1"), opened(slice_, "192.0.2.2")
    slice_.write_texts(odd, **{"client": b"\xff\xfe nobody"})
    slice_.cells[odd + ID] = -1
    assert slice_.cells[odd + ROUTE] == LIMITED

    def parsed(text: str) -> Address | None:
        return address_of(text) if text.startswith("192") else None

    rows._address_of = parsed
    rows.use({LIMITED})
    assert gateway.tunnels("192.0.2.2") == 1
    slice_.release(odd)
    slice_.release(good)
    assert gateway.tunnels("192.0.2.2") == 0
