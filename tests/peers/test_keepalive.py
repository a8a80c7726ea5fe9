"""Keepalive through real middleboxes that cut silent connections after 5 s: nginx, HAProxy, a NAT; on either side.

Nearly all of it is waiting, so everything runs at once (:class:`Runs`), and each test looks at what one run came to.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import StartGateway
from tests.peers.experiments import Cut, Learned, Lived, Sample, are_cut, climb, history, learn, live
from tests.peers.servers import Servers
from tests.peers.ways import (
    SIDES,
    Keepalive,
    Place,
    Way,
    free_address,
    places_at_a_nat,
    places_at_proxies,
    route_name,
    start_ways,
)
from tests.support.deadline import SCALE, within
from tests.support.gateway import Gateway
from tests.support.netns import SilentNat, silent_nat

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180 * SCALE)]

CUTOFF_SECONDS = 5
SPEAK_AFTER_SECONDS = CUTOFF_SECONDS + 0.2
TOLERANCE_SECONDS = 0.5 * SCALE
TUNNELS = 200
LIVE_SECONDS = 60
CLIENTS = 10
MOST_CUTS = 20
STEADY_SECONDS = 12
CLIMB_FROM_SECONDS, CLIMB_TO_SECONDS = 25, 32
VANISHING = 5

KEEPALIVE: dict[str, Keepalive] = {
    "off": "off",
    "pinged": {"ping_after": "2s", "pong_timeout": "10s"},
    "pinged_late": {"ping_after": "6s", "pong_timeout": "2s"},
    "adaptive": {"ping_after": "adaptive", "min": "1s", "max": "8s", "pong_timeout": "2s"},
    "uncut": {"ping_after": "adaptive", "min": "1s", "max": f"{CLIMB_TO_SECONDS}s", "pong_timeout": "5s"},
    "vanishing": {"ping_after": "2s", "pong_timeout": "2s"},
}
CASES = {
    "nothing": ("uncut",),
    "nginx": ("adaptive", "pinged", "off"),
    "haproxy": ("adaptive", "pinged", "off"),
    "nat": ("adaptive", "pinged", "off", "pinged_late"),
    "nat_with_rst": ("off",),
}
"""By what is on the way; those that take longest come first."""

each_side = pytest.mark.parametrize("side", SIDES)
each_middlebox = pytest.mark.parametrize("middlebox", ["nginx", "haproxy", "nat"])


class Runs:
    """What is done on every way, all at once."""

    def __init__(self, ways: list[Way], why_no_nat: str) -> None:
        self._why_no_nat = why_no_nat
        self._tasks = {way.route: asyncio.create_task(run(way)) for way in ways}

    async def outcome(self, middlebox: str, side: str, case: str) -> Any:
        """What a run has come to. Without a NAT the test is skipped."""
        if middlebox.startswith("nat") and self._why_no_nat:
            pytest.skip(self._why_no_nat)
        return await self._tasks[route_name(middlebox, side, case)]

    async def close(self) -> None:
        """Stop what still runs."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


def run(way: Way) -> Coroutine[Any, Any, Any]:
    """What is done on a way."""
    match way.case:
        case "uncut":
            return climb(way, CLIENTS, CLIMB_TO_SECONDS)
        case "adaptive":
            return learn(way, CLIENTS, has_settled, STEADY_SECONDS)
        case "pinged":
            return live(way, TUNNELS, LIVE_SECONDS)
        case "off":
            return are_cut(way, TUNNELS, SPEAK_AFTER_SECONDS if way.place.what.startswith("nat") else 0)
    return are_cut(way, TUNNELS)


def has_settled(sample: Sample) -> bool:
    """The cutoff is known, and every tunnel is pinged well before it."""
    (known,) = sample.keepalive.values()
    return known["learned_cutoff_seconds"] is not None and all(map(is_well_before_the_cutoff, sample.intervals))


