"""A worker: one process that accepts, relays and tells.

Started by the supervisor as ``python -m gateway.processes.worker SLOT CONTROL STORE TABLE LISTENER…``, all but the
first being descriptors that it inherits. It imports nothing of the command line or the status page.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time

from gateway.config.schema import AccessLog as AccessLogConfig
from gateway.config.schema import Config
from gateway.edge.descriptors import Descriptors
from gateway.edge.edge import Edge
from gateway.edge.listener import Listener
from gateway.observe.access_log import AccessLog
from gateway.observe.events import Events, use_files_of
from gateway.processes.control import (
    Accept,
    Channel,
    Configure,
    Configured,
    Failed,
    Forget,
    Learned,
    Release,
    Released,
    ReopenLogs,
    Resume,
    Retire,
    Retired,
    Stop,
    TakenOver,
    TakeOver,
)
from gateway.processes.fdstore import Deposits
from gateway.processes.limits import raise_descriptor_limit
from gateway.routing.registry import Registry
from gateway.tunnels.adoption import Connections, adopt
from gateway.tunnels.handover import Handover, take_over
from gateway.tunnels.intervals import News
from gateway.tunnels.layout import (
    MAX_BACKENDS,
    MAX_ROUTES,
    W_CONFIG,
    W_HEARTBEAT_NS,
    W_LOG_LINES_LOST,
    W_PID,
    W_READY,
    W_STARTED_UNIX_NS,
)
from gateway.tunnels.poller import Poller
from gateway.tunnels.table import Slice, Table

GRACE_SECONDS = 5.0
"""For requests that are being served when the gateway drains."""

log = logging.getLogger("gateway")


class Worker:
    """What one worker holds."""

    def __init__(
        self,
        slot: int,
        table: Table,
        poller: Poller,
        listeners: list[socket.socket],
        deposits: Deposits,
        descriptors: Descriptors,
    ) -> None:
        self._slice = Slice(table, slot)
        self._poller = poller
        self._sockets = listeners
        self._deposits = deposits
        self._descriptors = descriptors
        self._registry = Registry(MAX_ROUTES, MAX_BACKENDS)
        self._edge: Edge | None = None
        self._log_config: AccessLogConfig | None = None
        self._channel: Channel | None = None
        self._listeners: list[Listener] = []
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
        draining: asyncio.Task[None] | None = None
        while True:
            message = await channel.receive()
            if isinstance(message, Configure):
                try:
                    await self._configure(message)
                except OSError as error:
                    channel.send(Failed(message.generation, f"worker {self._slice.slot}: {error}"))
                except Exception as error:
                    log.exception("configuration %d could not be put in force", message.generation)
                    channel.send(Failed(message.generation, str(error)))
                else:
                    channel.send(Configured(message.generation))
            elif isinstance(message, ReopenLogs):
                self._reopen_logs()
            elif isinstance(message, Learned):
                if self._edge is not None:
                    self._edge.intervals.adopt(message.news)
            elif isinstance(message, Release | Forget | Resume | Retire | TakeOver | Accept):
                await self._take_part_in_upgrade(message, channel)
            elif isinstance(message, Stop):
                break
            elif draining is None:
                # Told to drain, or the supervisor is gone and nobody would replace this worker.
                draining = asyncio.create_task(self._drain(channel))
            if message is None:
                break
        if draining is not None and not isinstance(message, Stop):
            await draining
        self._slice.cells[self._slice.block + W_READY] = 0
        if self._edge is not None:
            self._edge.batch.flush()
            self._edge.log.close()
        self._deposits.close()
        await channel.close()

    async def _take_part_in_upgrade(
        self, message: Release | Forget | Resume | Retire | TakeOver | Accept, channel: Channel
    ) -> None:
        """Do what another worker of the same place needs, which replaces this one or is replaced by it."""
        edge = self._edge
        assert edge is not None
        if isinstance(message, Release):
            self._accept(False)
            edge.tell_learned()
            await self._deposits.said()
            parcel = self._handover.release(message.tunnels)
            channel.send(Released(parcel))
            os.close(parcel)
        elif isinstance(message, Forget):
            self._handover.forget(message.left)
        elif isinstance(message, Resume):
            self._handover.resume()
            self._accept(True)
        elif isinstance(message, Retire):
            self._retiring = asyncio.create_task(self._retire(edge, channel))
        elif isinstance(message, TakeOver):
            kept = self._deposits.inherited()
            _, left = take_over(self._slice, self._poller.relay, self._slice.table.copy_of, message.fd, kept)
            os.close(message.fd)
            channel.send(TakenOver(tuple(left)))
        else:
            self._accept(True)

    def _accept(self, accept: bool) -> None:
        """Begin to accept connections, or stop."""
        self._slice.cells[self._slice.block + W_READY] = accept
        for listener in self._listeners:
            if accept:
                listener.start()
            else:
                listener.stop()

    async def _retire(self, edge: Edge, channel: Channel) -> None:
        await edge.until_unused()
        channel.send(Retired())

    def tunnel_ended(self, row: int) -> None:
        """The relay has ended a tunnel."""
        assert self._edge is not None
        self._edge.tunnel_ended(row)

    def side_answered(self, row: int, side: int, silence_ns: int) -> None:
        """The relay has seen a side answer after a silence."""
        assert self._edge is not None
        self._edge.intervals.answered(row, side, silence_ns)

    async def _configure(self, message: Configure) -> None:
        config = message.config
        if self._edge is None:
            self._registry.routes[:] = message.registry.routes
            self._registry.backends[:] = message.registry.backends
            self._log_config = config.access_log
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
            edge.on_learned = self._tell_learned
            self._edge = edge
            self._adopt(edge, kept)  # before the loop runs again: the edge takes all rows of the slice for its own
            await edge.configure(config, message.registry)
            self._listeners = [Listener(edge, sock) for sock in self._sockets]
            if not message.takes_over:
                self._accept(True)
            edge.spawn(edge.prepare_plain())
        else:
            # What can fail comes first: a configuration is put in force as a whole, or not at all.
            new_log = self._open_log(config) if config.access_log != self._log_config else None
            await self._edge.configure(config, message.registry)
            if new_log is not None:
                self._edge.batch.flush()
                self._edge.log, old_log = new_log, self._edge.log
                self._log_config = config.access_log
                old_log.flush()
                await asyncio.to_thread(old_log.close)  # it waits for a reader that may have stalled
        self._slice.cells[self._slice.block + W_CONFIG] = message.generation
        gc.set_threshold(10_000, 20, 20)  # a handshake makes hundreds of objects and no cycle
        gc.collect()
        gc.freeze()  # what is there now stays: collections need not walk it again

    def _tell_learned(self, news: News) -> None:
        """What this worker learns of paths, the others are told."""
        assert self._channel is not None
        self._channel.send(Learned(news))

    def _open_log(self, config: Config) -> AccessLog:
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
        """Carry on the tunnels of a worker that died in this slot."""
        found = adopt(self._slice, self._poller.relay, kept, edge.tunnel_ended, self._deposits.forget)
        if any(found):
            log.warning(
                "worker %d: %d tunnels of the worker before it live on, %d were lost with it: it had bytes of %d in its"
                " hands, and the connections of %d were not kept",
                self._slice.slot,
                found.adopted,
                found.dirty + found.unkept,
                found.dirty,
                found.unkept,
            )

    async def _drain(self, channel: Channel) -> None:
        for listener in self._listeners:
            listener.stop()
        if self._edge is not None:
            edge = self._edge
            if self._handover.under_way:
                # Another worker may serve these tunnels by now, and nobody is left to say so.
                os._exit(1)
            edge.drain()
            await edge.finish_plain(GRACE_SECONDS)
            await edge.drained.wait()
            await edge.close()
        await channel.close()


def main(arguments: list[str]) -> None:
    """Run a worker.

    :param arguments: slot, and descriptors of the control socket, the store's socket, the table and the listeners
    """
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s gateway[%(process)d] %(message)s",
    )
    slot, control_fd, store_fd, table_fd, *listener_fds = (int(argument) for argument in arguments)
    # Signals are the supervisor's: a Ctrl-C, or a service manager's TERM to the whole group, must not end tunnels.
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
    ):
        signal.signal(number, signal.SIG_IGN)
    descriptors = raise_descriptor_limit()
    use_files_of(slot)
    table = Table(table_fd)
    worker: Worker | None = None

    def tunnel_ended(row: int) -> None:
        assert worker is not None
        worker.tunnel_ended(row)

    def side_answered(row: int, side: int, silence_ns: int) -> None:
        assert worker is not None
        worker.side_answered(row, side, silence_ns)

    poller = Poller(table, descriptors, tunnel_ended, side_answered)

    async def run() -> None:
        nonlocal worker
        listeners = [socket.socket(fileno=fd) for fd in listener_fds]
        deposits = Deposits(socket.socket(fileno=store_fd), asyncio.get_running_loop())
        worker = Worker(slot, table, poller, listeners, deposits, Descriptors(descriptors))
        await worker.run(socket.socket(fileno=control_fd))

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(poller)) as runner:
        runner.run(run())


if __name__ == "__main__":
    main(sys.argv[1:])
