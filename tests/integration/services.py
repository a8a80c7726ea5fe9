"""A gateway that is a service, and a service manager that keeps its descriptors; fixtures of them: ``conftest.py``."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

from gateway.tunnels.table.table import Table
from tests.conftest import StartGateway
from tests.support.deadline import eventually
from tests.support.fdstore import DescriptorKeeper
from tests.support.gateway import Gateway
from tests.support.process import children, gone
from tests.support.scrape import Scrape

MOST = 64
"""Descriptors that a manager keeps."""


class Service:
    """A gateway that is a service: whatever ends it, it can be started again with what was kept."""

    def __init__(self, start: StartGateway, keeper: DescriptorKeeper, env: Mapping[str, str]) -> None:
        self._start = start
        self._env = env
        self.keeper = keeper
        self.gateway: Gateway

    async def start(self, config: dict[str, Any] | None = None, ready: bool = True) -> Gateway:
        """Start it. :param config: a new one; the one that it had if absent"""
        options = self.keeper.start_options()
        options["env"] = {**options["env"], **self._env}
        self.gateway = await self._start(self.gateway.config if config is None else config, ready=ready, **options)
        return self.gateway

    @property
    def processes(self) -> list[int]:
        """Its workers."""
        return [int(child) for child in children(self.gateway.process.pid)]

    async def kill(self) -> None:
        """Kill the supervisor. ``gateway.exits`` is to follow: it waits for all who write to the same streams."""
        self.gateway.process.signal(signal.SIGKILL)
        await gone(self.gateway.process.pid)

    async def die(self) -> None:
        """Kill the supervisor, and see all processes gone."""
        workers = self.processes
        await self.kill()
        for pid in workers:
            await gone(pid)
        await self.gateway.exits(-signal.SIGKILL)

    def table(self) -> Table:
        """Its table, as the manager keeps it."""
        (fd,) = self.keeper.of_kind("table")
        return Table(os.dup(fd))

    async def stored(self, count: int) -> None:
        """Wait until the connections of so many tunnels are in the manager's store."""
        await eventually(lambda: self.keeper.tunnels() >= count, f"{count} tunnels in store")


MakeService = Callable[..., Service]


class Counters:
    """All counters, which never go down."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    async def look(self, gateway: Gateway) -> Scrape:
        scrape = await gateway.scrape()
        now = scrape.counters()
        assert now
        assert {key: (now.get(key), value) for key, value in self._before.items() if now.get(key, 0) < value} == {}
        self._before = now
        return scrape
