"""asyncio's selector: ``select()`` serves tunnels, handshakes and requests before asyncio hears of anything.

``select()`` is the one place where a worker waits. The relay serves the descriptors of tunnels inside it. Descriptors
registered with :meth:`Poller.watch` and :meth:`Poller.read` have their callback called there and then, with no task,
future or handle made for it. asyncio gets the rest.

Callbacks are bound methods. If one raises, the error is logged and counted, and ``abandon()`` of its object is called,
which has to close whatever the object holds: one connection's trouble must not end the worker and every tunnel with it.
"""

from __future__ import annotations

import logging
import math
import select
import selectors
from collections.abc import Callable
from errno import EINVAL
from typing import TYPE_CHECKING, Any, Protocol

from gateway.tunnels.relay.kernel import Kernel
from gateway.tunnels.relay.relay import Relay
from gateway.tunnels.table.layout import READING

if TYPE_CHECKING:
    from gateway.tunnels.relay.owner import Owner
    from gateway.tunnels.table.table import Table

RECEIVE_BUFFER_BYTES = 128 * 1024
RECEIVE_BYTES = 64 * 1024
Callback = Callable[[int], None]
Reader = Callable[[bytes | int], None]
Received = bytes | int | None
"""What was received for a reader that is not called any more: bytes, an errno, or None for nothing."""

Call = Callable[[], int]
Done = Callable[[int], None]
log = logging.getLogger("gateway")


class Wire(Protocol):
    """What carries a connection's bytes (``edge/wire/``)."""

    def receive(self, fd: int, most: int) -> bytes | int:
        """As :meth:`Kernel.receive`."""

    def is_full(self, got: int, asked: int) -> bool:
        """Whether that may have left bytes in the socket."""


