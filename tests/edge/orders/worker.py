"""One worker's edge, whole, over the kernel in memory, with the pure build of the relay: one turn at a time."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from gateway.config.settings import Settings
from gateway.edge import owner as owner_module
from gateway.edge.descriptors import Descriptors
from gateway.edge.edge import Edge
from gateway.edge.exchange.shared import KnownAnswers
from gateway.edge.facts import KnownFields
from gateway.edge.listener import Listener
from gateway.edge.upgrade import Accepted
from gateway.observe.events import Events
from gateway.protocol.known_heads import KnownHeads
from gateway.routing.registry import Registry
from gateway.tunnels.quotas.quotas import Quotas
from gateway.tunnels.relay import poller as poller_module
from gateway.tunnels.relay.poller import Poller
from gateway.tunnels.table.layout import NEVER
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.table.table import Table
from gateway.tunnels.upkeep.pacing import Drains

from ...routing.tables import config_of
from ...tunnels.pure import pure_modules
from .kernel import FIRST_FD, FakeKernel
from .loop import NS, FakeLoop
from .sockets import Peer

modules = pure_modules()
DESCRIPTORS = 128
ROWS = 8
BACKEND = ("10.0.0.1", 9001)
SECOND_BACKEND = ("10.0.0.2", 9001)
"""Of requests for the host ``second``."""

UPSTREAMS = {"chat": {"backends": ["10.0.0.1:9001"]}, "second": {"backends": ["10.0.0.2:9001"]}}
ROUTES = [
    {"match": {"hosts": ["second"]}, "upstream": "second"},
    {"upgrades": ["websocket", "raw"], "limits": {"tunnels_per_client": 1000}},
]
EVERY_TIMER_SECONDS = 3600
TIME_OUTS = {
    "request_head": "10s",
    "connect": "5s",
    "handshake": "10s",
    "write_stall": "60s",
    "close": "10s",
    "request_body": "60s",
    "response": "60s",
    "http_idle": "75s",
}
Line = dict[str, Any]


class FakeLog:
    """An access log in memory."""

    enabled = True

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def write(self, form: Any, values: Any, at: float | None = None) -> None:
        self.lines.append({"event": form.event, **dict(zip(form.fields, values, strict=True))})


class FakeStore:
    """Keeps connections for a successor."""

    def __init__(self) -> None:
        self.kept: set[int] = set()

    def keep(self, tunnel: int, client_fd: int, backend_fd: int) -> None:
        self.kept.add(tunnel)

    def forget(self, tunnel: int) -> None:
        self.kept.discard(tunnel)


class ListeningSocket:
    """What a listener needs of a socket."""

    family = socket.AF_UNIX  # so that no options are set

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        pass


class Failures(logging.Handler):
    """What went wrong, as the log has it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Worker:
    """The edge of one worker. Use it in a ``with``."""

    def __init__(self) -> None:
        self._table = Table.create(1, ROWS)
        self._quotas = Quotas.create(self._table.slots, ROWS)
        self._stack = self._patched()
        self._stack.__enter__()
        with (
            mock.patch.object(poller_module, "Relay", modules["relay"].Relay),
            mock.patch.object(owner_module, "Sweep", modules["sweep"].Sweep),
        ):
            self.poller = Poller(self._table, DESCRIPTORS, kernel=FakeKernel)  # type: ignore[arg-type]  # as good as
            self.kernel: FakeKernel = self.poller.kernel  # type: ignore[assignment]  # that is what it made
            self.loop = FakeLoop(self.kernel.now)
            self._clock = self.kernel.now
            asyncio._set_running_loop(self.loop)  # type: ignore[arg-type]  # what of it is used
            self.log = FakeLog()
            self.store = FakeStore()
            registry = Registry(100, 100)
            config = config_of(ROUTES, UPSTREAMS, timeouts=TIME_OUTS)
            registry.admit(config)
            self.slice = Slice(self._table, 0)
            edge = self.edge = Edge(
                self.poller,
                self.slice,
                self._quotas,
                registry,
                Events(),
                self.log,  # type: ignore[arg-type]  # what of it is used
                self.store,
                Descriptors(DESCRIPTORS),
            )
        edge.deadlines._clock = edge.pool._clock = edge.clients.exchanges.clock = self.kernel.now
        self._settings = Settings.of(config)
        self._registry = registry
        edge.configure(self._settings, registry, frozenset())
        self.failed_callbacks = 0
        self.poller.on_failure = edge.deadlines.on_failure = self._count_failure
        self.listening = self.kernel.listen()
        self.listener = Listener(
            self.poller,
            edge.descriptors,
            edge.accept,
            ListeningSocket(self.listening),  # type: ignore[arg-type]  # what of it is used
        )
        self.listener.start()

    @property
    def number_of_backend(self) -> int:
        """That of :data:`BACKEND`."""
        return next(iter(self.edge.config.routes.upstreams["chat"].targets)).number

    @contextmanager
    def _patched(self) -> Iterator[None]:
        self._clock: Callable[[], int] = lambda: 0

        def now() -> int:  # no mock, as it is called a few times in each turn
            return self._clock()

        with mock.patch("time.monotonic_ns", now):
            self.failures = Failures()
            log = logging.getLogger("gateway")
            log.addHandler(self.failures)
            try:
                yield
            finally:
                log.removeHandler(self.failures)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        asyncio._set_running_loop(None)
        self._stack.__exit__(None, None, None)
        self.poller.close()
        self._table.close()
        self._quotas.close()

    def _count_failure(self) -> None:
        self.failed_callbacks += 1

    def forget_heads(self) -> None:
        """Forget all heads that were read, as a worker that was just started."""
        edge = self.edge
        edge.clients.known_heads = KnownHeads()
        edge.clients.known_fields = KnownFields()
        edge.clients.exchanges.known_answers = KnownAnswers()
        edge.clients.upgrades.accepted = Accepted()

    def put_in_force(self) -> None:
        """Have the configuration in force as in the beginning: nothing drains."""
        edge = self.edge
        edge.config.draining = edge.owner.draining = False
        edge.owner.drained.clear()
        edge.owner._drains = Drains()
        edge.configure(self._settings, self._registry, frozenset())

    # --- time ---------------------------------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether a turn would do anything."""
        return self.kernel.is_ready or bool(self.poller._deferred) or bool(self.poller.relay.closing_fds)

    def turn(self) -> None:
        """One turn of the poller, and what asyncio does after it."""
        left = self.poller.select(0)
        assert left == []
        self.loop.run_due()

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.kernel.clock_ns += int(seconds * NS)
        self.poller.relay.now = self.kernel.clock_ns  # the poller waits all the while
        self.loop.run_due()

    # --- what must hold -----------------------------------------------------------------------------------------------

    def leaks(self) -> list[str]:
        """What is left behind, while nothing is under way and no connection is idle."""
        edge, poller, kernel = self.edge, self.poller, self.kernel
        slice_ = self.slice
        backends = range(len(self._registry.backends))
        routes = range(len(self._registry.routes))
        table = self._table
        found = {
            "descriptors": sorted(set(kernel.sockets) - {self.listening}),
            "watched": sorted(set(kernel.watched) - {self.listening}),
            "readers": dict(poller._readers),
            "callbacks": {fd: call for fd, call in poller._callbacks.items() if fd != self.listening},
            "received": dict(poller._received),
            "deferred": list(poller._deferred),
            "owners": [fd for fd in range(FIRST_FD, DESCRIPTORS) if poller.relay.owners[fd]],
            "pending": dict(poller.relay.pending),
            "rows": slice_.rows_in_use,
            "deadlines": len(edge.deadlines),
            "requests in flight": edge.clients.exchanges.in_flight,
            "B_LIVE": [number for number in backends if table.live(number)],
            "load": [number for number in backends if table.load(number)],
            "B_IDLE": [number for number in backends if table.idle_connections(number)],
            "T_REQUESTS": [number for number in routes if table.requests(number)],
            "counted": edge.limiting._share.counted(),
            "pooled": [idle for idle in edge.pool._idle.values() if idle],
            "store": sorted(self.store.kept),
        }
        return [f"{name}: {value}" for name, value in found.items() if value]

    def end(self) -> None:
        """Let everything end that ends by itself: idle connections, lingering ones."""
        for _ in range(4):
            self.settle()
            self.pass_time(EVERY_TIMER_SECONDS)
        self.settle()
        self.edge.batch.flush()

    def settle(self, most: int = 200) -> None:
        """Turns until nothing is to be done. :raises AssertionError: there is always something"""
        for _ in range(most):
            if not self.is_busy:
                return
            self.turn()
        raise AssertionError(f"{most} turns, and there is still something to do: {self.kernel.events}")

    def client(self, name: str = "client", room: int = 0) -> Peer:
        """A client that has not connected. :param room: as of :meth:`Peer.limit`"""
        peer = Peer(name)
        peer.limit(room)
        return peer


__all__ = ["BACKEND", "NEVER", "SECOND_BACKEND", "Worker"]
