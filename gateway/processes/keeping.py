"""What the service manager keeps of a gateway, so that a supervisor that is started anew can carry it on.

Kept are the table, a record of all that is not in it (``record.py``), the listening sockets and that of the admin API,
the connections of tunnels (``journal.py``), and a *lifeline*: the reading end of a pipe whose other end every process
of the gateway holds, and nobody else. As long as it has not ended, somebody may still serve the tunnels.

Names begin with the gateway's own number, so that what was to be removed and is still there is told from the rest.
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
"""For the manager to take what it is given before workers are started, and what it is to forget before the end."""

SEGMENTS = 2
"""For connections, at least: the second while the first is sent again."""

OTHERS = 6
"""Table, record, lifeline and the admin API's socket; a lifeline more while one supervisor comes after another, and a
table more while an upgrade changes its layout."""

log = logging.getLogger("gateway")


def prefix_of(table: Table) -> str:
    """What all names begin with that belong to the gateway of a table."""
    return f"gateway-{table.cells[H_STARTED_UNIX_NS]:x}-"


def number_of(table: int) -> int:
    """What tells a table from others of the same gateway: the number of its inode. :param table: a descriptor"""
    return os.fstat(table).st_ino


def _sockets(sockets: Mapping[Address, Sequence[socket.socket]]) -> dict[str, list[socket.socket]]:
    """The sockets to be kept of each address: those of a unix socket are one, however many descriptors there are."""
    return {str(address): list(each if address.path is None else each[:1]) for address, each in sockets.items()}


def least(listeners: Mapping[Address, Sequence[socket.socket]]) -> int:
    """How many descriptors the manager has to keep for anything to be carried on."""
    return OTHERS + SEGMENTS + sum(len(each) for each in _sockets(listeners).values())


class Keeping:
    """The supervisor's part in that. Nothing here fails: what cannot be kept is told to the log."""

    def __init__(self, store: ManagerStore, mirrors: Mirrors, record_fd: int, lifeline: int, serial: int) -> None:
        """
        :param mirrors: knows all tables
        :param record_fd: a descriptor that this object owns, as it does ``lifeline``
        :param lifeline: the writing end
        :param serial: the last number that is in a name
        """
        self._store = store
        self._mirrors = mirrors
        self._record = record_fd
        self._prefix = prefix_of(mirrors.table)
        self._serial = serial
        self._numbers: dict[str, list[int]] = {}
        """of sockets, by address; of the admin API's by the empty text"""
        self.gave_up = False
        """the manager keeps nothing"""
        self._homeless = False
        """the manager has not all tables"""
        self._lifeline_name = ""
        self.lifeline = lifeline
        self.journal = Journal(store, asyncio.get_running_loop(), lambda: self._name("tunnels"), self._lost)

    @classmethod
    def begin(cls, store: ManagerStore, mirrors: Mirrors) -> Keeping:
        """Keep a gateway that begins. :raises OSError: there are no descriptors left"""
        made = cls(store, mirrors, record.create(), -1, 0)
        made._keep_tables()
        store.put(f"{made._prefix}record", made._record)
        made._cast_lifeline()
        return made

    @classmethod
    def resume(cls, store: ManagerStore, mirrors: Mirrors, record_fd: int, numbers: Mapping[str, list[int]]) -> Keeping:
        """Go on for a supervisor that died. :meth:`replace_tunnels` is to follow.

        :param numbers: of sockets that are kept, by address
        :raises OSError: there are no descriptors left
        """
        serials = [name.rpartition("-")[2] for name in store.names if "-table-" not in name]
        made = cls(store, mirrors, record_fd, -1, max((int(each) for each in serials if each.isdecimal()), default=0))
        made._numbers.update(numbers)
        made._keep_tables()
        made._cast_lifeline()
        return made

    @classmethod
    def inherit(
        cls, store: ManagerStore, mirrors: Mirrors, left: InheritedStore, tunnels: Mapping[int, Connections]
    ) -> Keeping:
        """Go on for the program that this process was before. :param tunnels: that are in its own store"""
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
        """Whether the manager can know everything."""
        return self._store.settled

    def leave(self) -> InheritedStore:
        """For :meth:`inherit`, once :attr:`settled`."""
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
        """Have just these sockets kept."""
        wanted = {**_sockets(listeners), "": [admin]}
        for address in self._numbers.keys() - wanted.keys():
            self._forget_sockets(address)
        for address, sockets in wanted.items():
            if address not in self._numbers and self._store.room < len(sockets) + SEGMENTS:
                log.error(
                    "the service manager has no room for the sockets of %s: they would not outlive this process"
                    " (FileDescriptorStoreMax=)",
                    address or "the admin API",
                )
            elif address not in self._numbers:
                self._numbers[address] = []
                for each in sockets:
                    self._put("listen" if address else "admin", each.fileno(), self._numbers[address])

    def replace_tunnels(self, tunnels: Iterable[tuple[int, Connections]]) -> None:
        """Have the connections of just these tunnels kept, and nothing else that was kept for a supervisor before."""
        ours = {
            f"{self._prefix}{kind}-{n}" for kind in ("listen", "admin") for each in self._numbers.values() for n in each
        }
        ours |= {*self._table_names(), f"{self._prefix}record", self._lifeline_name}
        stale = self._store.names - ours
        # Behind the new ones, so that whoever dies in between leaves a tunnel twice rather than not at all.
        in_front = self._store.room < SEGMENTS
        if in_front:
            self._remove(stale)
        self.journal.open()
        self.journal.keep(tunnels)
        if not in_front:
            self._remove(stale)

    def tell(self, inheritance: Inheritance) -> bool:
        """Have the record say what a supervisor needs to know. Numbers of descriptors are those in names.

        :returns: whether it does
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
        ).text()
        try:
            record.write(self._record, text)
        except OSError as error:
            log.error("what would have to outlive this process cannot be noted: tunnels would not, either: %s", error)
            self.stop_relying()
            return False
        self._remove({name for name in self._store.names if "-table-" in name} - self._table_names())
        return True

    # --- whether workers may rely on it ------------------------------------------------------------------------------

    async def rely(self, note: Callable[[], bool]) -> None:
        """Once the manager can know everything, have workers wait for another supervisor when this one dies.

        If they do so already, and it knows, they go on.

        :param note: calls :meth:`tell`; no earlier, since the record must name nothing that the manager has not
        """
        if not self.settled or self._homeless:
            self.stop_relying()
        while not await self._store.sent(SEND_SECONDS):
            log.warning("the service manager takes no descriptors: tunnels would not outlive this process now")
        if note() and not self._homeless:
            self._mirrors.write_header("H_KEPT", 1)

    def stop_relying(self) -> None:
        """Have workers drain when the supervisor dies."""
        self._mirrors.write_header("H_KEPT", 0)

    async def clear(self) -> None:
        """The gateway ends: have nothing kept."""
        self.gave_up = True
        self.journal.close()
        self.stop_relying()
        with contextlib.suppress(OSError):
            record.write(self._record, b"")  # should the manager not hear of it
        self._remove(self._store.names)
        if not await self._store.sent(SEND_SECONDS):
            log.warning("the service manager could not be told to forget the gateway's descriptors")

    def close(self) -> None:
        """Let go of what this process has. What the manager keeps stays there."""
        self.journal.close()
        self._store.close()
        os.close(self._record)
        os.close(self.lifeline)

    def _lost(self) -> None:
        """The manager keeps less than it said."""
        if not self.gave_up:
            log.error(
                "the service manager does not keep the gateway's descriptors: tunnels would not outlive this process"
                " (FileDescriptorStoreMax= may be too small)"
            )
            self.gave_up = True
            self.stop_relying()
            self.journal.close()
            self._remove(self._store.names)

    def _table_names(self) -> set[str]:
        return {f"{self._prefix}table-{number_of(fd)}" for fd in self._mirrors.tables()}

    def _keep_tables(self) -> None:
        for fd in self._mirrors.tables():
            name = f"{self._prefix}table-{number_of(fd)}"
            if name not in self._store.names and self._store.room < 1:
                log.error(
                    "the service manager has no room for one more table: tunnels would not outlive this process"
                    " (FileDescriptorStoreMax=)"
                )
                self._homeless = True
            elif name not in self._store.names:
                self._store.put(name, fd)

    def _cast_lifeline(self) -> None:
        reading, self.lifeline = os.pipe()
        self._lifeline_name = self._name("lifeline")
        self._store.put(self._lifeline_name, reading)
        os.close(reading)

    def _put(self, kind: str, fd: int, numbers: list[int]) -> None:
        name = self._name(kind)
        try:
            self._store.put(name, fd)
        except OSError as error:
            log.error("a socket cannot be given to the service manager: %s", error)
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
