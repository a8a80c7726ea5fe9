"""A worker: one process that accepts, relays and tells.

Started by the supervisor through ``boot.py``, with its slot and descriptors that it inherits. Listening sockets come
through the control channel. It imports nothing of the command line or the status page.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from typing import NoReturn

from gateway.config.settings import AccessLog as AccessLogSettings
from gateway.config.settings import Settings
from gateway.edge.descriptors import Descriptors
from gateway.edge.edge import Edge
from gateway.imports import refreeze, without_collections
from gateway.observe.access_log import AccessLog
from gateway.observe.events import Events, use_files_of
from gateway.processes.acceptors import Acceptors
from gateway.processes.control.channel import Channel
from gateway.processes.control.messages import (
    NO_DESCRIPTOR,
    Accept,
    Configure,
    Configured,
    Drain,
    DrainBackends,
    Drained,
    Failed,
    Forget,
    Learned,
    Listen,
    Message,
    Release,
    Released,
    ReopenLogs,
    Resolved,
    Resume,
    Retire,
    Retired,
    Stop,
    TakenOver,
    TakeOver,
    Unlisten,
)
from gateway.processes.fdstore import Deposits
from gateway.processes.limits import raise_descriptor_limit
from gateway.routing.registry import Registry
from gateway.tunnels.learning.intervals import News
from gateway.tunnels.moving.adoption import Connections, adopt
from gateway.tunnels.moving.handback import hand_back
from gateway.tunnels.moving.handover import Handover, take_over
from gateway.tunnels.relay.poller import Poller
from gateway.tunnels.table.layout import (
    H_KEPT,
    MAX_BACKENDS,
    MAX_ROUTES,
    W_CONFIG,
    W_HEARTBEAT_NS,
    W_LOG_LINES_LOST,
    W_PID,
    W_READY,
    W_STARTED_UNIX_NS,
)
from gateway.tunnels.table.table import Slice, Table

HAND_BACK_SECONDS = 1.0
"""For what is pending to go out before another process carries tunnels on, and as much for the access log."""

log = logging.getLogger("gateway")


class Worker:
    """What one worker holds."""

    def __init__(self, slot: int, table: Table, poller: Poller, deposits: Deposits, descriptors: Descriptors) -> None:
        self._slice = Slice(table, slot)
        self._poller = poller
        self._deposits = deposits
        self._descriptors = descriptors
        self._registry = Registry(MAX_ROUTES, MAX_BACKENDS)
        self._edge: Edge | None = None
        self._log_config: AccessLogSettings | None = None
        self._channel: Channel | None = None
        self._acceptors = Acceptors()
        self._names: dict[str, tuple[str, ...]] = {}
        """where names of backends lead"""
        self._finishing: asyncio.Task[None] | None = None
        self._handover = Handover(self._slice, poller.relay)
        self._retiring: asyncio.Task[None] | None = None
        cells = table.cells
        block = self._slice.block
        cells[block + W_READY] = 0
        cells[block + W_HEARTBEAT_NS] = time.monotonic_ns()
        cells[block + W_STARTED_UNIX_NS] = time.time_ns()
        cells[block + W_PID] = os.getpid()

    async def run(self, control: socket.socket) -> None:
        """Do what the supervisor says, until it says to stop or is gone."""
        channel = self._channel = Channel(control)
        while (message := await channel.receive()) is not None and not isinstance(message, Stop):
            try:
                await self._serve(message, channel)
            except Exception:
                if isinstance(message, TakeOver):
                    raise  # with some tunnels half taken over: the worker before goes on with all of them
                log.exception("worker %d: %s failed", self._slice.slot, type(message).__name__)
        if message is None:
            if self._slice.cells[H_KEPT]:
                self._hand_back()
            await self._outlive_supervisor(channel)
        self._slice.cells[self._slice.block + W_READY] = 0
        if self._edge is not None:
            self._edge.batch.flush()
            self._edge.log.close()
        self._deposits.close()
        await channel.close()

    async def _serve(self, message: Message, channel: Channel) -> None:
        """Do what one message says."""
        if isinstance(message, Configure):
            try:
                await self._configure(message, channel)
            except OSError as error:
                channel.send(Failed(message.generation, f"worker {self._slice.slot}: {error}"))
            except Exception as error:
                log.exception("configuration %d could not be put in force", message.generation)
                channel.send(Failed(message.generation, str(error)))
            else:
                channel.send(Configured(message.generation))
        elif isinstance(message, Resolved):
            self._names = message.names
            if self._edge is not None:
                self._edge.use_names(self._names)
        elif isinstance(message, Listen):
            self._acceptors.add(message)
        elif isinstance(message, Unlisten):
            self._acceptors.give_up(message.address)
        elif isinstance(message, ReopenLogs):
            self._reopen_logs()
        elif isinstance(message, Learned):
            if self._edge is not None:
                self._edge.owner.intervals.adopt(message.news)
        elif isinstance(message, Release | Forget | Resume | Retire | TakeOver | Accept):
            with contextlib.suppress(ConnectionResetError):  # the supervisor is gone, and the channel says so next
                await self._take_part_in_upgrade(message, channel)
        elif isinstance(message, Drain):
            self._drain(message, channel)
        elif isinstance(message, DrainBackends) and self._edge is not None:
            self._edge.drain_backends(message.backends, message.period_seconds, message.close_code)

    async def _configure(self, message: Configure, channel: Channel) -> None:
        config = message.config
        if self._edge is None:
            self._registry.routes[:] = message.registry.routes
            self._registry.backends[:] = message.registry.backends
            self._log_config = config.access_log
            self._acceptors.check(config)
            kept = self._deposits.inherited()
            edge = Edge(
                self._poller,
                self._slice,
                self._registry,
                Events(),
                self._open_log(config),
                self._deposits,
                self._descriptors,
            )
            edge.owner.on_learned = self._tell_learned
            edge.addresses.use(self._names)
            self._edge = edge
            self._adopt(edge, kept)  # before the loop runs again: the edge takes all rows of the slice for its own
            edge.configure(config, message.registry, message.drained_backends)
            if message.drain is not None:
                self._drain(message.drain, channel)
            self._acceptors.use(edge)
            self._accept(not message.takes_over)
        else:
            # What can fail comes first: a configuration is put in force as a whole, or not at all.
            self._acceptors.check(config)
            new_log = self._open_log(config) if config.access_log != self._log_config else None
            self._edge.configure(config, message.registry, message.drained_backends)
            self._acceptors.use(self._edge)
            if new_log is not None:
                self._edge.batch.flush()
                self._edge.log, old_log = new_log, self._edge.log
                self._log_config = config.access_log
                old_log.flush()
                await asyncio.to_thread(
                    old_log.close, process_ends=False
                )  # it waits for a reader that may have stalled
        self._slice.cells[self._slice.block + W_CONFIG] = message.generation
        gc.set_threshold(10_000, 20, 20)  # a handshake makes hundreds of objects and no cycle
        refreeze()

    def _tell_learned(self, news: News) -> None:
        """What this worker learns of paths, the others are told."""
        assert self._channel is not None
        self._channel.send(Learned(news))

    def _open_log(self, config: Settings) -> AccessLog:
        return AccessLog(config.access_log.path, config.access_log.format, self._log_lines_lost)

    def _log_lines_lost(self, count: int) -> None:
        self._slice.cells[self._slice.block + W_LOG_LINES_LOST] += count

    def _reopen_logs(self) -> None:
        if self._edge is not None:
            try:
                self._edge.log.reopen()
            except OSError as error:
                log.error("the access log cannot be opened anew: %s", error)

    def _adopt(self, edge: Edge, kept: dict[int, Connections]) -> None:
        """Resume the tunnels of a worker that died in this slot."""
        found = adopt(self._slice, self._poller.relay, kept, edge.owner.tunnel_ended, self._deposits.forget)
        if any(found):
            log.warning(
                "worker %d: took over %d tunnels; lost %d (%d had data in flight, %d had no saved descriptors)",
                self._slice.slot,
                found.adopted,
                found.dirty + found.unkept,
                found.dirty,
                found.unkept,
            )

    # --- an upgrade ------------------------------------------------------------------------------------------------

    async def _take_part_in_upgrade(
        self, message: Release | Forget | Resume | Retire | TakeOver | Accept, channel: Channel
    ) -> None:
        """Give tunnels to the worker that replaces this one, or take over those of the one that this one replaces."""
        edge = self._edge
        assert edge is not None
        if isinstance(message, Release):
            self._accept(False)
            edge.owner.report_learned()
            await self._deposits.said()
            try:
                parcel = self._handover.release(message.tunnels)
            except OSError as error:  # the supervisor says Resume then
                log.error("worker %d cannot release tunnels: %s", self._slice.slot, error)
                channel.send(Released(NO_DESCRIPTOR))
            else:
                channel.send(Released(parcel))
                os.close(parcel)
        elif isinstance(message, Forget):
            self._handover.forget(message.left)
        elif isinstance(message, Resume):
            self._handover.resume()
            self._accept(True)
        elif isinstance(message, Retire):
            self._retiring = asyncio.create_task(self._retire(edge, channel, message.fd))
        elif isinstance(message, TakeOver):
            kept = self._deposits.inherited()
            _, left = take_over(self._slice, self._poller.relay, self._slice.table.copy_of, message.fd, kept)
            # Said at once, before any of them is served: should this worker die, the one before knows who serves them.
            channel.send(TakenOver(tuple(left)))
            os.close(message.fd)
        else:
            edge.owner.resume_pacing()
            if message.fd != NO_DESCRIPTOR:
                edge.take_in(socket.socket(fileno=message.fd))
            self._accept(True)

    def _accept(self, accept: bool) -> None:
        """Begin to accept connections, or stop."""
        self._acceptors.accept(accept)
        self._slice.cells[self._slice.block + W_READY] = accept

    async def _retire(self, edge: Edge, channel: Channel, way_out: int) -> None:
        await edge.until_unused(socket.socket(fileno=way_out) if way_out != NO_DESCRIPTOR else None)
        channel.send(Retired())

    # --- draining --------------------------------------------------------------------------------------------------

    def _drain(self, order: Drain, channel: Channel) -> None:
        """Begin to drain, or go on at another pace. Connections are accepted all the same, to be refused."""
        if self._edge is not None:
            self._edge.drain(order.period_seconds, order.close_code)
        if self._finishing is not None:
            self._finishing.cancel()
        self._finishing = asyncio.create_task(self._finish(order.period_seconds, channel))

    async def _finish(self, seconds: float, channel: Channel) -> None:
        """Wait for the last tunnel, and for requests in flight no longer than their time, and say so."""
        if self._edge is not None:
            await asyncio.gather(self._edge.owner.drained.wait(), self._edge.finish_requests(seconds))
        channel.send(Drained())

    def _hand_back(self) -> NoReturn:
        """The supervisor died and will be restarted: leave everything to the next worker, and exit.

        Connections waiting at the listening sockets wait for that one.
        """
        if self._edge is not None:
            stalled = hand_back(self._slice, self._poller.relay, HAND_BACK_SECONDS)
            tunnels = sum(1 for _ in self._slice.table.rows(self._slice.slot))
            log.warning(
                "worker %d: the supervisor died; left %d tunnels for the next one to resume%s",
                self._slice.slot,
                tunnels,
                f"; {stalled} have unsent data and will be lost" if stalled else "",
            )
            self._edge.batch.flush()
            self._edge.log.close(HAND_BACK_SECONDS)
        self._slice.cells[self._slice.block + W_READY] = 0
        # No further event may be served and no task may clean up: either would end tunnels.
        os._exit(0)

    async def _outlive_supervisor(self, channel: Channel) -> None:
        """The supervisor is gone, and nobody would replace this worker: drain, with nobody new let in, and exit.

        The listening sockets are closed at once, so that a new gateway can have the addresses.
        """
        self._acceptors.close()
        if self._edge is None or self._handover.under_way:
            # Another worker may serve by now what was released, and nobody is left to say so: it ends here, or there.
            return
        if self._finishing is None:
            settings = self._edge.config.settings.drain
            self._drain(Drain(settings.period, settings.close_code), channel)
        assert self._finishing is not None
        await self._finishing
        await self._edge.close()


def main(arguments: list[str]) -> None:
    """Run a worker.

    :param arguments: slot, and descriptors of the control socket, the store's socket and the table
    """
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s gateway[%(process)d] %(message)s",
    )
    slot, control_fd, store_fd, table_fd = (int(argument) for argument in arguments)
    # Signals are the supervisor's: a Ctrl-C, or a service manager's TERM to the whole group, must not end tunnels.
    # Nor must the ABRT with which systemd's watchdog ends a supervisor that hangs: it goes to the whole group, too.
    for name in ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "ABRT"):
        signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_IGN)
    descriptors = raise_descriptor_limit()
    with without_collections():
        use_files_of(slot)  # it imports prometheus-client
    table = Table(table_fd)
    poller = Poller(table, descriptors)

    async def run() -> None:
        deposits = Deposits(socket.socket(fileno=store_fd), asyncio.get_running_loop())
        worker = Worker(slot, table, poller, deposits, Descriptors(descriptors))
        await worker.run(socket.socket(fileno=control_fd))

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(poller)) as runner:
        runner.run(run())
