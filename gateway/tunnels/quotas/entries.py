"""Entries of quotas: finding the one of a client, and making one.

A process may be killed between any two stores, and must leave nothing that is wrong: each store here leaves quotas in
which every entry is of one client, with that client's bucket, or of none.
"""

from __future__ import annotations

from gateway.tunnels.quotas.clients import Client
from gateway.tunnels.quotas.layout import SET_ENTRIES, Places


class NoRoom(Exception):
    """Every entry of a client's set has tunnels."""


class Entries:
    """All entries."""

    def __init__(self, cells: memoryview[int], counts: memoryview[int], places: Places, secret: bytes) -> None:
        """
        :param cells: the whole ``memfd`` as cells of eight bytes. ``counts``: the same in counts of four
        :param secret: for hashes
        """
        self._cells = cells
        self._counts = counts
        self._places = places
        self._secret = secret
        self._sets = places.entries // SET_ENTRIES

    def set_of(self, client: Client) -> int:
        """The number of the set that a client belongs to."""
        return client.hashed(self._secret) % self._sets

    def find(self, client: Client, number: int) -> int | None:
        """The entry of a client; None if it has none. :param number: of its set"""
        first = number * SET_ENTRIES
        at = self._places.prefixes + first
        prefixes = self._cells[at : at + SET_ENTRIES].tolist()
        at = -1
        try:
            while True:
                at = prefixes.index(client.prefix, at + 1)
                if self._cells[self._places.kinds + first + at] == client.kind:
                    return first + at
        except ValueError:
            return None

    def is_of(self, entry: int, client: Client) -> bool:
        """Whether an entry is of a client."""
        places = self._places
        return (
            self._cells[places.prefixes + entry] == client.prefix and self._cells[places.kinds + entry] == client.kind
        )

    def claim(self, client: Client, number: int) -> int:
        """The entry of a client, which is made if there is none. The set must be locked.

        :raises NoRoom: there is none, and no room for it
        """
        entry = self.find(client, number)
        if entry is None:
            entry = self._vacant(number)
            self._make(entry, client)
        return entry

    def tunnels(self, entry: int) -> int:
        """How many tunnels the client of an entry has, over all workers."""
        places = self._places
        counts: list[int] = self._counts[places.counts + entry :: places.entries].tolist()
        return sum(counts)

    def bucket(self, entry: int) -> int:
        """When the bucket of an entry is full again."""
        return self._cells[self._places.buckets + entry]

    def set_bucket(self, entry: int, full_ns: int) -> None:
        """Change the bucket of an entry. The set must be locked."""
        self._cells[self._places.buckets + entry] = full_ns

    def client(self, entry: int) -> Client | None:
        """Whose entry it is; None for nobody's."""
        kind = self._cells[self._places.kinds + entry]
        return Client(kind, self._cells[self._places.prefixes + entry]) if kind else None

    def _vacant(self, number: int) -> int:
        """An entry that can be reused. :raises NoRoom: there is none

        A client without tunnels whose bucket is full has nothing to be remembered for. If all have, the one that owes
        least is forgotten.
        """
        first = number * SET_ENTRIES
        at = self._places.kinds + first
        kinds = self._cells[at : at + SET_ENTRIES].tolist()
        if 0 in kinds:
            return first + kinds.index(0)
        at = self._places.buckets + first
        buckets = self._cells[at : at + SET_ENTRIES].tolist()
        for each in sorted(range(SET_ENTRIES), key=buckets.__getitem__):
            if not self.tunnels(first + each):
                return first + each
        raise NoRoom

    def _make(self, entry: int, client: Client) -> None:
        cells, places = self._cells, self._places
        cells[places.kinds + entry] = 0
        cells[places.prefixes + entry] = client.prefix
        cells[places.buckets + entry] = 0
        cells[places.kinds + entry] = client.kind
