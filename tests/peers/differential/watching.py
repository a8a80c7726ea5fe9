"""Plays a row against one proxy, and records what happens."""

from __future__ import annotations

import asyncio

from tests.peers.differential.rows import CLOSED, KEPT, OPEN, SILENT, Row
from tests.peers.differential.sights import Sight
from tests.support.deadline import SCALE
from tests.support.plain import Do, Message, RawBackend, read_answer
from tests.support.raw import request
from tests.support.wire import Wire, dial

PATIENCE_SECONDS = 1.0 * SCALE
"""How long to wait for a proxy that does nothing."""


async def watch(proxy: str, address: str, backend: RawBackend, row: Row) -> Sight:
    """Play a row.

    :param proxy: its name
    :param address: where it listens
    :param backend: what it has behind it
    """
    for link in backend.plays(*row.scripts):
        await link.ends()
    sight = Sight(proxy)
    wire = await dial(address)
    wire.patience_seconds = PATIENCE_SECONDS
    try:
        await _play_client(wire, row, sight)
        sight.requests = list(backend.requests)
        for message in sight.requests:
            await _played(message)
    finally:
        wire.close()
    return sight


async def _play_client(wire: Wire, row: Row, sight: Sight) -> None:
    half_closed = False
    for step in (row.sent,) if isinstance(row.sent, bytes) else row.sent:
        if isinstance(step, bytes):
            await wire.send(step)
        elif isinstance(step, float):
            await asyncio.sleep(step)
        elif step is Do.CLOSE:
            wire.half_close()
            half_closed = True
        else:
            wire.reset()
            sight.end = CLOSED
            return
    try:
        for method in row.awaited:
            answer = await read_answer(wire, method)
            sight.answers.append(answer)
            if answer.head is None or answer.cut:
                break
        await asyncio.sleep(row.rests)
        if not half_closed and wire.ended is None:
            await wire.send(request("/after"))
        sight.end = await _what_becomes_of(wire)
    except AssertionError:  # its patience is over
        sight.end = SILENT


async def _what_becomes_of(wire: Wire) -> str:
    """What happens to one more request. :raises AssertionError: nothing"""
    if wire.ended is not None:
        return CLOSED
    answer = await read_answer(wire)
    if answer.head is None:
        return CLOSED
    return KEPT if answer.body == b"/after" else f"wrong: {answer.status} {answer.body!r}"


async def _played(message: Message) -> None:
    """Wait until the backend has seen all of a request, or the proxy keeps it waiting."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await message.played.wait()
    except TimeoutError:
        message.cut = OPEN
