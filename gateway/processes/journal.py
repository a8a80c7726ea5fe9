"""The connections of tunnels in the service manager's store, with few descriptors there for any number of tunnels.

One name per connection would not work: the manager passes all names in one environment variable, which is limited to
128 KiB (``MAX_ARG_STRLEN``, execve(2)), so with 4,000 tunnels no program could be started any more. Also, systemd
compares each new descriptor with all that it has. So the manager keeps one end of a socket pair, a *segment*, and the
connections sit in its queue, sent from the other end as messages with descriptors (``SCM_RIGHTS``, unix(7)). The kernel
keeps them as long as any process holds the manager's end. A new tunnel is one more message in the queue; the manager is
not involved.

A message cannot be removed when its tunnel has ended. From time to time the live tunnels of a segment are sent again to
a new segment, and the old one is removed. The table says which tunnels in a queue are alive. Reading a segment only
peeks (``MSG_PEEK``), so everything is still there if the reader dies too.

No other process writes to a segment or reads from it, so a hang-up means that the manager has closed its end, or never
had room for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from errno import EAGAIN, EBADF, ENOBUFS

from gateway.observe.seldom import Seldom
from gateway.processes.manager_store import ManagerStore
from gateway.processes.rights import connections_of, ids_in, without_closed
from gateway.tunnels.moving.adoption import Connections

AT_ONCE = 120
"""Tunnels in one message: the kernel takes 253 descriptors (SCM_MAX_FD)."""

UPKEEP_SECONDS = 1.0
WORTHWHILE = 256
"""A segment with this many ended tunnels is rewritten."""

MAX_AGE_SECONDS = 10.0
"""A segment is rewritten at most this long after a tunnel in it ended: until then the kernel's memory is not freed."""

MESSAGE_BYTES = 8 * AT_ONCE
ANCILLARY_BYTES = socket.CMSG_SPACE(2 * AT_ONCE * array("i").itemsize)
SO_PEEK_OFF = 42  # socket(7); Python has no name for it
_NO_MORE_ROOM = (EAGAIN, ENOBUFS)
Tunnels = dict[int, Connections]
log = logging.getLogger("gateway")


class Segment:
    """One socket pair; the manager keeps the other end."""

    def __init__(self, name: str, sock: socket.socket) -> None:
        self.name = name
        self.sock = sock
        self.tunnels: Tunnels = {}
        """live ones only"""
        self.ended = 0
        self.ended_since = 0.0
        """``CLOCK_MONOTONIC`` in seconds"""


