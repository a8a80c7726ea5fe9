"""Upgrades of a running gateway: asked for, waited for, and what they have to leave as it was."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.deadline import DEADLINE_SECONDS, eventually
from tests.support.gateway import Gateway
from tests.support.numbered import Play, Tunnel
from tests.support.process import children, gone

UPGRADE_SECONDS = 4 * DEADLINE_SECONDS


def of(program: Path) -> dict[str, str]:
    """The environment in which a copy is found before what is installed."""
    return {"PYTHONPATH": str(program.parent), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}


async def status_of_upgrade(gateway: Gateway, since: float) -> dict[str, Any]:
    """Wait until an upgrade is over that was asked for later than ``since``; how it went."""

    async def over() -> dict[str, Any] | None:
        try:
            found: dict[str, Any] | None = (await gateway.api("status"))["upgrade"]
        except aiohttp.ClientError:  # a connection to the program before
            return None
        return found if found is not None and found["ok"] is not None and found["time"] > since else None

    return await eventually(over, "the upgrade", UPGRADE_SECONDS)


async def upgrade(gateway: Gateway, wait: bool = True) -> float:
    """Upgrade, see the old workers gone; for how long tunnels paused, at most. :param wait: for them to go"""
    old = children(gateway.process.pid)
    start, since = len(gateway.stderr.lines), time.time()
    gateway.process.signal(signal.SIGUSR2)
    found = await status_of_upgrade(gateway, since)
    assert found["error"] is None
    line = await gateway.stderr.first(
        lambda line: line if "upgraded from" in line else None, "a line about the upgrade", start
    )
    for pid in old if wait else ():
        await gone(int(pid))
    (pause,) = re.findall(r"at most (\d+) ms", line)
    return int(pause) / 1000


async def fails(gateway: Gateway, reason: str) -> None:
    """Ask for an upgrade that fails, and see why."""
    gateway.tolerate("upgrade failed: |^Traceback")  # the latter is what the new program said
    since = time.time()
    gateway.process.signal(signal.SIGUSR2)
    found = await status_of_upgrade(gateway, since)
    assert found["ok"] is False
    assert re.search(reason, found["error"]), found["error"]


async def serves_as_before(gateway: Gateway, play: Play, tunnels: list[Tunnel], pids: list[str]) -> None:
    """The workers are the same, and the tunnels go on; new ones open."""
    await eventually(lambda: children(gateway.process.pid) == pids, "others to be waited for")
    assert all(tunnel.lives for tunnel in tunnels)
    for tunnel in tunnels:
        tunnel.say()
    await eventually(lambda: all(tunnel.complete for tunnel in tunnels), "the messages")
    (fresh,) = await play.open_many(gateway.address, 1)
    fresh.say()
    await eventually(lambda: fresh.complete, "a message")
    assert (await gateway.api("status"))["ready"]
