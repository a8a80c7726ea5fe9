"""The supervisor's orders, from signals and the admin API: a queue, served one after another."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from gateway.admin.operations import NotDone
from gateway.admin.rebalances import RebalanceAsked, RebalanceState
from gateway.admin.state import DrainState

DRAIN_BACKENDS = "drain backends"
REBALANCE = "rebalance"
FATAL = "fatal"
"""The gateway cannot go on."""


@dataclass
class Order:
    """One order: the name of a signal, or one of the names above."""

    name: str
    backends: frozenset[int] = frozenset()
    """numbers of the backends to drain"""
    answer: asyncio.Future[Any] | None = None
    """done once the order is done or begun; None if no client waits for that"""
    rebalance: RebalanceAsked | None = None
    connection: int | None = None
    """descriptor of the waiting client's connection, if the answer may have to come from the next program"""

    def __str__(self) -> str:
        return f"signal {self.name}" if self.answer is None else f"admin API: {self.name}"

    def done(self, result: Any = None) -> None:
        """Answer that the order is done, or begun."""
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(result)

    def refuse(self, reason: str) -> None:
        """Answer why the order is not done."""
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(NotDone(reason))


class Orders:
    """The queue of orders. Implements :class:`gateway.admin.operations.Operations`."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Order] = asyncio.Queue()
        self._closed: str | None = None

    async def get(self) -> Order:
        """Wait for the next order."""
        return await self._queue.get()

    def add(self, name: str) -> None:
        """Add an order that needs no answer, such as a signal."""
        self._queue.put_nowait(Order(name))

    def close(self, reason: str) -> None:
        """Refuse all orders from now on. :param reason: the answer to waiting clients"""
        self._closed = reason
        while not self._queue.empty():
            self._queue.get_nowait().refuse(reason)

    def signals(self) -> list[str]:
        """Return the signals that are in the queue."""
        orders: list[Order] = []
        while not self._queue.empty():
            orders.append(self._queue.get_nowait())
        for order in orders:
            self._queue.put_nowait(order)
        return [order.name for order in orders if order.answer is None]

    async def reload(self) -> None:
        await self._done("HUP")

    async def drain(self) -> DrainState:
        drain: DrainState = await self._done("TERM")
        return drain

    async def drain_backends(self, backends: frozenset[int]) -> list[DrainState]:
        drains: list[DrainState] = await self._done(DRAIN_BACKENDS, backends)
        return drains

    async def rebalance(self, asked: RebalanceAsked) -> list[RebalanceState]:
        states: list[RebalanceState] = await self._done(REBALANCE, rebalance=asked)
        return states

    async def stop(self) -> None:
        await self._done("INT")

    async def upgrade(self, connection: int) -> None:
        await self._done("USR2", connection=connection)

    async def _done(
        self,
        name: str,
        backends: frozenset[int] = frozenset(),
        connection: int | None = None,
        rebalance: RebalanceAsked | None = None,
    ) -> Any:
        if self._closed is not None:
            raise NotDone(self._closed)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(Order(name, backends, answer, rebalance, connection))
        return await answer
