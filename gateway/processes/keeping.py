"""What the service manager keeps for a gateway, so that a restarted supervisor can resume it.

The manager keeps the table, the quotas, a record of everything that is in neither (``record.py``), the listening
sockets, the admin API's socket, the connections of tunnels (``journal.py``), and a *lifeline*: the reading end of a
pipe. Every process of the gateway holds the writing end, and no other process does. Until the pipe is at its end, some
process may still be serving the tunnels.

All names begin with the gateway's own number, which identifies stale descriptors whose removal was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence

from gateway.config.address import Address
from gateway.processes import record
from gateway.processes.inheritance import Inheritance, InheritedStore
from gateway.processes.journal import Journal
from gateway.processes.manager_store import ManagerStore
from gateway.tunnels.moving.adoption import Connections
from gateway.tunnels.moving.mirrors import Mirrors
from gateway.tunnels.table.layout import H_STARTED_UNIX_NS
from gateway.tunnels.table.table import Table

SEND_SECONDS = 5.0
"""How long the manager has to accept descriptors before workers are started, and removals before the exit."""

SEGMENTS = 2
"""Minimum number of segments for connections: the second is needed while the first is rewritten."""

OTHERS = 7
"""Table, quotas, record, lifeline and the admin API's socket; a second lifeline while one supervisor succeeds another,
and a second table while an upgrade changes its layout."""

log = logging.getLogger("gateway")


def prefix_of(table: Table) -> str:
    """Return the prefix of all names of the gateway that owns a table."""
    return f"gateway-{table.cells[H_STARTED_UNIX_NS]:x}-"


def number_of(table: int) -> int:
    """Return a table's inode, which identifies it among tables of the same gateway. :param table: a descriptor"""
    return os.fstat(table).st_ino


def _sockets(sockets: Mapping[Address, Sequence[socket.socket]]) -> dict[str, list[socket.socket]]:
    """Return the sockets to keep, by address. A unix socket is kept once: its descriptors are all duplicates."""
    return {str(address): list(each if address.path is None else each[:1]) for address, each in sockets.items()}


def least(listeners: Mapping[Address, Sequence[socket.socket]]) -> int:
    """Return how many descriptors the manager must keep for a gateway to be resumable."""
    return OTHERS + SEGMENTS + sum(len(each) for each in _sockets(listeners).values())