class Poller(selectors.EpollSelector):
    """An ``EpollSelector`` that serves tunnels, handshakes and requests inline."""

    _selector: select.epoll  # CPython's name for it; there is no public one
    _fd_to_key: dict[int, selectors.SelectorKey]

    def __init__(
        self,
        table: Table,
        descriptors: int,
        owner: Owner | None = None,
        kernel: Callable[[select.epoll, int], Kernel] = Kernel,
    ) -> None:
        """
        :param descriptors: one more than the largest descriptor this process may have
        :param owner: of the rows; ``relay.owner`` may be set later
        :param kernel: makes what does the system calls
        """
        super().__init__()
        self.kernel = kernel(self._selector, RECEIVE_BUFFER_BYTES)
        self.relay = Relay(self.kernel, table.cells, descriptors)
        if owner is not None:
            self.relay.owner = owner
        self.on_failure: Callable[[], None] = lambda: None
        """counts a callback that raised"""
        self._callbacks: dict[int, Callback] = {}
        self._readers: dict[int, Reader] = {}
        self.wires: dict[int, Wire] = {}
        """by descriptor: what receives from connections that are not plain, and may hold something for their readers"""
        self.heavy: Callable[[], bool] = lambda: False
        """does some work that costs CPU, once a turn while ``is_loaded``, for a bounded time; returns whether more is
        left"""
        self.is_loaded = False
        self._recalled: set[int] = set()
        self._received: dict[int, bytes | int] = {}
        """by descriptor: received in this turn, and not given to a reader yet"""
        self._deferred: list[tuple[Call, Done]] = []

    # --- what is watched ----------------------------------------------------------------------------------------------

    def watch(self, fd: int, events: int, callback: Callback) -> None:
        """Call ``callback(event mask)`` when ``events`` (``EPOLLIN`` …) are there."""
        self.kernel.watch(fd, False, events)
        self._callbacks[fd] = callback

    def read(self, fd: int, reader: Reader, known: bool = False) -> None:
        """Receive what comes, and call ``reader`` with what :meth:`Kernel.receive` returns.

        The descriptor is watched as the relay watches its own, so that the relay can take it over (:meth:`let_go`).

        :param known: whether epoll watches it already
        """
        if known:
            self.ask_again(fd)
        else:
            self.kernel.watch(fd, False, READING)
        self._callbacks.pop(fd, None)
        self._readers[fd] = reader

    def read_on(self, fd: int, reader: Reader) -> None:
        """Replace the reader of a descriptor. The new one also gets what was received for the old one."""
        self._readers[fd] = reader

    def callback_on(self, fd: int, callback: Callback) -> Received:
        """Replace the reader or the callback of a descriptor that is watched as by :meth:`read`, without asking epoll.

        The callback reads by itself. It has to read until there is nothing more, or call :meth:`ask_again`.

        :returns: what the reader before was not given
        """
        self._readers.pop(fd, None)
        self._callbacks[fd] = callback
        return self._received.pop(fd, None)

    def rewatch(self, fd: int, events: int, callback: Callback) -> Received:
        """Watch a descriptor that is watched already for other events. :returns: as :meth:`callback_on`"""
        self.ask_again(fd, events)
        return self.callback_on(fd, callback)

    def take(self, fd: int) -> bytes:
        """The bytes that were received in this turn for the reader of a descriptor, which it is not given any more."""
        received = self._received.get(fd)
        if not isinstance(received, bytes) or not received:
            return b""  # its end is for the reader
        del self._received[fd]
        return received

    def ask_again(self, fd: int, events: int = READING) -> None:
        """Have epoll report again what is there to be read."""
        self.kernel.watch(fd, True, events)
        if events & select.EPOLLIN and fd in self.wires:
            self.recall(fd)  # it may hold something that epoll does not know of

    def recall(self, fd: int) -> None:
        """Call the callback or reader of a descriptor in the next turn, as if epoll had reported ``EPOLLIN``."""
        self._recalled.add(fd)

    def let_go(self, fd: int) -> Received:
        """Stop calling back; epoll goes on watching. For a descriptor that the relay or a pool takes over.

        :returns: as :meth:`callback_on`: the caller has to pass it on
        """
        if self._readers.pop(fd, None) is None:
            self._callbacks.pop(fd, None)  # none is left where something failed between two owners
        if self._recalled:
            self._recalled.discard(fd)
        return self._received.pop(fd, None)

    def unwatch(self, fd: int) -> Received:
        """Stop watching a descriptor. It never raises, as its caller has more to let go of.

        :returns: as :meth:`callback_on`
        """
        received = self.let_go(fd)
        try:
            self.kernel.unwatch(fd)
        except Exception:
            log.exception("descriptor %d cannot be unwatched", fd)
        return received

    def defer(self, call: Call, done: Done) -> None:
        """Make a heavy system call when everything else of this turn is done, and pass what it returned to ``done``: a
        number, or ``-EINVAL`` if it raised anything.

        The network's part of the kernel evicts everything else from a processor's caches: Python code that runs between
        two of its calls costs two to three times as much as in a row (``make bench``, scenario ``handshake``).
        """
        self._deferred.append((call, done))

    # --- a turn -------------------------------------------------------------------------------------------------------

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait, serve, and return what is left for asyncio. See :meth:`selectors.BaseSelector.select`."""
        if timeout is None:
            timeout_ms = -1
        elif timeout <= 0:
            timeout_ms = 0
        else:
            timeout_ms = min(math.ceil(timeout * 1000), 2**31 - 1)
        if self._deferred:
            self._run_deferred()
            timeout_ms = 0
        if self._recalled or self.is_loaded:
            timeout_ms = 0
        ready = []
        callbacks = self._callbacks
        readers = self._readers
        received = self._received
        others = self.relay.poll(timeout_ms)
        if self._recalled:
            recalled, self._recalled = self._recalled, set()
            recalled.difference_update(fd for fd, _ in others)
            others.extend((fd, select.EPOLLIN) for fd in recalled)
        for fd, mask in others:
            reader = readers.get(fd)
            if reader is not None:
                try:
                    received[fd] = self._receive(fd, mask)
                except Exception:
                    self._failed(fd, reader)
        was_read = frozenset(received)
        for fd, mask in others:
            if fd in was_read:
                # A callback that took the reader's place has the data, too, and is not called for the same event.
                data = received.pop(fd, None)
                reader = readers.get(fd)
                if reader is not None and data is not None:
                    self.give(fd, reader, data)
                continue
            reader = readers.get(fd)
            if reader is not None:  # it became a reader in this turn
                try:
                    data = self._receive(fd, mask)
                except Exception:
                    self._failed(fd, reader)
                else:
                    self.give(fd, reader, data)
                continue
            callback = callbacks.get(fd)
            if callback is not None:
                try:
                    callback(mask)
                except Exception:
                    self._failed(fd, callback)
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
        if self.is_loaded:
            self._do_heavy()
        if self._deferred:
            self._run_deferred()
        return ready

    def _receive(self, fd: int, mask: int) -> bytes | int:
        """Receive for a reader, and have epoll report what is left."""
        wire = self.wires.get(fd)
        if wire is None:
            data = self.kernel.receive(fd, RECEIVE_BYTES)
            is_full = isinstance(data, bytes) and len(data) == RECEIVE_BYTES
        else:
            data = wire.receive(fd, RECEIVE_BYTES)
            is_full = wire.is_full(0, RECEIVE_BYTES)
        if is_full or mask != select.EPOLLIN:
            self.kernel.watch(fd, True, READING)
        return data

    def give(self, fd: int, reader: Reader, data: bytes | int) -> None:
        """Pass a reader what was received. If it raises, that ends its object, as for any callback."""
        try:
            reader(data)
        except Exception:
            self._failed(fd, reader)

    def call(self, callback: Callable[[], None]) -> None:
        """Call a bound method. If it raises, that ends its object, as for any callback."""
        try:
            callback()
        except Exception:
            self._failed(-1, callback)

    def _do_heavy(self) -> None:
        try:
            self.is_loaded = self.heavy()
        except Exception:  # it sees to its own failures: this is a mistake, which must not end tunnels
            log.exception("%r failed", self.heavy)
            self.on_failure()

    def _run_deferred(self) -> None:
        """Make the deferred calls, and those that they lead to."""
        while self._deferred:
            deferred, self._deferred = self._deferred, []
            results = []
            for call, _ in deferred:
                try:
                    results.append(call())
                except Exception:
                    log.exception("%r failed", call)
                    results.append(-EINVAL)
            for (_, done), result in zip(deferred, results, strict=True):
                try:
                    done(result)
                except Exception:
                    self._failed(-1, done)

    def _failed(self, fd: int, callback: Callable[..., None]) -> None:
        """A callback raised: log and count it, have its object close what it holds, and hear no more of ``fd``."""
        log.exception("%r failed (descriptor %d); its connection is closed", callback, fd)
        self.on_failure()
        self.abandon(callback)
        # What the object does not know of: its events would come again and again.
        if self._callbacks.get(fd) == callback or self._readers.get(fd) == callback:
            self.unwatch(fd)

    @staticmethod
    def abandon(callback: Any) -> None:
        """Have the object of a bound method, or of a ``partial`` of one, close what it holds."""
        owner = getattr(getattr(callback, "func", callback), "__self__", None)
        try:
            abandon = getattr(owner, "abandon", None)
            if abandon is not None:
                abandon()
        except Exception:
            log.exception("%r cannot be closed", owner)