def is_well_before_the_cutoff(interval: float) -> bool:
    return 0.5 * CUTOFF_SECONDS <= interval <= 0.95 * CUTOFF_SECONDS


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nat() -> AsyncIterator[SilentNat | str]:
    """The NAT, or why there is none."""
    async with AsyncExitStack() as stack:
        try:
            made = await stack.enter_async_context(silent_nat(CUTOFF_SECONDS))
        except pytest.skip.Exception as skipped:
            yield str(skipped)
        else:
            yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runs(
    nat: SilentNat | str, start_shared_gateway: StartGateway, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Runs]:
    async with AsyncExitStack() as stack:
        servers = Servers()
        stack.push_async_callback(servers.close)
        directory, address = tmp_path_factory.mktemp("proxies"), free_address()
        places = await places_at_proxies(stack, servers, directory, address, CUTOFF_SECONDS)
        ways = await start_ways(start_shared_gateway, [address], with_cases(places), KEEPALIVE)
        if isinstance(nat, SilentNat):
            there = await places_at_a_nat(stack, nat)
            for listen, places, inside in (
                (there.inner, there.client, nat.server),
                ([there.outer], there.backend, nat.client),
            ):
                ways += await start_ways(start_shared_gateway, listen, with_cases(places), KEEPALIVE, inside)
        running = Runs(ways, nat if isinstance(nat, str) else "")
        stack.push_async_callback(running.close)
        yield running


def with_cases(places: list[Place]) -> list[tuple[Place, tuple[str, ...]]]:
    return [(place, CASES[place.what]) for place in places]


# --- what is cut ------------------------------------------------------------------------------------------------------


@each_side
@each_middlebox
async def test_silent_tunnels_without_pings_are_cut(runs: Runs, middlebox: str, side: str) -> None:
    found: Cut = await runs.outcome(middlebox, side, "off")
    if middlebox == "nat":
        agrees(found, side, "gateway", "write_stall", SPEAK_AFTER_SECONDS, found.spoken_after)
    elif (middlebox, side) == ("haproxy", "client"):
        # HAProxy ends with RST what it has connected to itself, and so keeps no TIME-WAIT of it.
        agrees(found, side, side, "reset", CUTOFF_SECONDS, CUTOFF_SECONDS)
    else:
        agrees(found, side, side, "fin", CUTOFF_SECONDS, CUTOFF_SECONDS)


@each_side
async def test_a_nat_that_answers_with_rst(runs: Runs, side: str) -> None:
    found: Cut = await runs.outcome("nat_with_rst", side, "off")
    agrees(found, side, side, "reset", SPEAK_AFTER_SECONDS, found.spoken_after)


@each_side
async def test_pings_that_come_too_late_for_the_nat(runs: Runs, side: str) -> None:
    found: Cut = await runs.outcome("nat", side, "pinged_late")
    # Tunnels that opened together are pinged apart: the first time some are before their 6 s are over.
    agrees(found, side, "gateway", "ping_timeout", CUTOFF_SECONDS, 6)
    name = route_name("nat", side, "pinged_late")
    assert found.scrape.value("gateway_keepalive_timeouts_total", route=name, side=side) == TUNNELS


def agrees(found: Cut, side: str, initiator: str, cause: str, shortest: float, longest: float) -> None:
    """Log and metrics say of all tunnels who cut them, how, and after how many seconds of silence."""
    said = {(record["initiator"], record["cause"], record["cut_side"]) for record in found.records}
    assert said == {(initiator, cause, side)}
    silences = sorted(record["silence"] for record in found.records)
    print(f"silent for {silences[0]} to {silences[-1]} s")
    assert shortest - TOLERANCE_SECONDS <= silences[0] <= silences[-1] <= longest + TOLERANCE_SECONDS

    name = found.records[0]["route"]
    for labels in ({}, {"initiator": initiator, "cause": cause}):
        assert found.scrape.value("gateway_tunnels_closed_total", route=name, **labels) == TUNNELS
    for labels in ({}, {"side": side}):
        assert found.scrape.value("gateway_drop_idle_seconds_count", route=name, **labels) == TUNNELS
    mean = found.scrape.value("gateway_drop_idle_seconds_sum", route=name) / TUNNELS
    assert shortest - TOLERANCE_SECONDS <= mean <= longest + TOLERANCE_SECONDS


# --- what is not ------------------------------------------------------------------------------------------------------


