"""A worker: one process that accepts connections, relays, and reports to the supervisor.

It is forked from the template process (``template.py``), with its slot and descriptors. Listening sockets arrive over
the control channel. A worker imports nothing of the command line or the status page.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import sys
import time
from typing import NoReturn

from gateway.config.settings import AccessLog as AccessLogSettings
from gateway.config.settings import Settings
from gateway.edge.descriptors import Descriptors
from gateway.edge.edge import Edge
from gateway.imports import trim_memory
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
    Failures,
    Forget,
    KeepBackends,
    KeysFetched,
    KeysWanted,
    Learned,
    Listen,
    Message,
    Rebalance,
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
    UseBackends,
    UseCertificates,
    UseCredentials,
)
from gateway.processes.fdstore import Deposits
from gateway.processes.limits import forbid_core_dumps, raise_descriptor_limit
from gateway.routing.registry import Registry
from gateway.tunnels.learning.intervals import News
from gateway.tunnels.moving.adoption import Connections, adopt
from gateway.tunnels.moving.handback import hand_back
from gateway.tunnels.moving.handover import Handover, take_over
from gateway.tunnels.quotas.quotas import Quotas
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
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.table.table import Table

HAND_BACK_SECONDS = 1.0
"""How long pending data may take to be sent before another process resumes the tunnels; the same for the access log."""

log = logging.getLogger("gateway")


class Worker:
    """The state of one worker process."""

    def __init__(
        self,
        slot: int,
        table: Table,
        quotas: Quotas,
        poller: Poller,
        deposits: Deposits,
        descriptors: Descriptors,
    ) -> None:
        self._slice = Slice(table, slot)
        self._quotas = quotas
        self._poller = poller
        self._deposits = deposits
        self._descriptors = descriptors
        self._registry = Registry(MAX_ROUTES, MAX_BACKENDS)
        self._edge: Edge | None = None
        self._log_config: AccessLogSettings | None = None
        self._channel: Channel | None = None
        self._acceptors = Acceptors()
        self._names: dict[str, tuple[str, ...]] = {}
        """addresses of backend names"""
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
        """Serve the supervisor's messages until it sends :class:`Stop` or is gone."""
        channel = self._channel = Channel(control)
        while (message := await channel.receive()) is not None and not isinstance(message, Stop):
            try:
                await self._serve(message, channel)
            except Exception:
                if isinstance(message, TakeOver):
                    raise  # some tunnels are half taken over: exit, and the old worker keeps all of them
                log.exception("worker %d: %s failed", self._slice.slot, type(message).__name__)
        if message is None:
            if self._slice.cells[H_KEPT]:
                self._hand_back()
            await self._outlive_supervisor(channel)
        self._slice.cells[self._slice.block + W_READY] = 0
        if self._edge is not None:
            self._edge.close_idle()  # with TLS, clients hear that this is the end
            self._edge.config.close()
            self._edge.batch.flush()
            self._edge.log.close()
        self._deposits.close()
        await channel.close()

    async def _serve(self, message: Message, channel: Channel) -> None:
        """Serve one message."""
        if isinstance(message, Configure):
            try:
                await self._configure(message, channel)
            except OSError as error:
                channel.send(Failed(message.generation, f"worker {self._slice.slot}: {error}"))
            except Exception as error:
                log.exception("configuration %d could not be applied", message.generation)
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
            with contextlib.suppress(ConnectionResetError):  # the supervisor is gone; the channel ends next
                await self._take_part_in_upgrade(message, channel)
        elif isinstance(message, UseCertificates):
            if self._edge is not None:
                prepared = self._edge.prepare(message.listen)
                self._edge.use_ways(self._edge.ways.prepare(message.upstreams))
                self._edge.use_tls(prepared, message.listen)
                self._acceptors.use(self._edge, message.listen)
        elif isinstance(message, UseBackends):
            if self._edge is not None:
                self._edge.use_backends(message.upstreams, message.registry, message.drained_backends)
        elif isinstance(message, UseCredentials):
            if self._edge is not None:
                self._edge.credentials.use(message.texts)
        elif isinstance(message, KeysFetched):
            if self._edge is not None:
                self._edge.credentials.answered(message.source)
        elif isinstance(message, Drain):
            self._drain(message, channel)
        elif isinstance(message, DrainBackends) and self._edge is not None:
            self._edge.drain_backends(message.backends, message.period_seconds, message.close_code)
        elif isinstance(message, Rebalance) and self._edge is not None:
            self._edge.rebalance(message.upstream, message.turns, message.close_code, message.settles_until_ns)
        elif isinstance(message, KeepBackends) and self._edge is not None:
            self._edge.keep_backends(message.backends)

    async def _configure(self, message: Configure, channel: Channel) -> None:
        config = message.config
        if config.keeps_secrets:
            forbid_core_dumps()
        if self._edge is None:
            self._registry.use(message.registry)
            self._log_config = config.access_log
            self._acceptors.check(config)
            kept = self._deposits.inherited()
            edge = Edge(
                self._poller,
                self._slice,
                self._quotas,
                self._registry,
                Events(self._slice.slot),
                self._open_log(config),
                self._deposits,
                self._descriptors,
                self._want_keys,
            )
            edge.use_tls(edge.prepare(config.listen), config.listen)
            edge.ways.use(edge.ways.prepare(config.upstreams_with_tls()))
            edge.owner.on_learned = self._send_learned
            edge.failures.report = self._report_failures
            edge.addresses.use(self._names)
            self._edge = edge
            self._adopt(edge, kept)  # before the loop runs again: the edge assumes that it owns all rows of the slice
            edge.configure(config, message.registry, message.drained_backends)
            if message.drain is not None:
                self._drain(message.drain, channel)
            self._acceptors.use(edge, config.listen)
            self._accept(not message.takes_over)
            trim_memory()
        else:
            # Do what can fail first: a configuration is applied completely or not at all.
            self._acceptors.check(config)
            prepared = self._edge.prepare(config.listen)
            ways = self._edge.ways.prepare(config.upstreams_with_tls())
            new_log = self._open_log(config) if config.access_log != self._log_config else None
            self._edge.ways.use(ways)
            self._edge.configure(config, message.registry, message.drained_backends)
            self._edge.use_tls(prepared, config.listen)
            self._acceptors.use(self._edge, config.listen)
            if new_log is not None:
                self._edge.batch.flush()
                self._edge.log, old_log = new_log, self._edge.log
                self._log_config = config.access_log
                old_log.flush()
                await asyncio.to_thread(old_log.close, process_ends=False)  # it may wait for a stalled reader
            gc.collect()  # the configuration before
        self._slice.cells[self._slice.block + W_CONFIG] = message.generation
        gc.set_threshold(10_000, 20, 20)  # a handshake makes hundreds of objects but no cycles

    def _send_learned(self, news: News) -> None:
        """Report what this worker has learned about network paths, for the other workers."""
        assert self._channel is not None
        self._channel.send(Learned(news))

    def _report_failures(self, counts: dict[int, int]) -> None:
        """Report failures of backends, by number; the supervisor decides what follows."""
        assert self._channel is not None
        self._channel.send(Failures(counts))

    def _want_keys(self, url: str) -> None:
        """Have the supervisor fetch a key set that lacks a key."""
        assert self._channel is not None
        self._channel.send(KeysWanted(url))

    def _open_log(self, config: Settings) -> AccessLog:
        return AccessLog(config.access_log.path, config.access_log.format, self._log_lines_lost)

    def _log_lines_lost(self, count: int) -> None:
        self._slice.cells[self._slice.block + W_LOG_LINES_LOST] += count

    def _reopen_logs(self) -> None:
        if self._edge is not None:
            try:
                self._edge.log.reopen()
            except OSError as error:
                log.error("cannot reopen the access log: %s", error)

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
        """Release tunnels to this worker's successor, or take over those of the worker that this one replaces."""
        edge = self._edge
        assert edge is not None
        if isinstance(message, Release):
            self._accept(False)
            edge.owner.report_learned()
            await self._deposits.flushed()
            try:
                parcel = self._handover.release(message.tunnels)
            except OSError as error:  # the supervisor then sends Resume
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
            # Report before serving any of them: if this worker dies, it is known which worker the tunnels belong to.
            channel.send(TakenOver(tuple(left)))
            os.close(message.fd)
        else:
            edge.owner.resume_pacing()
            if message.fd != NO_DESCRIPTOR:
                edge.take_in(socket.socket(fileno=message.fd))
            self._accept(True)

    def _accept(self, accept: bool) -> None:
        """Start or stop accepting connections."""
        self._acceptors.accept(accept)
        self._slice.cells[self._slice.block + W_READY] = accept

    async def _retire(self, edge: Edge, channel: Channel, way_out: int) -> None:
        await edge.until_unused(socket.socket(fileno=way_out) if way_out != NO_DESCRIPTOR else None)
        channel.send(Retired())

    # --- draining --------------------------------------------------------------------------------------------------

    def _drain(self, order: Drain, channel: Channel) -> None:
        """Start to drain, or change the pace. Connections are still accepted, so that requests get a refusal."""
        if self._edge is not None:
            self._edge.drain(order.period_seconds, order.close_code)
        if self._finishing is not None:
            self._finishing.cancel()
        self._finishing = asyncio.create_task(self._finish(order.period_seconds, channel))

    async def _finish(self, seconds: float, channel: Channel) -> None:
        """Wait for the last tunnel, and for requests in flight up to their time limit; then report :class:`Drained`."""
        if self._edge is not None:
            await asyncio.gather(self._edge.owner.drained.wait(), self._edge.finish_requests(seconds))
        channel.send(Drained())

    def _hand_back(self) -> NoReturn:
        """The supervisor died and will be restarted: leave everything to the next worker, and exit.

        Connections in the listening sockets' queues wait for the next worker.
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
        # Serve no more events and run no cleanup: either would end tunnels.
        os._exit(0)

    async def _outlive_supervisor(self, channel: Channel) -> None:
        """The supervisor is gone and this worker will not be replaced: accept nothing new, drain, and exit.

        Closes the listening sockets at once, so that a new gateway can use the addresses.
        """
        self._acceptors.close()
        if self._edge is None or self._handover.under_way:
            # Another worker may already serve the released tunnels, and no supervisor is left to say so. Just exit.
            return
        if self._finishing is None:
            settings = self._edge.config.settings.drain
            self._drain(Drain(settings.period, settings.close_code), channel)
        assert self._finishing is not None
        await self._finishing
        await self._edge.close()


def main(slot: int, control_fd: int, store_fd: int, table_fd: int, quotas_fd: int) -> None:
    """Run a worker.

    :param control_fd: its end of the control channel
    :param store_fd: its end of the descriptor store's socket pair
    """
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s gateway[%(process)d] %(message)s",
    )
    descriptors = raise_descriptor_limit()
    use_files_of(slot)
    table = Table(table_fd)
    quotas = Quotas(quotas_fd)
    poller = Poller(table, descriptors)

    async def run() -> None:
        deposits = Deposits(socket.socket(fileno=store_fd), asyncio.get_running_loop())
        worker = Worker(slot, table, quotas, poller, deposits, Descriptors(descriptors))
        await worker.run(socket.socket(fileno=control_fd))

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(poller)) as runner:
        runner.run(run())
