"""The tunnels of one slot, as quotas count them: which rows are counted, and where.

What a count is made of is in the rows, so it can be made again from them: after a worker died, when a route gets a
limit, and when the quotas themselves are new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from gateway.tunnels.quotas.clients import Address, Client
from gateway.tunnels.quotas.entries import NoRoom
from gateway.tunnels.quotas.quotas import Share
from gateway.tunnels.table.layout import LIVE, ROUTE, STATE
from gateway.tunnels.table.table import Table


class CountedRows:
    """The rows of a slot that are counted."""

    def __init__(self, share: Share, table: Table, slot: int, address_of: Callable[[str], Address | None]) -> None:
        """:param address_of: the address in the ``client`` text of a row"""
        self._share = share
        self._table = table
        self._slot = slot
        self._address_of = address_of
        self._entries: dict[int, int] = {}
        """by row"""
        self._routes: Collection[int] = frozenset()
        self._has_begun = False
        self.uncounted = 0
        """tunnels that there was no room to count"""

    def use(self, routes: Collection[int]) -> None:
        """Count the tunnels of these routes from now on, those that exist already included.

        At first that corrects what the last worker in this slot has left. Tunnels of routes that are no longer counted
        stay counted until they end.

        :param routes: their numbers
        """
        left = not self._has_begun and self._share.counted()
        self._routes = routes
        for row in self._table.rows(self._slot) if routes else ():
            self.count(row)
        if left:  # only now: until then too many are counted rather than too few
            self._share.set_counts(Counter(self._entries.values()))
        self._has_begun = True

    def hold(self, row: int, entry: int) -> None:
        """A row is for a tunnel that was counted (:meth:`Share.take_tunnel`)."""
        self._entries[row] = entry

    def count(self, row: int) -> None:
        """Count the tunnel of a row, unless it is counted or its route has no limit."""
        if row in self._entries or self._table.cells[row + ROUTE] not in self._routes:
            return
        address = self._address_of(self._table.texts(row)["client"])
        if address is None or self._table.cells[row + STATE] != LIVE:
            return
        try:
            self._entries[row] = self._share.count_tunnel(Client.of(self._table.cells[row + ROUTE], address))
        except NoRoom:
            self.uncounted += 1

    # --- what the slice calls -----------------------------------------------------------------------------------------

    def taken(self, row: int) -> None:
        """A row was taken over from another worker."""
        if self._routes:
            self.count(row)

    def released(self, row: int) -> None:
        """A row is freed: its tunnel has ended, or another worker has it, or it came to no tunnel."""
        entry = self._entries.pop(row, None)
        if entry is not None:
            self._share.give_back(entry)
