"""Quotas: exact over all workers, right after a kill at any point, of fixed size."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.tunnels.quotas.bucket import NS, Rate, take
from gateway.tunnels.quotas.clients import Client
from gateway.tunnels.quotas.entries import NoRoom
from gateway.tunnels.quotas.layout import (
    CELL_BYTES,
    H_VERSION,
    HANDSHAKES,
    LEAST_ENTRIES,
    RECENT,
    SET_ENTRIES,
    TUNNELS,
    Places,
    entries_for,
)
from gateway.tunnels.quotas.quotas import Quotas, Share, Unusable

from .made import Killed, NoLock, client, interrupted, same_set

pytestmark = pytest.mark.either_build

SLOTS = 4
RATE = Rate.of(5, 20)


@pytest.fixture
def quotas() -> Iterator[Quotas]:
    with closing(Quotas.create(SLOTS, 1000)) as made:
        yield made


def tunnels(quotas: Quotas, of: Client) -> int:
    entry = quotas.entries.find(of, quotas.entries.set_of(of))
    return 0 if entry is None else quotas.entries.tunnels(entry)


# --- limits -----------------------------------------------------------------------------------------------------------


def test_the_burst_is_shared_by_all_workers(quotas: Quotas) -> None:
    shares = [quotas.share(slot) for slot in range(SLOTS)]
    now = 5000 * NS
    let_in = [shares[n % SLOTS].take_handshake(client(1), RATE, now) == 0 for n in range(60)]
    assert let_in == [True] * 20 + [False] * 40
    assert shares[3].take_handshake(client(1), RATE, now + NS // 5) == 0
    assert shares[2].take_handshake(client(1), RATE, now + NS // 5) == NS // 5
    assert shares[0].take_handshake(client(2), RATE, now) == 0  # another address


def test_the_tunnels_of_all_workers_are_one_number(quotas: Quotas) -> None:
    shares = [quotas.share(slot) for slot in range(SLOTS)]
    entries = [shares[n % SLOTS].take_tunnel(client(1), 50) for n in range(60)]
    assert entries[50:] == [None] * 10
    assert tunnels(quotas, client(1)) == 50
    shares[1].give_back(entries[0] or 0)
    assert shares[2].take_tunnel(client(1), 50) is not None
    assert shares[3].take_tunnel(client(1), 50) is None
    assert shares[3].take_tunnel(client(1, route=1), 50) is not None  # another route


def test_a_count_is_never_less_than_none(quotas: Quotas) -> None:
    """What should not happen must not keep a tunnel from ending."""
    share = quotas.share(0)
    entry = share.count_tunnel(client(1))
    share.give_back(entry)
    share.give_back(entry)
    assert tunnels(quotas, client(1)) == 0


OPERATIONS = st.lists(
    st.tuples(st.integers(0, SLOTS - 1), st.sampled_from(["handshake", "take", "give back"]), st.integers(0, 3)),
    max_size=150,
)


@settings(max_examples=30, deadline=None)
@given(OPERATIONS, st.integers(1, 5))
def test_any_order_of_what_workers_do(operations: list[tuple[int, str, int]], most: int) -> None:
    """As one process would count."""
    with closing(Quotas.create(SLOTS, 10)) as quotas:
        shares = [quotas.share(slot) for slot in range(SLOTS)]
        open_tunnels: dict[int, list[tuple[int, int]]] = {number: [] for number in range(4)}
        buckets: Counter[int] = Counter()
        now = NS
        for slot, what, number in operations:
            now += NS // 50
            if what == "handshake":
                buckets[number], expected = take(buckets[number], now, RATE)
                assert shares[slot].take_handshake(client(number), RATE, now) == expected
            elif what == "take":
                entry = shares[slot].take_tunnel(client(number), most)
                assert (entry is not None) == (len(open_tunnels[number]) < most)
                if entry is not None:
                    open_tunnels[number].append((slot, entry))
            elif open_tunnels[number]:
                owner, entry = open_tunnels[number].pop()
                shares[owner].give_back(entry)
            assert tunnels(quotas, client(number)) == len(open_tunnels[number])


# --- kills, and locks that could not be had ---------------------------------------------------------------------------


def scene() -> tuple[Quotas, list[Client], Client]:
    """A set that is full: clients with a tunnel of another worker, and one that owes least and can be forgotten."""
    quotas = Quotas.create(SLOTS, 10)
    clients = same_set(quotas, SET_ENTRIES + 1)
    other = quotas.share(1)
    for each in clients[1:-1]:
        other.count_tunnel(each)
        other.take_handshake(each, RATE, NS)
    other.take_handshake(clients[0], RATE, NS)
    return quotas, clients, clients[-1]


@pytest.mark.parametrize("what", ["handshake", "tunnel", "refused tunnel", "give back"])
def test_killed_between_any_two_stores(what: str) -> None:
    """Each entry is still of one client, with that client's bucket and its tunnels, or of nobody."""
    quotas, clients, newcomer = scene()
    saved = os.pread(quotas.fd, quotas.places.size_bytes, 0)
    with closing(quotas):
        for at in range(20):
            os.pwrite(quotas.fd, saved, 0)
            if _killed_at(at, what, quotas, clients, newcomer):
                assert at > 1
                return
    pytest.fail("it stores for ever")


