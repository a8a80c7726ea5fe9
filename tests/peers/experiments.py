"""What is done with the tunnels of a way, and what comes of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

from tests.peers.ways import SIDES, Way
from tests.support.deadline import SCALE
from tests.support.gateway import Record
from tests.support.scrape import Scrape

SETTLED_WITHIN_SECONDS = 100 * SCALE


class Lived(NamedTuple):
    """Of silent tunnels that are not cut."""

    still_open: int
    fewest_pings: int
    """that came to an end of the kept side"""
    scrape: Scrape


async def live(way: Way, tunnels: int, seconds: float) -> Lived:
    """Leave tunnels silent, then have a message go each way."""
    pairs = await asyncio.gather(*(way.open_in_turn() for _ in range(tunnels)))
    await asyncio.sleep(seconds)
    still_open = [pair for pair in pairs if not any(end.ended.is_set() for end in pair)]
    for client, backend in still_open:
        client.send(b"still here")
        assert await backend.receive() == b"still here"
        backend.send(b"so am I")
        assert await client.receive() == b"so am I"
    kept = SIDES.index(way.place.side)
    return Lived(len(still_open), min(pair[kept].pings for pair in pairs), await way.gateway.scrape())


class Cut(NamedTuple):
    """Of silent tunnels that are cut."""

    records: list[Record]
    """in the access log, of their ends"""
    spoken_after: float
    """seconds after which the last was sent something"""
    scrape: Scrape


async def are_cut(way: Way, tunnels: int, speak_after: float = 0.0) -> Cut:
    """Leave tunnels silent until they end.

    :param speak_after: seconds after which each is sent something across the middlebox, which has cut it by then; 0 for
        nothing at all
    """

    async def tunnel() -> float:
        client, backend = await way.open_in_turn()
        opened = time.monotonic()
        if speak_after:
            await asyncio.sleep(speak_after)
            (backend if way.place.side == "client" else client).send(b"are you there?")
        return time.monotonic() - opened

    spoken_after = await asyncio.gather(*(tunnel() for _ in range(tunnels)))
    records = await way.ended(tunnels, seconds=30 * SCALE)
    return Cut(records, max(spoken_after), await way.gateway.scrape())


# --- intervals that are learned ---------------------------------------------------------------------------------------


class Sample(NamedTuple):
    """What is seen of a way's tunnels at one moment."""

    at: float
    """seconds since the first sample"""
    cuts: int
    """tunnels that had ended by then"""
    intervals: list[float]
    """of every tunnel, on the sides with something on the way, the shortest first"""
    keepalive: dict[str, dict[str, float | None]]
    """of the route on these sides, as the API has it"""


class Learned(NamedTuple):
    """Of tunnels whose interval is learned."""

    samples: list[Sample]
    scrape: Scrape


async def learn(way: Way, clients: int, is_settled: Callable[[Sample], bool], steady_seconds: float) -> Learned:
    """Have clients connect anew whenever they are cut. Once all seems settled, have as many others join them, and go on
    until nothing has changed for a while."""
    cuts = 0

    kept = SIDES.index(way.place.side)

    async def client() -> None:
        nonlocal cuts
        while True:
            pair = await way.open()
            # The end with nothing on the way is told by the gateway, once that has noticed. Who listened to the other
            # one could end the tunnel before it has; and a NAT tells nobody.
            await pair[1 - kept].ended.wait()
            cuts += 1
            for end in pair:
                end.abort()

    tasks = [asyncio.create_task(client()) for _ in range(clients)]
    samples: list[Sample] = []
    steady_since = 0.0
    try:
        async for sample in _watch(way, lambda: cuts):
            is_steady = bool(samples) and sample.cuts == samples[-1].cuts and is_settled(sample)
            samples.append(sample)
            if not is_steady:
                steady_since = sample.at
            elif len(tasks) == clients:
                tasks += [asyncio.create_task(client()) for _ in range(clients)]
            elif sample.at - steady_since >= steady_seconds:
                break
            assert sample.at < SETTLED_WITHIN_SECONDS, f"{way.route} does not settle:\n{history(samples)}"
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    failures = [outcome for outcome in outcomes if not isinstance(outcome, asyncio.CancelledError)]
    assert not failures, failures
    return Learned(samples, await way.gateway.scrape())


async def climb(way: Way, clients: int, to_seconds: float) -> Learned:
    """Leave tunnels silent until the interval is so long on both sides."""
    pairs = await asyncio.gather(*(way.open() for _ in range(clients)))
    samples: list[Sample] = []
    async for sample in _watch(way, lambda: sum(any(end.ended.is_set() for end in pair) for pair in pairs)):
        samples.append(sample)
        if all(sample.keepalive[side]["interval_seconds"] == to_seconds for side in SIDES):
            break
        assert sample.at < SETTLED_WITHIN_SECONDS, f"{way.route} does not get there:\n{history(samples)}"
    return Learned(samples, await way.gateway.scrape())


def history(samples: list[Sample]) -> str:
    """A line for each sample that differs from the previous one."""
    lines = []
    before: object = None
    for at, cuts, intervals, keepalive in samples:
        route = "; ".join(
            f"{side} {known['interval_seconds']} s, cutoff {known['learned_cutoff_seconds']}"
            for side, known in keepalive.items()
        )
        span = f"{intervals[0]:.2f} to {intervals[-1]:.2f} s" if intervals else "none"
        if (cuts, route, span) != before:
            before = cuts, route, span
            lines.append(f"{at:6.1f} s: {cuts:2} cuts; intervals of tunnels: {span}; of the route: {route}")
    return "\n".join((*lines, f"{samples[-1].at:6.1f} s: end"))


async def _watch(way: Way, cuts: Callable[[], int]) -> AsyncIterator[Sample]:
    """Look once a second. :param cuts: tells how many tunnels have ended so far"""
    sides = SIDES if way.place.side == "both" else (way.place.side,)
    started = time.monotonic()
    while True:
        status, answer = await asyncio.gather(
            way.gateway.api("status"), way.gateway.api(f"tunnels?route={way.route}&limit=100")
        )
        keepalive: dict[str, Any] = next(found["keepalive"] for found in status["routes"] if found["name"] == way.route)
        intervals = [tunnel["sides"][side]["interval_seconds"] for tunnel in answer["tunnels"] for side in sides]
        yield Sample(
            time.monotonic() - started,
            cuts(),
            sorted(interval for interval in intervals if interval is not None),
            {side: keepalive[side] for side in sides},
        )
        await asyncio.sleep(1)
