"""How many tunnels each backend has had over the last hour. Kept in the supervisor's memory, of bounded size."""

from __future__ import annotations

import asyncio
import logging
import time
from array import array
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.admin.state import GatewayState

STEP_SECONDS = 30.0
STEPS = 120
"""An hour."""

Key = tuple[str, str]
log = logging.getLogger("gateway")


class History:
    """Samples, ``STEP_SECONDS`` apart; the oldest make room."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._tunnels: dict[Key, array[int]] = {}
        """by upstream and address, as many as there are times"""

    def take(self, tunnels: Mapping[Key, int], now_unix: float) -> None:
        """Add a sample. :param tunnels: by upstream and address, of all backends that there are"""
        before = len(self._times)
        self._times.append(now_unix)
        for key, count in tunnels.items():
            self._tunnels.setdefault(key, array("q", bytes(8 * before))).append(count)
        for key in self._tunnels.keys() - tunnels.keys():
            self._tunnels[key].append(0)
        if len(self._times) > STEPS:
            del self._times[0]
            for counts in self._tunnels.values():
                del counts[0]
        for key in [key for key, counts in self._tunnels.items() if key not in tunnels and not any(counts)]:
            del self._tunnels[key]

    def answer(self) -> dict[str, Any]:
        """``GET /api/v1/history``: times in seconds since 1970, and tunnels at each of them, by backend."""
        return {
            "times": list(self._times),
            "backends": [
                {"upstream": upstream, "address": address, "tunnels": counts.tolist()}
                for (upstream, address), counts in list(self._tunnels.items())
            ],
        }


async def keep_history(state: GatewayState) -> None:
    """Take samples for ever. One that fails is logged, and left out."""
    while True:
        try:
            state.history.take(tunnels_now(state), time.time())
        except Exception:
            log.exception("the history of tunnels could not be continued")
        await asyncio.sleep(STEP_SECONDS)


def tunnels_now(state: GatewayState) -> dict[Key, int]:
    """Tunnels of each backend, handshakes included, by upstream and address."""
    state.refresh(False)
    config = state.config
    return {
        (name, address): state.table.live(state.registry.backend(name, address))
        for name in config.upstreams
        for address in (str(backend.address) for backend in state.backends_of(config, name))
    }