class Journal:
    """All segments of one gateway."""

    def __init__(
        self,
        store: ManagerStore,
        loop: asyncio.AbstractEventLoop,
        name: Callable[[], str],
        on_lost: Callable[[], None],
    ) -> None:
        """
        :param name: returns a name for a new segment
        :param on_lost: called when the manager does not keep a segment
        """
        self._store = store
        self._loop = loop
        self._name = name
        self._on_lost = on_lost
        self._segments: list[Segment] = []
        """new tunnels go to the last one"""
        self._where: dict[int, Segment] = {}
        self._unkept: Tunnels = {}
        """tunnels that there was no room for"""
        self._timer: asyncio.TimerHandle | None = None
        self._short = Seldom(log.error)

    def __len__(self) -> int:
        """How many tunnels are in the manager's store."""
        return len(self._where)

    @property
    def segments(self) -> list[Segment]:
        """All segments."""
        return list(self._segments)

    def open(self) -> None:
        """Open a first segment, to see whether the manager keeps it. :raises OSError: no descriptors are left"""
        if not self._segments:
            self._open()

    def keep(self, tunnels: Iterable[tuple[int, Connections]]) -> None:
        """Store the connections of tunnels, by tunnel id."""
        batch: list[tuple[int, Connections]] = []
        for each in tunnels:
            batch.append(each)
            if len(batch) == AT_ONCE:
                self._keep(batch)
                batch = []
        if batch:
            self._keep(batch)

    def forget(self, tunnel: int) -> None:
        """Forget a tunnel that has ended. Copies of its connections, which are shut down, stay queued for a while."""
        self._unkept.pop(tunnel, None)
        segment = self._where.pop(tunnel, None)
        if segment is None:
            return
        del segment.tunnels[tunnel]
        if not segment.ended:
            segment.ended_since = time.monotonic()
        segment.ended += 1
        self._schedule_upkeep(UPKEEP_SECONDS)

    def restore(self, name: str, fd: int, tunnels: Iterable[tuple[int, Connections]], ended: int) -> None:
        """Go on using a segment of the previous program.

        :param fd: the writing end
        :param ended: how many of its tunnels have ended
        """
        segment = Segment(name, socket.socket(fileno=fd))
        segment.tunnels.update(tunnels)
        segment.ended = ended
        segment.ended_since = time.monotonic()
        self._where.update(dict.fromkeys(segment.tunnels, segment))
        self._segments.append(segment)
        self._loop.add_reader(segment.sock, self._lost, segment)
        if ended:
            self._schedule_upkeep(UPKEEP_SECONDS)

    def close(self) -> None:
        """Stop writing. What is stored stays there."""
        if self._timer is not None:
            self._timer.cancel()
        for segment in self._segments:
            self._close(segment)
        self._segments.clear()
        self._where.clear()
        self._unkept.clear()

    # --- segments ----------------------------------------------------------------------------------------------------

    def _keep(self, batch: Sequence[tuple[int, Connections]]) -> None:
        if self._append(batch, spare=1):
            return
        self._unkept.update(batch)
        self._short(
            "the service manager has no room for the connections of %d tunnels: they would be lost if the supervisor"
            " died; raise FileDescriptorStoreMax= or LimitNOFILE=",
            len(self._unkept),
        )
        self._schedule_upkeep(UPKEEP_SECONDS)

    def _append(self, batch: Sequence[tuple[int, Connections]], spare: int = 0) -> bool:
        """Write a message; return whether there was room. :param spare: descriptors that must stay free in the store"""
        message = array("q", [tunnel for tunnel, _ in batch])
        descriptors = array("i", [fd for _, connections in batch for fd in connections])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
        for fresh in (False, True):
            if fresh or not self._segments:
                if self._store.room <= spare:
                    return False
                try:
                    self._open()
                except OSError:
                    return False
            segment = self._segments[-1]
            try:
                segment.sock.sendmsg([message], rights, socket.MSG_NOSIGNAL)
            except OSError as error:
                if error.errno in _NO_MORE_ROOM and not fresh:
                    continue
                if error.errno == EBADF and len(whole := without_closed(batch)) < len(batch):
                    log.error(
                        "%d tunnels would be lost if the supervisor died: their descriptors are closed",
                        len(batch) - len(whole),
                    )
                    return not whole or self._append(whole, spare)
                return False  # too many descriptors in flight (ETOOMANYREFS), or the manager closed its end
            segment.tunnels.update(batch)
            self._where.update(dict.fromkeys(message, segment))
            return True
        return False

    def _open(self) -> None:
        ours, managers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with managers:
            ours.setblocking(False)
            segment = Segment(self._name(), ours)
            try:
                self._store.put(segment.name, managers.fileno())
            except OSError:
                ours.close()
                raise
        self._segments.append(segment)
        self._loop.add_reader(ours, self._lost, segment)

    def _lost(self, segment: Segment) -> None:
        """Drop a segment that the manager does not keep."""
        self._segments.remove(segment)
        self._close(segment)
        for tunnel in segment.tunnels:
            self._where.pop(tunnel, None)
        self._store.remove(segment.name)
        self._on_lost()

    def _close(self, segment: Segment) -> None:
        self._loop.remove_reader(segment.sock)
        segment.sock.close()

    # --- upkeep ------------------------------------------------------------------------------------------------------

    def _schedule_upkeep(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._upkeep)

    def _upkeep(self) -> None:
        """Retry tunnels that there was no room for, and rewrite one segment that holds ended tunnels."""
        self._timer = None
        now = time.monotonic()
        unkept, self._unkept = self._unkept, {}
        try:
            self.keep(unkept.items())
            used = [segment for segment in self._segments if segment.ended]
            due = [each for each in used if each.ended >= WORTHWHILE or now - each.ended_since >= MAX_AGE_SECONDS]
            if due:
                self._rewrite(max(due, key=lambda segment: segment.ended))
        except Exception:  # upkeep must go on
            log.exception("upkeep of the service manager's store failed; retrying in %g s", UPKEEP_SECONDS)
            self._unkept.update((tunnel, each) for tunnel, each in unkept.items() if tunnel not in self._where)
        if self._unkept or any(segment.ended for segment in self._segments):
            self._schedule_upkeep(UPKEEP_SECONDS)

    def _rewrite(self, segment: Segment) -> None:
        """Send the live tunnels of a segment again, then remove it. It stays if there is no room."""
        if segment is self._segments[-1]:
            if self._store.room < 1:
                return
            try:
                self._open()
            except OSError:
                return
        tunnels = list(segment.tunnels.items())
        for start in range(0, len(tunnels), AT_ONCE):
            batch = tunnels[start : start + AT_ONCE]
            if not self._append(batch):
                return
            for tunnel, _ in batch:
                del segment.tunnels[tunnel]
        # The removal is sent after the new segment, so the manager has that one by then.
        self._segments.remove(segment)
        self._close(segment)
        self._store.remove(segment.name)


def read(fd: int) -> list[tuple[int, Connections]]:
    """Read what a segment holds: tunnel ids, with new descriptors of their connections.

    Tunnels that this process has no descriptors for are left out.

    :param fd: the end that the manager kept
    :raises OSError: it is not a segment
    """
    found: list[tuple[int, Connections]] = []
    with socket.socket(fileno=os.dup(fd)) as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 0)
        while True:
            try:
                data, ancillary, _, _ = sock.recvmsg(
                    MESSAGE_BYTES, ANCILLARY_BYTES, socket.MSG_PEEK | socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return found
            if not data:
                return found
            connections = connections_of(ancillary)
            try:
                found += zip(ids_in(data, connections), connections, strict=False)
            except ValueError as error:  # later messages may be fine
                log.error("skipped a malformed message in the service manager's store: %s", error)