def _killed_at(at: int, what: str, quotas: Quotas, clients: list[Client], newcomer: Client) -> bool:
    """:returns: whether it had finished before that store"""
    finished = False

    def kill() -> None:
        raise Killed

    share = interrupted(quotas, 0, at, kill)
    with suppress(Killed):
        if what == "handshake":
            share.take_handshake(newcomer, RATE, 2 * NS)
        elif what == "give back":
            share.give_back(share.count_tunnel(newcomer))
        else:
            share.take_tunnel(newcomer, 0 if what == "refused tunnel" else 5)
        finished = True
    entries = quotas.entries
    first = entries.set_of(newcomer) * SET_ENTRIES
    left = Counter(each for entry in range(first, first + SET_ENTRIES) if (each := entries.client(entry)) is not None)
    assert set(left.values()) == {1}
    assert not left.keys() - set(clients)
    for each in clients[1:-1]:  # they had tunnels: nothing of theirs has changed
        entry = entries.find(each, entries.set_of(each))
        assert entry is not None
        assert entries.tunnels(entry) == 1
        assert entries.bucket(entry) == NS + RATE.cost_ns
    entry = entries.find(newcomer, entries.set_of(newcomer))
    if entry is not None:
        assert entries.bucket(entry) in (0, 2 * NS + RATE.cost_ns)  # not that of the client before
    quotas.share(0).set_counts(Counter())  # what its successor does, which finds no tunnel
    assert tunnels(quotas, newcomer) == 0
    assert quotas.share(2).take_tunnel(newcomer, 1) is not None
    return finished


def test_without_the_lock_a_client_never_gets_more_tunnels_than_it_may() -> None:
    """Two workers at the same moment, in every order of their stores: what one does falls between two of the other."""
    for at in range(8):
        with closing(Quotas.create(SLOTS, 10)) as quotas:
            for slot in (0, 1):
                quotas.share(slot).count_tunnel(client(1))
            second: list[int | None] = []

            def meanwhile(quotas: Quotas = quotas, second: list[int | None] = second) -> None:
                second.append(Share(quotas, 1, _free()).take_tunnel(client(1), 3))

            first = interrupted(quotas, 0, at, meanwhile, NoLock(is_free=False)).take_tunnel(client(1), 3)
            given_out = [each for each in (first, *second) if each is not None]
            assert tunnels(quotas, client(1)) == 2 + len(given_out) <= 3
            if not second:
                assert at
                return
    pytest.fail("it stores for ever")


def _free() -> Any:
    return NoLock()


# --- room -------------------------------------------------------------------------------------------------------------


def test_a_hundred_thousand_addresses_take_no_more_memory_than_a_few(quotas: Quotas) -> None:
    size = os.fstat(quotas.fd).st_size
    share = quotas.share(0)
    for number in range(100_000):
        share.take_handshake(client(number), RATE, NS)
    assert os.fstat(quotas.fd).st_size == size
    assert os.fstat(quotas.fd).st_blocks * 512 <= size < 6 << 20
    # Nearly all are remembered.
    known = sum(share.take_handshake(client(number), Rate.of(5, 1), NS) > 0 for number in range(0, 100_000, 100))
    assert known > 990


