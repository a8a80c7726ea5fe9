"""The quotas of one gateway, over a ``memfd`` that every process maps; a worker changes them through its share."""

from __future__ import annotations

import mmap
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from gateway.tunnels.quotas import recent
from gateway.tunnels.quotas.bucket import Rate, take
from gateway.tunnels.quotas.clients import Client
from gateway.tunnels.quotas.entries import Entries
from gateway.tunnels.quotas.layout import (
    CELL_BYTES,
    COUNT_BYTES,
    H_ENTRIES,
    H_MAGIC,
    H_SECRET,
    H_SLOTS,
    H_VERSION,
    MAGIC,
    SECRET_BYTES,
    VERSION,
    Places,
    entries_for,
)
from gateway.tunnels.quotas.lock import Lock

MAX_FOUND = 1024
T = TypeVar("T")


class Unusable(ValueError):
    """These are no quotas of this version, or of another size."""


class Quotas:
    """All quotas."""

    def __init__(self, fd: int) -> None:
        """Map existing quotas. :param fd: this object owns it. :raises Unusable: they cannot be used; it stays open"""
        size = os.fstat(fd).st_size
        header = memoryview(os.pread(fd, H_SECRET * CELL_BYTES, 0))
        if len(header) < H_SECRET * CELL_BYTES:
            raise Unusable("there is no header")
        cells = header.cast("Q")
        if (cells[H_MAGIC], cells[H_VERSION]) != (MAGIC, VERSION):
            raise Unusable("another version wrote them")
        self.fd = fd
        self.places = Places.of(cells[H_SLOTS], cells[H_ENTRIES])
        if self.places.size_bytes != size:
            raise Unusable("they are damaged")
        self._map = mmap.mmap(fd, size)
        self._bytes = memoryview(self._map)
        self.cells = self._bytes.cast("Q")
        self.counts = self._bytes.cast("I")
        secret = self.cells[H_SECRET : H_SECRET + SECRET_BYTES // CELL_BYTES].tobytes()
        self.entries = Entries(self.cells, self.counts, self.places, secret)

    @classmethod
    def create(cls, slots: int, max_tunnels: int) -> Quotas:
        """Make new ones. Pages that were never used cost no memory. :param slots: of the table"""
        entries = entries_for(max_tunnels)
        fd = os.memfd_create("gateway-quotas")
        os.ftruncate(fd, Places.of(slots, entries).size_bytes)
        for cell, value in ((H_MAGIC, MAGIC), (H_VERSION, VERSION), (H_SLOTS, slots), (H_ENTRIES, entries)):
            os.pwrite(fd, value.to_bytes(CELL_BYTES, sys.byteorder), cell * CELL_BYTES)
        os.pwrite(fd, os.urandom(SECRET_BYTES), H_SECRET * CELL_BYTES)
        return cls(fd)

    @classmethod
    def inherit(cls, fd: int, slots: int, max_tunnels: int) -> Quotas:
        """Map those of another program. :raises Unusable: they are of another version or size; ``fd`` stays open"""
        found = cls(fd)
        if (found.places.slots, found.places.entries) != (slots, entries_for(max_tunnels)):
            found.unmap()
            raise Unusable("they are of another size")
        return found

    def close(self) -> None:
        """Close the mapping and the descriptor."""
        self.unmap()
        os.close(self.fd)

    def unmap(self) -> None:
        """Close the mapping only."""
        for view in (self.cells, self.counts, self._bytes):
            view.release()
        self._map.close()

    def share(self, slot: int) -> Share:
        """The part of the worker in a slot."""
        return Share(self, slot, Lock(self.fd))

    def clear(self, slot: int) -> None:
        """No worker runs in a slot any more: it has no tunnels."""
        self.share(slot).set_counts(Counter())

    def limited(self) -> list[recent.Limited]:
        """The clients that were limited most recently, the latest first."""
        return recent.remembered(self.cells, self.places)


class Share:
    """What one worker may change: its column of counts, its recently limited clients, and buckets under the lock."""

    def __init__(self, quotas: Quotas, slot: int, lock: Lock) -> None:
        self.lock = lock
        self._quotas = quotas
        self._entries = quotas.entries
        self._counts = quotas.counts
        self._slot = slot
        self._found: dict[Client, tuple[int, int]] = {}
        """sets and entries of clients that were here lately; the entry may be another client's by now"""
        self._column = quotas.places.counts + slot * quotas.places.entries

    def take_handshake(self, client: Client, rate: Rate, now: int) -> int:
        """Take a token from a client's bucket.

        :param now: ``CLOCK_MONOTONIC`` in nanoseconds
        :returns: 0; if there is no token, nothing is taken, and this is how many nanoseconds later there will be one
        :raises NoRoom: the client has no entry, and none can be made
        """
        return self._locked(client, self._take_handshake, rate, now)

    def _take_handshake(self, entry: int, rate: Rate, now: int) -> int:
        before = self._entries.bucket(entry)
        full_ns, wait_ns = take(before, now, rate)
        if full_ns != before:
            self._entries.set_bucket(entry, full_ns)
        return wait_ns

    def take_tunnel(self, client: Client, most: int) -> int | None:
        """Count a tunnel.

        :param most: tunnels that the client may have
        :returns: its entry, for :meth:`give_back`; None if it has that many, and this one was not counted
        :raises NoRoom: as above
        """
        return self._locked(client, self._take_tunnel, most)

    def _take_tunnel(self, entry: int, most: int) -> int | None:
        # Counted first: of two workers that do this at once, for want of the lock, at least one sees both.
        self._counts[self._column + entry] += 1
        if self._entries.tunnels(entry) > most:
            self._counts[self._column + entry] -= 1
            return None
        return entry

    def count_tunnel(self, client: Client) -> int:
        """Count a tunnel that exists, however many there are. :returns: as above. :raises NoRoom: as above"""
        return self._locked(client, self._count_tunnel)

    def _count_tunnel(self, entry: int) -> int:
        self._counts[self._column + entry] += 1
        return entry

    def give_back(self, entry: int) -> None:
        """A tunnel that was counted has ended. Needs no lock: the column is this worker's own."""
        if self._counts[self._column + entry]:  # an end must not fail, whatever happened to the count
            self._counts[self._column + entry] -= 1

    def counted(self) -> dict[int, int]:
        """The counts of this slot that are not 0, by entry."""
        # Read through the descriptor: reading a page through the mapping allocates it.
        entries = self._quotas.places.entries
        column = os.pread(self._quotas.fd, entries * COUNT_BYTES, self._column * COUNT_BYTES)
        if column == bytes(len(column)):  # as usual; finding that out byte by byte takes 100 times as long
            return {}
        return {entry: count for entry, count in enumerate(memoryview(column).cast("I").tolist()) if count}

    def set_counts(self, counts: Counter[int]) -> None:
        """Make the counts of this slot these, by entry."""
        for entry in {*self.counted(), *counts}:
            self._counts[self._column + entry] = counts[entry]

    def note_limited(self, client: Client, limit: int) -> None:
        """Remember that a client was limited. :param limit: index into ``LIMITS``"""
        recent.note(self._quotas.cells, self._quotas.places, self._slot, client, limit, time.time_ns())

    def _locked(self, client: Client, change: Callable[..., T], *arguments: Any) -> T:
        """Make a change to a client's entry. :param change: called with the entry and the arguments"""
        found = self._found.get(client)
        number = self._entries.set_of(client) if found is None else found[0]
        locked = self.lock.acquire(number)
        try:
            if found is not None and self._entries.is_of(found[1], client):
                entry = found[1]
            else:
                entry = self._entries.claim(client, number)
                if len(self._found) >= MAX_FOUND:
                    self._found.clear()
                self._found[client] = number, entry
            return change(entry, *arguments)
        finally:
            if locked:
                self.lock.release(number)
