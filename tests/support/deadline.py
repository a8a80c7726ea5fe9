"""How long anything may take: one constant scales every time-out of the tests.

``GATEWAY_TEST_SCALE=5`` for a machine that is slow or busy. ``GATEWAY_SOAK=1`` has the tests that are marked ``soak``
run at their full size, which takes minutes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

SCALE = float(os.environ.get("GATEWAY_TEST_SCALE", "1"))
DEADLINE_SECONDS = 10 * SCALE
"""For what takes milliseconds: nothing but a fault takes this long."""

PAUSE_SECONDS = 0.02
"""Before something is looked at again."""

SOAK = os.environ.get("GATEWAY_SOAK", "") not in ("", "0")

T = TypeVar("T")


async def within(work: Awaitable[T], what: str, seconds: float = DEADLINE_SECONDS) -> T:
    """Wait for ``work``. :raises AssertionError: it took longer; ``what`` says what was waited for"""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise AssertionError(f"waited {seconds:g} s for {what}") from None


async def eventually(found: Callable[[], T | None], what: str, seconds: float = DEADLINE_SECONDS) -> T:
    """Look until something is there: for files, which tell nobody that they change. None and False are nothing."""

    async def looking() -> T:
        while True:
            if result := found():
                return result
            await asyncio.sleep(PAUSE_SECONDS)

    return await within(looking(), what, seconds)
