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
from typing import TYPE_CHECKING

from gateway.tunnels.kernel import Kernel
from gateway.tunnels.layout import NEVER
from gateway.tunnels.relay import Relay

if TYPE_CHECKING:
    from gateway.tunnels.table import Table

RECEIVE_BUFFER_BYTES = 128 * 1024
Callback = Callable[[int], None]
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
        :param on_end: see :class:`gateway.tunnels.relay.Relay`, as for the others
        """
        super().__init__()
        kernel = Kernel(self._selector, RECEIVE_BUFFER_BYTES)
        self.kernel = kernel
        self.relay = Relay(kernel, table.cells, descriptors, on_end, on_answer, on_loss, on_tick)
        self._callbacks: dict[int, Callback] = {}

    def watch(self, fd: int, events: int, callback: Callback) -> None:
        """Call ``callback(event mask)`` when ``events`` (``EPOLLIN`` …) are there. It must not raise."""
        self.kernel.watch(fd, False, events)
        self._callbacks[fd] = callback

    def rewatch(self, fd: int, events: int, callback: Callback) -> None:
        """Watch a descriptor that is watched already for other events, or with another callback."""
        self.kernel.watch(fd, True, events)
        self._callbacks[fd] = callback

    def recall(self, fd: int, callback: Callback) -> None:
        """Have another callback called for a watched descriptor, for the same events."""
        self._callbacks[fd] = callback

    def let_go(self, fd: int) -> None:
        """Stop calling back; epoll goes on watching. For a descriptor that the relay takes over."""
        del self._callbacks[fd]

    def unwatch(self, fd: int) -> None:
        """Stop watching a descriptor."""
        del self._callbacks[fd]
        self.kernel.unwatch(fd)

    def _abandon(self, fd: int) -> None:
        """Hear no more of a descriptor whose callback failed: its events would come again and again."""
        if self._callbacks.pop(fd, None) is not None:
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
        ready = []
        callbacks = self._callbacks
        for fd, mask in self.relay.poll(timeout_ms):
            callback = callbacks.get(fd)
            if callback is not None:
                try:
                    callback(mask)
                except Exception:  # one connection's trouble must not end the worker, and every tunnel with it
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
        return ready
