"""The supervisor's part of an upgrade, before and after ``execv``.

``upgrade.py`` describes the steps, and has those that concern one program or one pair of workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable

from gateway.admin.operations import answer_upgrade
from gateway.admin.state import GatewayState, UpgradeState
from gateway.edge.passage import passage
from gateway.processes import upgrade
from gateway.processes.children import Child
from gateway.processes.control.channel import Channel
from gateway.processes.control.messages import NO_DESCRIPTOR, Accept, Drain, Stop
from gateway.processes.inheritance import Inheritance
from gateway.processes.orders import Order, Orders
from gateway.processes.worker_process import WorkerProcess
from gateway.processes.workers import BOOT_SECONDS, Workers
from gateway.tunnels.table.layout import W_READY
from gateway.version import VERSION

Leave = Callable[[dict[int, bytes], list[int]], Inheritance]
"""Collects the state for the next program. Arguments: incomplete messages from workers, by slot; connections of admin
API clients that wait for the result."""

log = logging.getLogger("gateway")


class Succession:
    """Upgrades of one supervisor."""

    def __init__(self, workers: Workers, orders: Orders, leave: Leave, demo: bool = False) -> None:
        self._workers = workers
        self._state: GatewayState = workers.state
        self._orders = orders
        self._leave = leave
        self._demo = demo
        self._asking: list[int] = []
        self.draining: set[asyncio.Task[None]] = set()
        """one task for each replaced worker that is finishing"""

    def cancel(self) -> None:
        """Stop waiting for replaced workers to finish."""
        for task in self.draining:
            task.cancel()

    async def begin(self, order: Order) -> None:
        """Upgrade: replace this process with the program that is installed now. Returns only on failure."""
        self._state.upgrade = UpgradeState(None, time.time())
        suspended: list[WorkerProcess] = []
        try:
            if self._demo:
                raise upgrade.NotUpgraded("the demo cannot be upgraded: its backend is part of it")
            if self.draining:
                await asyncio.wait(self.draining)
            await self._until_all_serve()
            await upgrade.try_out(self._leave({}, []))
            log.info("the new program starts; switching to it now")
            await self._until_all_serve()
            suspended = list(self._workers.running.values())
            for _ in range(2):  # a message from one worker may cause messages to the others
                received = {worker.slot: await worker.channel.suspend() for worker in suspended}
            if self._workers.running.keys() != received.keys():
                raise upgrade.NotUpgraded("a worker died during the upgrade")
            self._workers.starter.stop()
            upgrade.execute(self._leave(received, [] if order.connection is None else [order.connection]))
        except (upgrade.NotUpgraded, OSError) as error:
            for worker in suspended:
                worker.channel.proceed()
            self._upgraded(str(error))
            order.refuse(str(error))

    async def _until_all_serve(self) -> None:
        """:raises upgrade.NotUpgraded: a worker is missing, and its successor does not come up"""
        give_up = time.monotonic() + BOOT_SECONDS
        while not all(
            slot in self._workers.running and self._workers.running[slot].ready for slot in self._state.slots
        ):
            if time.monotonic() > give_up:
                raise upgrade.NotUpgraded("not all workers are running")
            await asyncio.sleep(0.05)

    def _upgraded(self, error: str | None) -> None:
        """Record, log and answer the result of an upgrade. :param error: None for success"""
        self._state.upgrade = UpgradeState(error is None, time.time(), error)
        if error is not None:
            log.error("upgrade failed: %s", error)
        while self._asking:
            answer_upgrade(self._asking.pop(), self._state.upgrade)

    def take_on(self, inherited: Inheritance) -> None:
        """Take over from the previous program, with the workers that it started."""
        state = self._state
        state.upgrade = UpgradeState(None, time.time())
        self._asking = inherited.asking
        for name in inherited.signals:
            self._orders.add(name)
        for each in inherited.running:
            channel = Channel(socket.socket(fileno=each.control), bytes.fromhex(each.received))
            worker = WorkerProcess(each.slot, Child(each.pid), channel, each.started, each.ready)
            self._workers.running[each.slot] = worker
            state.slots[state.table.index_of(each.slot)] = each.slot
            self._workers.stores[each.slot].restore(each.tunnels, socket.socket(fileno=each.store))
            self._workers.receive_from(worker)
        for slot in state.slots:
            self._workers.keep_running(self._workers.running[slot])

    async def replace_all(self, version: str) -> None:
        """Replace the old workers with new ones. :param version: of the program that started the old ones"""
        old = [self._workers.running[slot] for slot in self._state.slots]
        began = time.monotonic()
        try:
            new = await self._start_successors(old)
            moved = []
            failures = []
            for before, after in zip(old, new, strict=True):
                try:
                    moved.append(await self._replace(before, after))
                except upgrade.HandoverFailed as error:
                    failures.append(str(error))
        except upgrade.NotUpgraded as error:
            self._upgraded(str(error))
            return
        except Exception as error:
            log.exception("unexpected error during the upgrade")
            self._upgraded(f"{type(error).__name__}: {error}")
            return
        self._upgraded("; ".join(failures) or None)
        if not failures:
            log.info(
                "upgraded from %s to %s in %.1f s: handed over %d tunnels, each paused for at most %.0f ms",
                version,
                VERSION,
                time.monotonic() - began,
                sum(each.tunnels for each in moved),
                max(each.seconds for each in moved) * 1000,
            )

    async def _start_successors(self, old: list[WorkerProcess]) -> list[WorkerProcess]:
        """Start a successor for each old worker. They do not accept connections yet.

        :raises upgrade.NotUpgraded: one did not start; all have been ended
        """
        new: list[WorkerProcess] = []
        try:
            for worker in old:
                new.append(await self._workers.spawn(self._state.table.other_slot(worker.slot)))
                if not await self._workers.boot(new[-1], takes_over=True):
                    raise upgrade.NotUpgraded(f"worker {new[-1].name} of the new program did not start")
        except (OSError, upgrade.NotUpgraded) as error:
            for worker in new:
                await self._workers.end_worker(worker)
            raise upgrade.NotUpgraded(str(error)) from None
        return new

    async def _replace(self, old: WorkerProcess, new: WorkerProcess) -> upgrade.Moved:
        """Replace one worker with another. :returns: what was handed over

        :raises upgrade.HandoverFailed: nothing, or not everything, was handed over
        """
        index = self._state.table.index_of(old.slot)
        stores = self._workers.stores[old.slot], self._workers.stores[new.slot]
        total = upgrade.Moved(0, 0.0)
        failure = None
        try:
            while (moved := await upgrade.hand_over(old, new, *stores, self._workers.mirrors)).tunnels:
                total = upgrade.Moved(total.tunnels + moved.tunnels, max(total.seconds, moved.seconds))
        except upgrade.HandoverFailed as error:
            failure = error
            if not total.tunnels:
                await self._workers.end_worker(new)
                raise
        # From here on it is a worker like any other: if it dies, its successor resumes its tunnels.
        self._state.slots[index] = new.slot
        self._workers.keep_running(new)
        ways = self._passage()
        new.channel.send(Accept(ways[1].fileno() if ways else NO_DESCRIPTOR))
        self._workers.retire(old, ways[0].fileno() if ways else NO_DESCRIPTOR)
        for way in ways:
            way.close()
        task = asyncio.create_task(self._drain(old.slot, new.slot))
        self.draining.add(task)
        task.add_done_callback(self.draining.discard)
        if failure is not None:
            raise failure
        ready = self._state.table.worker(new.slot) + W_READY
        while not self._state.table.cells[ready] and self._workers.running.get(new.slot) is new:  # noqa: ASYNC110  # a cell
            await asyncio.sleep(0.01)
        return total

    @staticmethod
    def _passage() -> tuple[socket.socket, ...]:
        """Make a socket pair for handing over client connections to a worker; empty if no descriptors are left."""
        try:
            return passage()
        except OSError as error:
            log.warning("client connections cannot be handed over and are closed between requests: %s", error)
            return ()

    async def _drain(self, left: int, slot: int) -> None:
        """Let a replaced worker finish, and hand over the tunnels that its last handshakes open.

        If it dies before that, a successor in its slot resumes the remaining tunnels, and is drained in the same way.

        :param left: slot of the replaced worker
        :param slot: the slot of the worker that replaced it
        """
        workers = self._workers
        give_up = time.monotonic() + upgrade.FINISH_SECONDS
        while left in workers.kept and time.monotonic() < give_up:
            old = workers.running.get(left)
            if old is not None and old.reported_done:
                break
            if old is None or old.ready is None or old.finished.is_set():
                await asyncio.sleep(0.05)  # it has died; a successor starts if tunnels are left
                continue
            if not old.retire_sent:
                workers.retire(old, NO_DESCRIPTOR)
            await self._hand_over_rest(old, slot)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await old.finished.wait()
        workers.replaced.discard(left)
        if (old := workers.running.get(left)) is None:
            return
        if not old.reported_done:
            log.warning("worker %s did not finish within %.0f s; ending it", old.name, upgrade.FINISH_SECONDS)
            old.channel.send(Drain(0, workers.config.drain.close_code))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(upgrade.ANSWER_SECONDS):
                    await old.finished.wait()
        old.channel.send(Stop())
        while workers.running.get(left) is old:
            if time.monotonic() > give_up + 2 * upgrade.ANSWER_SECONDS:
                old.process.kill()
            await asyncio.sleep(0.02)

    async def _hand_over_rest(self, old: WorkerProcess, slot: int) -> None:
        """Hand over the remaining tunnels of a replaced worker, if there are any and its successor is ready."""
        workers = self._workers
        new = workers.running.get(slot)
        workers.mirrors.refresh()
        if new is not None and new.ready is not None and any(self._state.table.rows(old.slot)):
            stores = workers.stores[old.slot], workers.stores[slot]
            try:
                await upgrade.hand_over(old, new, *stores, workers.mirrors)
            except upgrade.HandoverFailed as error:
                log.error("worker %s: tunnels cannot be handed over now: %s", old.name, error)