class Keeping:
    """The supervisor's side of it. Failures are logged, not raised, unless a method says otherwise."""

    def __init__(self, store: ManagerStore, mirrors: Mirrors, record_fd: int, lifeline: int, serial: int) -> None:
        """
        :param mirrors: knows all tables
        :param record_fd: a descriptor that this object owns, like ``lifeline``
        :param lifeline: the writing end
        :param serial: the last number used in a name
        """
        self._store = store
        self._mirrors = mirrors
        self._record = record_fd
        self._prefix = prefix_of(mirrors.table)
        self._serial = serial
        self._numbers: dict[str, list[int]] = {}
        """of sockets, by address; the admin API's socket is under the empty string"""
        self.gave_up = False
        """the manager keeps nothing; stop trying"""
        self._table_missing = False
        """the manager does not have all tables"""
        self._lifeline_name = ""
        self.lifeline = lifeline
        self.journal = Journal(store, asyncio.get_running_loop(), lambda: self._name("tunnels"), self._lost)

    @classmethod
    def begin(cls, store: ManagerStore, mirrors: Mirrors) -> Keeping:
        """Start keeping a new gateway. :raises OSError: there are no descriptors left"""
        made = cls(store, mirrors, record.create(), -1, 0)
        made._keep_tables()
        store.put(f"{made._prefix}record", made._record)
        made._open_lifeline()
        return made

    @classmethod
    def resume(cls, store: ManagerStore, mirrors: Mirrors, record_fd: int, numbers: Mapping[str, list[int]]) -> Keeping:
        """Go on keeping the gateway of a supervisor that died. Call :meth:`replace_tunnels` next.

        :param numbers: of the sockets that are stored, by address
        :raises OSError: there are no descriptors left
        """
        serials = [name.rpartition("-")[2] for name in store.names if "-table-" not in name]
        made = cls(store, mirrors, record_fd, -1, max((int(each) for each in serials if each.isdecimal()), default=0))
        made._numbers.update(numbers)
        made._keep_tables()
        made._open_lifeline()
        return made

    @classmethod
    def inherit(
        cls, store: ManagerStore, mirrors: Mirrors, left: InheritedStore, tunnels: Mapping[int, Connections]
    ) -> Keeping:
        """Go on after an upgrade. :param tunnels: those in the supervisor's own store"""
        made = cls(store, mirrors, left.record, left.lifeline, left.serial)
        made._numbers.update(left.sockets)
        made._keep_tables()
        for name, fd, ids, ended in left.segments:
            alive = [(tunnel, tunnels[tunnel]) for tunnel in ids if tunnel in tunnels]
            made.journal.restore(name, fd, alive, ended + len(ids) - len(alive))
        in_store = {tunnel for _, _, ids, _ in left.segments for tunnel in ids}
        made.journal.keep((tunnel, each) for tunnel, each in tunnels.items() if tunnel not in in_store)
        return made

    @property
    def settled(self) -> bool:
        """Whether everything has been sent to the manager."""
        return self._store.settled

    def leave(self) -> InheritedStore:
        """Return the state for :meth:`inherit`; call only when :attr:`settled`."""
        return InheritedStore(
            record=self._record,
            lifeline=self.lifeline,
            serial=self._serial,
            names=sorted(self._store.names),
            sockets=self._numbers,
            segments=[
                (segment.name, segment.sock.fileno(), list(segment.tunnels), segment.ended)
                for segment in self.journal.segments
            ],
        )

    # --- what is kept ------------------------------------------------------------------------------------------------

    def keep_sockets(self, admin: socket.socket, listeners: Mapping[Address, Sequence[socket.socket]]) -> None:
        """Have the manager keep exactly these sockets."""
        wanted = {**_sockets(listeners), "": [admin]}
        for address in self._numbers.keys() - wanted.keys():
            self._forget_sockets(address)
        for address, sockets in wanted.items():
            if address not in self._numbers and self._store.room < len(sockets) + SEGMENTS:
                log.error(
                    "the service manager has no room for the sockets of %s: they would be lost if the supervisor died;"
                    " raise FileDescriptorStoreMax=",
                    address or "the admin API",
                )
            elif address not in self._numbers:
                self._numbers[address] = []
                for each in sockets:
                    self._put("listen" if address else "admin", each.fileno(), self._numbers[address])

    def keep_quotas(self, fd: int, are_new: bool) -> None:
        """Have the manager keep the quotas. :param are_new: it does not have these yet"""
        before = self._quotas_names()
        if before and not are_new:
            return
        self._remove(before)
        if self._store.room > SEGMENTS:
            self._put("quotas", fd, [])
        else:  # what is left is for the tunnels
            log.warning(
                "the service manager has no room for the counts of clients' handshakes: they would begin anew if the"
                " supervisor died; raise FileDescriptorStoreMax="
            )

    def replace_tunnels(self, tunnels: Iterable[tuple[int, Connections]]) -> None:
        """Store exactly these tunnels' connections, and remove what else was stored for a previous supervisor."""
        ours = {
            f"{self._prefix}{kind}-{n}" for kind in ("listen", "admin") for each in self._numbers.values() for n in each
        }
        ours |= {*self._table_names(), *self._quotas_names(), f"{self._prefix}record", self._lifeline_name}
        stale = self._store.names - ours
        # Remove after adding, if there is room: a crash in between then leaves a tunnel twice rather than not at all.
        remove_first = self._store.room < SEGMENTS
        if remove_first:
            self._remove(stale)
        self.journal.open()
        self.journal.keep(tunnels)
        if not remove_first:
            self._remove(stale)

    def save(self, inheritance: Inheritance) -> bool:
        """Write the supervisor's state to the record. Descriptors are identified by the numbers in their names.

        :returns: whether it was written
        """
        if self.gave_up:
            return False
        mirrors = [(slot, number_of(fd)) for slot, fd in inheritance.mirrors]
        text = dataclasses.replace(
            inheritance,
            admin=(inheritance.admin[0], self._numbers.get("", [-1])[0]),
            listen=[(address, numbers) for address, numbers in self._numbers.items() if address],
            table=number_of(inheritance.table),
            mirrors=mirrors,
            signals=[],
            asking=[],
            running=[],
            store=None,
            quotas=-1,  # the manager has them under a name of their own
        ).text()
        try:
            record.write(self._record, text)
        except OSError as error:
            log.error("cannot save the supervisor's state: tunnels would be lost if it died: %s", error)
            self.stop_relying()
            return False
        self._remove({name for name in self._store.names if "-table-" in name} - self._table_names())
        return True

    # --- whether workers may rely on it ------------------------------------------------------------------------------

    async def rely(self, note: Callable[[], bool]) -> None:
        """Once everything has been sent to the manager, have workers wait for a new supervisor when this one dies.

        If they already do, and nothing is pending, that stays in force.

        :param note: calls :meth:`save`; not before then, since the record must name only what the manager has
        """
        if not self.settled or self._table_missing:
            self.stop_relying()
        while not await self._store.sent(SEND_SECONDS):
            log.warning("the service manager takes no descriptors: tunnels would be lost if the supervisor died now")
        if note() and not self._table_missing:
            self._mirrors.write_header("H_KEPT", 1)

    def stop_relying(self) -> None:
        """Have workers drain when the supervisor dies."""
        self._mirrors.write_header("H_KEPT", 0)

    async def clear(self) -> None:
        """Have everything removed: the gateway is exiting."""
        self.gave_up = True
        self.journal.close()
        self.stop_relying()
        with contextlib.suppress(OSError):
            record.write(self._record, b"")  # in case the manager does not get the removals
        self._remove(self._store.names)
        if not await self._store.sent(SEND_SECONDS):
            log.warning("could not ask the service manager to drop the gateway's descriptors")

    def close(self) -> None:
        """Close this process's descriptors. What the manager keeps stays there."""
        self.journal.close()
        self._store.close()
        os.close(self._record)
        os.close(self.lifeline)

    def _lost(self) -> None:
        """Give up: the manager keeps less than it offered."""
        if not self.gave_up:
            log.error(
                "the service manager does not keep the gateway's descriptors: tunnels would be lost if the supervisor"
                " died; FileDescriptorStoreMax= may be too small"
            )
            self.gave_up = True
            self.stop_relying()
            self.journal.close()
            self._remove(self._store.names)

    def _table_names(self) -> set[str]:
        return {f"{self._prefix}table-{number_of(fd)}" for fd in self._mirrors.tables()}

    def _quotas_names(self) -> set[str]:
        return {name for name in self._store.names if "-quotas-" in name}

    def _keep_tables(self) -> None:
        for fd in self._mirrors.tables():
            name = f"{self._prefix}table-{number_of(fd)}"
            if name not in self._store.names and self._store.room < 1:
                log.error(
                    "the service manager has no room for another table: tunnels would be lost if the supervisor died;"
                    " raise FileDescriptorStoreMax="
                )
                self._table_missing = True
            elif name not in self._store.names:
                self._store.put(name, fd)

    def _open_lifeline(self) -> None:
        reading, self.lifeline = os.pipe()
        self._lifeline_name = self._name("lifeline")
        self._store.put(self._lifeline_name, reading)
        os.close(reading)

    def _put(self, kind: str, fd: int, numbers: list[int]) -> None:
        name = self._name(kind)
        try:
            self._store.put(name, fd)
        except OSError as error:
            log.error("cannot pass a socket to the service manager: %s", error)
        else:
            numbers.append(self._serial)

    def _forget_sockets(self, address: str) -> None:
        kind = "listen" if address else "admin"
        self._remove(f"{self._prefix}{kind}-{number}" for number in self._numbers.pop(address, []))

    def _remove(self, names: Iterable[str]) -> None:
        for name in sorted(names):
            self._store.remove(name)

    def _name(self, kind: str) -> str:
        self._serial += 1
        return f"{self._prefix}{kind}-{self._serial}"
