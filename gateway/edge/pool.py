"""Connections to backends that are kept for the next request (RFC 9112 section 9.3).

What an idle connection is good for is decided before it is used:

- It is watched. If anything comes on it, an end or bytes that nobody asked for, it is closed: an answer sent ahead of
  its request would go to the wrong client (response queue poisoning). It is asked once more when it is taken.
- A backend closes connections that are idle for longer than it says in ``Keep-Alive: timeout``, and the request that
  is on its way then is lost. So the gateway lets go of them earlier, with a margin.
- A request that may not be repeated takes only one that was used within the last second.

Connections that serve one client alone are held apart: those that were authenticated (NTLM, Negotiate), and those that
began with a PROXY header.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from errno import EAGAIN, EINTR
from typing import TYPE_CHECKING

from gateway.tunnels.table.layout import NEVER

if TYPE_CHECKING:
    from gateway.edge.ways import Way
    from gateway.routing.balancing import Target
    from gateway.tunnels.relay.poller import Poller

SWEEP_SECONDS = 1.0
MAX_AGE_NS = 3600 * 1_000_000_000
"""A connection is not used for longer than this, so that a change of the network reaches every one."""

RECENTLY_NS = 1_000_000_000
"""How long after its last use a connection may be used for a request that may not be repeated."""


class BackendConnection:
    """A connection to a backend that serves plain HTTP."""

    __slots__ = (
        "_pool",
        "address",
        "expires_ns",
        "fd",
        "is_authenticated",
        "opened_ns",
        "proxy_protocol",
        "target",
        "used_ns",
        "way",
        "wire",
    )

    def __init__(self, pool: Pool, fd: int, way: Way, target: Target, address: object, now_ns: int) -> None:
        """
        :param way: that it was dialled with
        :param address: the socket address that was dialled
        :param now_ns: ``CLOCK_MONOTONIC``
        """
        self._pool = pool
        self.fd = fd
        """-1 once it is closed"""
        self.way = way
        self.wire = way.wire
        self.target = target
        self.address = address
        self.opened_ns = now_ns
        self.used_ns = now_ns
        self.expires_ns = 0
        self.is_authenticated = False
        """whether the backend knows a client by it (NTLM, Negotiate), which no other connection can replace"""
        self.proxy_protocol: str | None = None
        """version of the PROXY header that it began with, which names one client"""

    def said(self, data: bytes | int) -> None:
        """Something came while it was idle. Whatever that was, it is not used again."""
        if data not in (EAGAIN, EINTR):
            self._pool.close(self)

    def abandon(self) -> None:
        """Close it: something in here failed."""
        self._pool.close(self)


class Pool:
    """The idle connections of one worker, by backend."""

    def __init__(
        self,
        poller: Poller,
        loop: asyncio.AbstractEventLoop,
        on_idle: Callable[[int, int], None],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """
        :param on_idle: called with a backend's number and by how many its idle connections became more
        :param clock: in nanoseconds
        """
        self._poller = poller
        self._loop = loop
        self._on_idle = on_idle
        self._clock = clock
        self._idle: dict[int, list[BackendConnection]] = {}
        self._held: set[BackendConnection] = set()
        self._timer: asyncio.TimerHandle | None = None

    def take(self, target: Target, now_ns: int, repeatable: bool) -> BackendConnection | None:
        """A connection to a backend that was used before, the latest first; None where one has to be dialled.

        The caller has to give it another reader (:meth:`Poller.read_on`).

        :param repeatable: whether the request may be sent again if the connection turns out to be closed
        """
        idle = self._idle.get(target.number)
        while idle:
            connection = idle[-1]
            if not repeatable and now_ns - connection.used_ns > RECENTLY_NS:
                return None  # those below are older
            idle.pop()
            self._on_idle(target.number, -1)
            if self._is_silent(connection) and now_ns < connection.expires_ns:
                return connection
            self._drop(connection)
        return None

    def hold(self, connection: BackendConnection, now_ns: int, idle_ns: int) -> bool:
        """Watch an idle connection that serves one client alone: it is for :meth:`claim`.

        :param idle_ns: for how long at most, unless it is authenticated: such a one is kept as long as its client's
        :returns: whether it is kept; if not, it is closed
        """
        if connection.is_authenticated:
            connection.expires_ns = NEVER
        elif idle_ns <= 0 or now_ns - connection.opened_ns > MAX_AGE_NS:
            self.discard(connection)
            return False
        else:
            connection.expires_ns = now_ns + idle_ns
            self._sweep_later()
        connection.used_ns = now_ns
        self._held.add(connection)
        self._poller.read_on(connection.fd, connection.said)
        return True

    def claim(self, connection: BackendConnection, now_ns: int, repeatable: bool) -> bool:
        """Whether a held connection can be used; if not, it is closed. The caller gives it another reader.

        :param repeatable: as of :meth:`take`
        """
        if connection.fd < 0:
            return False
        self._held.discard(connection)
        if self._is_silent(connection) and (
            connection.is_authenticated
            or (now_ns < connection.expires_ns and (repeatable or now_ns - connection.used_ns <= RECENTLY_NS))
        ):
            return True
        self._drop(connection)
        return False

    def put(self, connection: BackendConnection, now_ns: int, idle_ns: int, size: int) -> None:
        """Keep a connection whose answer is complete, if there is room; else close it.

        :param idle_ns: for how long at most
        :param size: how many may be kept for its backend
        """
        idle = self._idle.setdefault(connection.target.number, [])
        if size <= 0 or idle_ns <= 0 or now_ns - connection.opened_ns > MAX_AGE_NS:
            self.discard(connection)
            return
        if len(idle) >= size:
            self.close(idle[0])
        connection.used_ns = now_ns
        connection.expires_ns = now_ns + idle_ns
        idle.append(connection)
        self._on_idle(connection.target.number, 1)
        self._poller.read_on(connection.fd, connection.said)
        self._sweep_later()

    def discard(self, connection: BackendConnection) -> None:
        """Close a connection that is in use: watched, and not idle."""
        if connection.fd >= 0:
            self._drop(connection)

    def close(self, connection: BackendConnection) -> None:
        """Close an idle connection, one that is held too."""
        idle = self._idle.get(connection.target.number, [])
        if connection in idle:
            idle.remove(connection)
            self._on_idle(connection.target.number, -1)
        self._held.discard(connection)
        self.discard(connection)

    def keep_only(self, usable: Callable[[BackendConnection], bool]) -> None:
        """Close those that lead where nothing is to go any more, held ones too."""
        for connections in (*self._idle.values(), self._held):
            for connection in list(connections):
                if not usable(connection):
                    self.close(connection)

    def close_all(self) -> None:
        """Close every idle connection, held ones too."""
        self.keep_only(lambda connection: False)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_silent(self, connection: BackendConnection) -> bool:
        """Take an idle connection from its reader; whether nothing has come on it."""
        unasked = self._poller.let_go(connection.fd)
        try:
            return unasked is None and connection.wire.receive(connection.fd, 1) in (EAGAIN, EINTR)
        except Exception:
            self._drop(connection)  # it is nobody's at this moment
            raise

    def _drop(self, connection: BackendConnection) -> None:
        """Close a connection that epoll watches, whether anybody reads it or not."""
        self._poller.unwatch(connection.fd)
        self._poller.relay.retire(connection.fd)
        connection.wire.close(connection.fd)
        connection.fd = -1

    def _sweep_later(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        now = self._clock()
        self.keep_only(lambda connection: now < connection.expires_ns)
        self._idle = {number: idle for number, idle in self._idle.items() if idle}
        self._timer = None
        if self._idle or any(connection.expires_ns != NEVER for connection in self._held):
            self._sweep_later()
