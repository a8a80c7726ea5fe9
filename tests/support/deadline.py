"""How long anything may take: one constant scales every time-out of the tests.

``GATEWAY_TEST_SCALE=5`` for a machine that is slow or busy. ``GATEWAY_SOAK=1`` has the tests that are marked ``soak``
run at their full size, which takes minutes.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

SCALE = float(os.environ.get("GATEWAY_TEST_SCALE", "1"))
DEADLINE_SECONDS = 30 * SCALE
"""For what takes milliseconds: even on a machine that does much else, nothing but a fault takes this long."""

PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.1
"""Before something is looked at again: first, and when it takes long. A scrape of a gateway costs milliseconds."""

SOAK = os.environ.get("GATEWAY_SOAK", "") not in ("", "0")

T = TypeVar("T")


async def within(work: Awaitable[T], what: str, seconds: float = DEADLINE_SECONDS) -> T:
    """Wait for ``work``. :raises AssertionError: it took longer; ``what`` says what was waited for"""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise AssertionError(f"waited {seconds:g} s for {what}") from None


async def eventually(
    found: Callable[[], T | None] | Callable[[], Awaitable[T | None]], what: str, seconds: float = DEADLINE_SECONDS
) -> T:
    """Look until something is there, or ask: for what announces no change. None and False are nothing.

    :raises AssertionError: it took longer
    """

    async def looking() -> T:
        pause = PAUSE_SECONDS
        while True:
            result = found()
            if inspect.isawaitable(result):
                result = await result
            if result:
                return result
            await asyncio.sleep(pause)
            pause = min(1.2 * pause, LONGEST_PAUSE_SECONDS)

    return await within(looking(), what, seconds)


async def turn(times: int = 1) -> None:
    """Let the event loop run what is ready, so many times."""
    for _ in range(times):
        await asyncio.sleep(0)


async def quiet_for(seconds: float) -> None:
    """Let time pass that is itself what is tested: a peer's pause, or a while in which nothing must happen.

    Never for what may take longer on a busy machine: that is awaited (:func:`eventually`, events, lines of a log).
    """
    await asyncio.sleep(seconds)
