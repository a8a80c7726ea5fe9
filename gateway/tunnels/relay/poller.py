"""asyncio's selector, with the relay and the handshakes served before asyncio hears of anything.

``select()`` is the one place where a worker waits. Descriptors of tunnels are served by the relay inside it; those
that were registered with :meth:`Poller.watch` have their callback called there and then, with no task, future or
handle made for it; asyncio gets the rest.
"""

from __future__ import annotations

import contextlib
import logging
import math
import select
import selectors
from collections.abc import Callable
from errno import EINVAL
from typing import TYPE_CHECKING

from gateway.tunnels.relay.kernel import Kernel
from gateway.tunnels.relay.relay import Relay
from gateway.tunnels.table.layout import NEVER, READING

if TYPE_CHECKING:
    from gateway.tunnels.table.table import Table

RECEIVE_BUFFER_BYTES = 128 * 1024
RECEIVE_BYTES = 64 * 1024
Callback = Callable[[int], None]
Reader = Callable[[bytes | int], None]
Call = Callable[[], int]
Done = Callable[[int], None]
log = logging.getLogger("gateway")


class Poller(selectors.EpollSelector):
    """An ``EpollSelector`` that serves tunnels and handshakes inline."""

    _selector: select.epoll  # CPython's name for it; there is no public one
    _fd_to_key: dict[int, selectors.SelectorKey]

    def __init__(
        self,
        table: Table,
        descriptors: int,
        on_end: Callable[[int], None],
        on_answer: Callable[[int, int, int], None] = lambda row, side, silence_ns: None,
        on_loss: Callable[[int], int] | None = None,
        on_tick: Callable[[int], int] = lambda now: NEVER,
    ) -> None:
        """
        :param descriptors: one more than the largest descriptor this process may have
        :param on_end: see :class:`gateway.tunnels.relay.relay.Relay`, as for the others
        """
        super().__init__()
        kernel = Kernel(self._selector, RECEIVE_BUFFER_BYTES)
        self.kernel = kernel
        self.relay = Relay(kernel, table.cells, descriptors, on_end, on_answer, on_loss, on_tick)
        self._callbacks: dict[int, Callback] = {}
        self._readers: dict[int, Reader] = {}
        self._put_off: list[tuple[Call, Done]] = []

    def watch(self, fd: int, events: int, callback: Callback) -> None:
        """Call ``callback(event mask)`` when ``events`` (``EPOLLIN`` …) are there. It must not raise."""
        self.kernel.watch(fd, False, events)
        self._callbacks[fd] = callback

    def read(self, fd: int, reader: Reader, known: bool = False) -> None:
        """Receive what comes, and call ``reader`` with what :meth:`Kernel.receive` says. It must not raise.

        The descriptor is watched as the relay does it, which may take it over as it is (:meth:`let_go`).

        :param known: whether it is watched already
        """
        self.kernel.watch(fd, known, READING)
        self._callbacks.pop(fd, None)
        self._readers[fd] = reader

    def read_on(self, fd: int, reader: Reader) -> None:
        """Have another reader called with what comes on a descriptor that is read already."""
        self._readers[fd] = reader

    def put_off(self, call: Call, done: Done) -> None:
        """Make a heavy system call when everything else of this turn is done, and tell what it returned: a number, or
        ``-EINVAL`` where it raised anything.

        The network's part of the kernel leaves nothing but its own in a processor's caches: Python code that runs
        between two of its calls costs two to three times as much as in a row (``make bench``, scenario ``handshake``).
        """
        self._put_off.append((call, done))

    def rewatch(self, fd: int, events: int, callback: Callback) -> None:
        """Watch a descriptor that is watched already for other events, or with another callback."""
        self.kernel.watch(fd, True, events)
        self._readers.pop(fd, None)
        self._callbacks[fd] = callback

    def let_go(self, fd: int) -> None:
        """Stop calling back; epoll goes on watching. For a descriptor that the relay takes over."""
        if self._readers.pop(fd, None) is None:
            del self._callbacks[fd]

    def unwatch(self, fd: int) -> None:
        """Stop watching a descriptor."""
        self.let_go(fd)
        self.kernel.unwatch(fd)

    def _abandon(self, fd: int) -> None:
        """Hear no more of a descriptor whose callback failed: its events would come again and again."""
        if self._callbacks.pop(fd, None) is not None or self._readers.pop(fd, None) is not None:
            with contextlib.suppress(OSError):
                self._selector.unregister(fd)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait, serve, and return what is left for asyncio. See :meth:`selectors.BaseSelector.select`."""
        if timeout is None:
            timeout_ms = -1
        elif timeout <= 0:
            timeout_ms = 0
        else:
            timeout_ms = min(math.ceil(timeout * 1000), 2**31 - 1)
        if self._put_off:
            self._make_up()
            timeout_ms = 0
        ready = []
        callbacks = self._callbacks
        readers = self._readers
        others = self.relay.poll(timeout_ms)
        received = [(fd, self._receive(fd, mask)) for fd, mask in others if fd in readers]
        if received:  # a reader that becomes a callback is not called again for the same event
            others = [event for event in others if event[0] not in readers]
        for fd, data in received:
            reader = readers.get(fd)
            if reader is not None:
                try:
                    reader(data)
                except Exception:  # one connection's trouble must not end the worker, and every tunnel with it
                    log.exception("descriptor %d: its reader failed", fd)
                    self._abandon(fd)
        for fd, mask in others:
            callback = callbacks.get(fd)
            if callback is not None:
                try:
                    callback(mask)
                except Exception:
                    log.exception("descriptor %d: its callback failed", fd)
                    self._abandon(fd)
                continue
            key = self._fd_to_key.get(fd)
            if key is None:
                continue
            events = 0
            if mask & ~select.EPOLLIN:
                events |= selectors.EVENT_WRITE
            if mask & ~select.EPOLLOUT:
                events |= selectors.EVENT_READ
            if events & key.events:
                ready.append((key, events & key.events))
        if self._put_off:
            self._make_up()
        return ready

    def _receive(self, fd: int, mask: int) -> bytes | int:
        """Receive for a reader, and have epoll tell of what is left."""
        data = self.kernel.receive(fd, RECEIVE_BYTES)
        if mask != select.EPOLLIN or (isinstance(data, bytes) and len(data) == RECEIVE_BYTES):
            self.kernel.watch(fd, True, READING)
        return data

    def _make_up(self) -> None:
        """Do what was put off, and what that leads to."""
        while self._put_off:
            put_off, self._put_off = self._put_off, []
            results = []
            for call, _ in put_off:
                try:
                    results.append(call())
                except Exception:  # as for callbacks
                    log.exception("%r failed", call)
                    results.append(-EINVAL)
            for (_, done), result in zip(put_off, results, strict=True):
                try:
                    done(result)
                except Exception:
                    log.exception("%r failed", done)
