"""Drains: of backends, and of the whole gateway before it exits."""

from __future__ import annotations

import asyncio
import logging

from gateway.admin.state import DrainState
from gateway.processes.control.messages import Drain, DrainBackends, ReopenLogs
from gateway.processes.notify import Notifier
from gateway.processes.orders import FATAL, Order, Orders
from gateway.processes.workers import Workers

MARGIN_SECONDS = 10.0
"""Added to the expected time of a drain when extending the service manager's time-out."""

log = logging.getLogger("gateway")


class Draining:
    """Closes tunnels over the time that the configuration sets."""

    def __init__(self, workers: Workers, orders: Orders, notifier: Notifier) -> None:
        """:param orders: what else is asked for during the last drain"""
        self._workers = workers
        self._orders = orders
        self._notifier = notifier

    def drain_backends(self, backends: frozenset[int]) -> list[DrainState]:
        """Stop sending new requests to backends, and close their tunnels over the drain period.

        :param backends: their numbers
        """
        settings, state = self._workers.config.drain, self._workers.state
        state.refresh(True)
        drains = {backend: DrainState(settings.period, state.table.live(backend)) for backend in backends}
        for backend, drain in drains.items():
            upstream, address = state.registry.backends[backend]
            log.info("draining %s of %s: %d tunnels over %g s", address, upstream, drain.tunnels, settings.period)
        # Replace the mapping: a thread may be reading the old one.
        state.drained_backends = state.drained_backends | drains
        self._workers.send_to_all(DrainBackends(backends, settings.period, settings.close_code))
        return list(drains.values())

    async def drain(self, order: Order) -> None:
        """Drain until the last tunnel has ended. A second TERM closes the rest at once; INT or QUIT stops waiting."""
        settings, state = self._workers.config.drain, self._workers.state
        state.stopping = True
        state.refresh(True)
        drain = state.drain = DrainState(settings.period, state.table.tunnels())
        log.info("draining %d tunnels over %g s", drain.tunnels, settings.period)
        longest_close = max(route.timeouts.close for route in self._workers.config.routes)
        self._notifier.stopping(settings.period + longest_close + MARGIN_SECONDS)
        self._workers.send_to_all(Drain(settings.period, settings.close_code))
        order.done(drain)
        drain.cut_short = True  # until it is over
        request: asyncio.Task[Order] | None = None
        while not self._workers.all_drained():
            request = request or asyncio.create_task(self._orders.get())
            progress = asyncio.create_task(self._workers.progress.wait())
            await asyncio.wait((progress, request), return_when=asyncio.FIRST_COMPLETED)
            progress.cancel()
            if not request.done():
                continue
            order, request = request.result(), None
            if order.name == "USR1":
                self._workers.send_to_all(ReopenLogs())
            elif order.name == "TERM":
                log.info("%s: closing the remaining tunnels at once", order)
                self._workers.send_to_all(Drain(0, settings.close_code))
                order.done(drain)
            elif order.name in ("INT", "QUIT", FATAL):
                log.info("%s: the drain is cut short", order)
                order.done()
                return
            else:
                log.info("%s: ignored, the gateway is already shutting down", order)
                order.refuse("the gateway is shutting down")
        if request is not None:
            request.cancel()
        drain.cut_short = False
        log.info("drained in %.1f s", drain.seconds)