@each_side
@each_middlebox
async def test_pinged_tunnels_live(runs: Runs, middlebox: str, side: str) -> None:
    found: Lived = await runs.outcome(middlebox, side, "pinged")
    name = route_name(middlebox, side, "pinged")
    print(f"{found.fewest_pings} Pings at least")
    assert found.still_open == TUNNELS
    assert found.fewest_pings >= LIVE_SECONDS / 4
    assert found.scrape.value("gateway_tunnels", route=name) == TUNNELS
    assert found.scrape.value("gateway_tunnels_closed_total", route=name) == 0
    assert found.scrape.value("gateway_keepalive_timeouts_total", route=name) == 0


@each_side
@each_middlebox
async def test_the_interval_is_learned(runs: Runs, middlebox: str, side: str) -> None:
    """Few are cut, then none any more."""
    found: Learned = await runs.outcome(middlebox, side, "adaptive")
    print(history(found.samples))
    last = found.samples[-1]
    assert 1 <= last.cuts <= MOST_CUTS
    assert len(last.intervals) == 2 * CLIENTS
    labels = {"route": route_name(middlebox, side, "adaptive"), "side": side}
    assert found.scrape.value("gateway_drop_idle_seconds_count", **labels) == last.cuts
    assert is_well_before_the_cutoff(found.scrape.value("gateway_keepalive_interval_seconds", **labels))
    # A NAT tells nobody when it cuts: what is learned is a silence that was too long, up to a quarter.
    slack = CUTOFF_SECONDS / 4 if middlebox == "nat" else 0
    cutoff = found.scrape.value("gateway_learned_cutoff_seconds", **labels)
    assert CUTOFF_SECONDS - TOLERANCE_SECONDS <= cutoff <= CUTOFF_SECONDS + slack + TOLERANCE_SECONDS


async def test_the_interval_climbs_where_nothing_cuts(runs: Runs) -> None:
    found: Learned = await runs.outcome("nothing", "both", "uncut")
    print(history(found.samples))
    assert found.samples[-1].cuts == 0
    labels = {"route": route_name("nothing", "both", "uncut")}
    for side in SIDES:
        intervals = [sample.keepalive[side]["interval_seconds"] for sample in found.samples]
        assert intervals[0] == CLIMB_FROM_SECONDS
        assert intervals == sorted(intervals)
        assert found.scrape.value("gateway_keepalive_interval_seconds", side=side, **labels) == CLIMB_TO_SECONDS
    assert not list(found.scrape.samples("gateway_learned_cutoff_seconds", **labels))


# --- who vanishes -----------------------------------------------------------------------------------------------------


async def test_a_laptop_that_vanishes(start_gateway: StartGateway) -> None:
    """And a server that does: the gateway lets go of both connections, and reports it to the side that is left."""
    async with AsyncExitStack() as stack:
        nat = await stack.enter_async_context(silent_nat(600))
        there = await places_at_a_nat(stack, nat)
        cases = ("vanishing",)
        gateways = await asyncio.gather(
            start_ways(start_gateway, there.inner, [(there.client[0], cases)], KEEPALIVE, nat.server),
            start_ways(start_gateway, [there.outer], [(there.backend[0], cases)], KEEPALIVE, nat.client),
        )
        ways = [way for (way,) in gateways]
        before = [await sockets_of(way.gateway) for way in ways]
        left, kept = [], []
        for way in ways:
            for pair in [await way.open() for _ in range(VANISHING)]:
                kept.append(pair[SIDES.index(way.place.side)])
                left.append(pair[1 - SIDES.index(way.place.side)])
        await asyncio.sleep(5)
        assert all(end.pings for end in kept)

        nat.link(nat.client, up=False)
        started = time.monotonic()
        await within(asyncio.gather(*(end.ended.wait() for end in left)), "those who are left to be told")
        for way in ways:
            for record in await way.ended(VANISHING, seconds=10 * SCALE):
                assert (record["cause"], record["cut_side"]) == ("ping_timeout", way.place.side)
        took = time.monotonic() - started
        print(f"released after {took:.2f} s")
        assert took <= 2 + 2 + 2 * SCALE
        assert [await sockets_of(way.gateway) for way in ways] == before
        assert [end.close_code for end in left] == VANISHING * [1001] + VANISHING * [1012]


async def sockets_of(gateway: Gateway) -> int:
    """How many sockets a gateway's workers have."""
    found = 0
    for pid in await gateway.worker_pids():
        for descriptor in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                found += os.readlink(descriptor).startswith("socket:")
    return found
