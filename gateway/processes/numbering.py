"""Makes the numbers of backends available again that nothing refers to any more, in the supervisor.

Otherwise backends that come and go would use up the table. What a number may mean is decided in
``routing/registry.py``; this looks at what refers to it: configuration, discovery, tunnels, requests, connections.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from gateway.admin.state import GatewayState
from gateway.routing.registry import FREE, BackendKey, Vacancies

LOOK_SECONDS = 5.0
log = logging.getLogger("gateway")


class Numbering:
    """The numbers of one gateway's backends."""

    def __init__(
        self, state: GatewayState, current: Callable[[], Iterable[BackendKey]], vacancies: Vacancies | None = None
    ) -> None:
        """:param current: returns the backends that are configured or discovered"""
        self._state = state
        self._current = current
        self._vacancies = vacancies or Vacancies()

    async def run(self) -> None:
        """Look again and again, as long as the gateway runs."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                self.look(time.monotonic())
            except Exception:
                log.exception("numbers of backends could not be made available")

    def look(self, now: float) -> None:
        """Make numbers available. :param now: clock in seconds"""
        state = self._state
        registry, table = state.registry, state.table
        if state.upgrade is not None and state.upgrade.ok is None:
            return  # workers of two programs are running
        current = set(self._current())
        referred = {number for number, key in enumerate(registry.backends) if key in current}
        if any(key != FREE and number not in referred for number, key in enumerate(registry.backends)):
            state.refresh(True)
            referred |= table.backends_in_use()
        for number in self._vacancies.look(registry, referred, now):
            log.debug("backend %s of %s: its number %d is free", *reversed(registry.backends[number]), number)
            for counts in (state.health_checks, state.ejections, state.rebalanced):
                for labels in [labels for labels in counts if labels[:2] == registry.backends[number]]:
                    del counts[labels]
            table.forget_backend(number)
            registry.free(number)
            # Replace the mapping: a thread may be reading the old one.
            state.drained_backends = {n: each for n, each in state.drained_backends.items() if n != number}
