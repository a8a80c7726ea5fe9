"""Keepalive in the sweep among thousands of tunnels, simulated: Pings that are due together are spread out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing as closes

import pytest

from gateway.tunnels.table.layout import CLIENT, NEVER
from gateway.tunnels.upkeep.sweep import TICK_NS
from tests.support.deadline import SOAK

from .harness import NS, PONG_WITHIN
from .sweep_simulation import HABIT, Simulation

ROWS = 4000 if SOAK else 2000


@pytest.fixture
def simulate() -> Iterator[Callable[..., Simulation]]:
    made = []

    def make(rows: int, **options: int) -> Simulation:
        made.append(Simulation(rows, **options))
        return made[-1]

    yield make
    for simulation in made:
        simulation.close()


def open_within(simulation: Simulation, rows: int, seconds: float, after: tuple[int, int]) -> list[int]:
    """Open tunnels evenly; the list fills as they open."""
    opened: list[int] = []
    for n in range(rows):
        simulation.at(seconds * n / rows, lambda: opened.append(simulation.open(after)))
    return opened


def assert_none_late(simulation: Simulation, after: tuple[int, int]) -> None:
    assert simulation.dead == []
    assert max(ping.silence - after[ping.side] for ping in simulation.pings) <= 0


@pytest.mark.either_build
@pytest.mark.parametrize(
    ("rows", "opening", "client", "backend"),
    [
        *([(ROWS, 5.0, 10, None), (ROWS, 5.0, 25, None)] if SOAK else []),
        (ROWS, 0.1, 10, None),
        (ROWS, 5.0, 10, 10),
        (ROWS, 0.0, 25, 25),
        (1000, 2.0, 2, None),
        (1000, 1.0, 1, None),
        (30, 0.0, 20, None),
    ],
)
def test_pings_that_fall_due_together_are_spread(
    simulate: Callable[..., Simulation], rows: int, opening: float, client: int, backend: int | None
) -> None:
    after = (client * NS, backend * NS if backend else NEVER)
    simulation = simulate(rows)
    open_within(simulation, rows, opening, after)
    seconds = int(opening) + 4 * client
    simulation.run(seconds)
    assert_none_late(simulation, after)
    assert min(ping.silence for ping in simulation.pings) >= client * NS // 4
    counts = simulation.each_second()
    mean = rows / client + (rows / backend if backend else 0)
    assert max(counts.values()) <= max(1.5 * mean, 30)
    # Once spread they stay so, and each goes out when it is due.
    last = range(seconds - client, seconds)
    assert sum(counts[second] for second in last) == pytest.approx(client * mean, rel=0.03)
    settled = [ping for ping in simulation.pings if ping.at >= simulation.began + (seconds - client) * NS]
    assert min(ping.silence for ping in settled) >= client * NS - 2 * NS


@pytest.mark.either_build
def test_each_second_has_its_pings_evenly(simulate: Callable[..., Simulation]) -> None:
    """Within a second, too: none of its ticks has many."""
    simulation = simulate(ROWS)
    open_within(simulation, ROWS, 0, (10 * NS, NEVER))
    simulation.run(60)
    ticks = [ping.at // TICK_NS for ping in simulation.pings]
    a_second = NS // TICK_NS
    assert max(Counter(ticks).values()) <= ROWS / a_second
    settled = Counter(tick for tick in ticks if tick >= (simulation.began + 40 * NS) // TICK_NS)
    assert max(settled.values()) <= 4 * ROWS / 10 / a_second


@pytest.mark.either_build
def test_a_few_are_pinged_when_they_are_due_and_not_before(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(8)
    open_within(simulation, 8, 3, (10 * NS, 7 * NS))
    simulation.run(60)
    late = [ping.silence - (10 * NS, 7 * NS)[ping.side] for ping in simulation.pings]
    assert len(late) >= 8 * (5 + 7)
    assert min(late) >= -TICK_NS
    assert max(late) <= 0


@pytest.mark.either_build
def test_intervals_of_all_lengths(simulate: Callable[..., Simulation]) -> None:
    """Whatever is mixed, none is late, and none is pinged much more often than it has to be."""
    simulation = simulate(1000)
    intervals: dict[int, tuple[int, int]] = {}

    def open_one(after: tuple[int, int]) -> None:
        intervals[simulation.open(after)] = after

    for n in range(1000):
        after = ((n % 60 + 1) * NS, (n * 7 % 90 + 1) * NS)
        simulation.at(n % 4, lambda after=after: open_one(after))
    simulation.run(200)
    assert simulation.dead == []
    assert all(ping.silence <= intervals[ping.row][ping.side] for ping in simulation.pings)
    least = sum(196 * NS // after for pair in intervals.values() for after in pair)
    assert len(simulation.pings) < 1.1 * least


@pytest.mark.either_build
def test_the_same_broadcast_to_all(simulate: Callable[..., Simulation]) -> None:
    """All are heard at one moment, again and again."""
    after = (10 * NS, NEVER)
    simulation = simulate(ROWS)
    rows = open_within(simulation, ROWS, 5, after)

    def broadcast() -> None:
        for row in rows:
            simulation.hear(row, CLIENT)

    for n in range(1, 3):
        simulation.at(30 * n, broadcast)
    simulation.run(85)
    assert_none_late(simulation, after)
    assert min(ping.silence for ping in simulation.pings) >= 10 * NS // 4
    assert max(simulation.each_second().values()) <= ROWS // 3


@pytest.mark.either_build
@pytest.mark.parametrize(("opening", "spoken"), [(0.9, 0.95), (2, 2.1), (2, 3.5)])
def test_all_speak_soon_after_they_have_opened(
    simulate: Callable[..., Simulation], opening: float, spoken: float
) -> None:
    """When they fall due their rows say as of before, and that must cost none of the time that there is."""
    after = (10 * NS, NEVER)
    simulation = simulate(ROWS)
    rows = open_within(simulation, ROWS, opening, after)

    def speak() -> None:
        for row in rows:
            simulation.hear(row, CLIENT)

    simulation.at(spoken, speak)
    simulation.run(40)
    assert_none_late(simulation, after)
    assert min(ping.silence for ping in simulation.pings) >= 10 * NS // 4
    assert max(simulation.each_second().values()) <= 1.5 * ROWS / 10


@pytest.mark.either_build
def test_those_who_talk_are_sent_nothing(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(2000)
    rows = open_within(simulation, 2000, 0, (10 * NS, NEVER))
    talking = set()

    def talk(row: int, second: float) -> None:
        simulation.hear(row, CLIENT)
        if second < 60:
            simulation.at(second + 7, lambda: talk(row, second + 7))

    def begin() -> None:
        for n, row in enumerate(rows[::2]):
            talking.add(row)
            talk(row, 0.01 + n / 1000)

    simulation.at(0.005, begin)
    simulation.run(60)
    early = [ping for ping in simulation.pings if ping.row in talking]
    assert all(ping.silence >= 10 * NS // 4 for ping in early)
    # Spreading sends Pings ahead of their time, but none once it is known that a side speaks again by itself.
    assert max(Counter(ping.row for ping in early).values()) <= HABIT
    known = simulation.began + 7 * HABIT * NS + NS
    assert not [ping for ping in early if ping.at > known]


@pytest.mark.either_build
def test_the_dead_among_thousands(simulate: Callable[..., Simulation]) -> None:
    """Each is found within a second of its time, and nobody else is."""
    simulation = simulate(3000)
    rows = open_within(simulation, 3000, 5, (10 * NS, NEVER))
    mute: set[int] = set()

    def fall_silent() -> None:
        mute.update(rows[::30])
        simulation.mute.update((row, CLIENT) for row in mute)

    simulation.at(20, fall_silent)
    simulation.run(60)
    asked = {ping.row: ping.at for ping in simulation.pings if ping.row in mute}
    assert {row for _, row, _ in simulation.dead} == mute
    for at, row, side in simulation.dead:
        assert side == CLIENT
        assert 0 <= at - asked[row] - PONG_WITHIN <= NS + TICK_NS


@pytest.mark.either_build
def test_a_worker_that_was_stopped_catches_up_and_blames_nobody(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(3000)
    open_within(simulation, 3000, 5, (10 * NS, NEVER))
    simulation.run(31.5)
    before = len(simulation.pings)
    simulation.skip(300)
    simulation.run(30)
    assert simulation.dead == []
    counts = simulation.each_second()
    overdue = [ping for ping in simulation.pings[before:] if ping.silence > 11 * NS]
    assert {ping.row for ping in overdue} == {ping.row for ping in simulation.pings}
    assert len({ping.row for ping in overdue}) == len(overdue)
    assert max(counts[second] for second in range(345, 361)) <= 1.5 * 300


@pytest.mark.either_build
def test_pings_that_are_refused_do_not_hold_up_the_others(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(2000)
    rows = open_within(simulation, 2000, 2, (10 * NS, NEVER))
    refusing: set[int] = set()
    simulation.refusing = lambda row, side: row in refusing
    simulation.at(5, lambda: refusing.update(rows[::2]))
    simulation.at(40, refusing.clear)
    simulation.run(60)
    assert simulation.dead == []
    assert max(ping.silence for ping in simulation.pings if ping.row in rows[1::2]) <= 10 * NS
    first = {}
    for ping in simulation.pings:
        if ping.at >= simulation.began + 40 * NS:
            first.setdefault(ping.row, ping.at)
    assert max(first[row] for row in rows[::2]) <= simulation.began + 42 * NS


def test_simulations_are_cleared_away() -> None:
    with closes(Simulation(1)) as simulation:
        simulation.open((10 * NS, NEVER))
        simulation.run(12)
        assert len(simulation.pings) == 1