def test_the_client_that_owes_least_is_forgotten(quotas: Quotas) -> None:
    clients = same_set(quotas, SET_ENTRIES + 1)
    share = quotas.share(0)
    for times, each in enumerate(clients[:-1], 1):
        for _ in range(min(times, 20)):
            assert share.take_handshake(each, RATE, NS) == 0
    share.count_tunnel(clients[0])  # it owes least, but is here
    assert share.take_handshake(clients[-1], RATE, NS) == 0
    known = [quotas.entries.find(each, quotas.entries.set_of(each)) is not None for each in clients]
    assert known == [each is not clients[1] for each in clients]
    # It begins anew, in the place of the one that owes least now; nobody's tokens are another's.
    assert share.take_handshake(clients[1], RATE, NS) == 0
    assert [quotas.entries.find(each, quotas.entries.set_of(each)) for each in (clients[1], clients[-1])].count(
        None
    ) == 1


def test_no_room_is_said_and_changes_nothing(quotas: Quotas) -> None:
    clients = same_set(quotas, SET_ENTRIES + 1)
    share = quotas.share(3)
    entries = [share.count_tunnel(each) for each in clients[:-1]]
    for change in (
        lambda: share.take_tunnel(clients[-1], 5),
        lambda: share.count_tunnel(clients[-1]),
        lambda: share.take_handshake(clients[-1], RATE, NS),
    ):
        with pytest.raises(NoRoom):
            change()
    assert [tunnels(quotas, each) for each in clients] == [1] * SET_ENTRIES + [0]
    share.give_back(entries[7])
    assert share.take_tunnel(clients[-1], 5) == entries[7]


@pytest.mark.parametrize("most", [1, 1000, 65_536, 65_537, 1_048_576])
def test_there_are_twice_as_many_entries_as_tunnels(most: int) -> None:
    entries = entries_for(most)
    assert entries >= max(2 * most, LEAST_ENTRIES)
    assert entries.bit_count() == 1


# --- the memory itself ------------------------------------------------------------------------------------------------


def test_another_process_goes_on_with_them(quotas: Quotas) -> None:
    for slot in range(2):
        quotas.share(slot).count_tunnel(client(5))
    again = Quotas.inherit(os.dup(quotas.fd), SLOTS, 1000)
    assert tunnels(again, client(5)) == 2
    again.clear(1)
    assert tunnels(quotas, client(5)) == 1
    again.close()


def test_those_of_another_version_or_size_are_not_used(quotas: Quotas) -> None:
    for slots, most in ((SLOTS + 2, 1000), (SLOTS, 1_000_000)):
        with pytest.raises(Unusable, match="size"):
            Quotas.inherit(quotas.fd, slots, most)
    os.pwrite(quotas.fd, b"\x63", H_VERSION * CELL_BYTES)
    with pytest.raises(Unusable, match="version"):
        Quotas(quotas.fd)
    fd = os.memfd_create("test")
    for size, content in ((0, b""), (4096, b"")):
        os.ftruncate(fd, size)
        os.pwrite(fd, content, 0)
        with pytest.raises(Unusable):
            Quotas(fd)
    os.close(fd)


def test_a_damaged_size_is_noticed(quotas: Quotas) -> None:
    fd = os.memfd_create("test")
    os.pwrite(fd, os.pread(quotas.fd, 4096, 0), 0)
    with pytest.raises(Unusable, match="damaged"):
        Quotas(fd)
    os.close(fd)


def test_parts_do_not_overlap() -> None:
    for slots in (2, 4, 256):
        places = Places.of(slots, LEAST_ENTRIES)
        assert places.recent + slots * RECENT * 5 <= places.kinds
        assert places.kinds + LEAST_ENTRIES == places.prefixes
        assert places.buckets + LEAST_ENTRIES == places.counts // 2
        assert places.size_bytes == (places.counts + slots * LEAST_ENTRIES) * 4


# --- who was limited --------------------------------------------------------------------------------------------------


def test_limited_clients_are_remembered_latest_first(quotas: Quotas) -> None:
    for slot, number, limit in ((0, 1, TUNNELS), (1, 2, HANDSHAKES), (2, 1, TUNNELS), (0, 1, HANDSHAKES)):
        quotas.share(slot).note_limited(client(number), limit)
    found = [(each.client, each.limit, each.times) for each in quotas.limited()]
    assert found == [(client(1), HANDSHAKES, 1), (client(1), TUNNELS, 2), (client(2), HANDSHAKES, 1)]


def test_each_worker_remembers_some(quotas: Quotas) -> None:
    for number in range(100):
        quotas.share(0).note_limited(client(number), TUNNELS)
    found = quotas.limited()
    assert [each.client for each in found] == [client(number) for number in range(99, 99 - RECENT, -1)]
