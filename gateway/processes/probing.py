"""Decides when backends are checked: each at its own pace, a bounded number at the same time."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping

from gateway.processes.probes import Checkable, CheckFailed, Probes
from gateway.routing.health.checks import first_pause, next_pause

AT_ONCE = 256
"""Checks under way at the same time."""

Result = Callable[[int, CheckFailed | None], None]
"""Called with a backend's number after each check, and with why it failed, or None."""

log = logging.getLogger("gateway")


class Probing:
    """The checks of one gateway."""

    def __init__(self, result: Result) -> None:
        self.probes = Probes()
        self._result = result
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._checked: dict[int, tuple[Checkable, asyncio.Task[None]]] = {}

    def use(self, wanted: Mapping[int, Checkable]) -> None:
        """Check exactly these from now on, by their numbers. The pace of those that stay the same goes on."""
        for number, (backend, task) in list(self._checked.items()):
            if wanted.get(number) != backend:
                del self._checked[number]
                task.cancel()
        for number, backend in wanted.items():
            if number not in self._checked:
                self._checked[number] = backend, asyncio.create_task(self._run(number, backend))
        self.probes.use_tls({backend.tls for backend in wanted.values() if backend.tls is not None})

    async def close(self) -> None:
        """Check nothing more."""
        tasks = [task for _, task in self._checked.values()]
        self._checked.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, number: int, backend: Checkable) -> None:
        every = backend.check.every
        await asyncio.sleep(first_pause(every, random.random()))
        while True:
            started = time.monotonic()
            try:
                async with self._turns:
                    failure = await self._check(backend)
                self._result(number, failure)
            except Exception:
                log.exception("health check of %s of %s: unexpected error", backend.address, backend.upstream)
            await asyncio.sleep(next_pause(every, time.monotonic() - started, random.random()))

    async def _check(self, backend: Checkable) -> CheckFailed | None:
        try:
            await self.probes.check(backend)
        except CheckFailed as failure:
            return failure
        except Exception as error:
            log.exception("health check of %s of %s: unexpected error", backend.address, backend.upstream)
            return CheckFailed(f"{type(error).__name__} in the gateway")
        return None
