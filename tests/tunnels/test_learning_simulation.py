"""The learner among a thousand clients, by a clock of the simulation's own. With ``-s`` it prints the table."""

from __future__ import annotations

import pytest

from gateway.tunnels.learning.learning import CUT, UNANSWERED, Bounds, Learner
from tests.support.deadline import SOAK

from .path_simulation import (
    BOUNDS,
    MINUTE,
    SECOND,
    Network,
    Simulation,
    simulate,
    simulate_fixed,
    table,
    violations,
)

pytestmark = pytest.mark.either_build


@pytest.fixture(scope="module")
def fixed() -> Simulation:
    return simulate_fixed(0)


@pytest.mark.parametrize("seed", [0, 1, 2] if SOAK else [0])
def test_a_thousand_clients_in_twenty_networks(seed: int, fixed: Simulation) -> None:
    learned = simulate(seed)
    print(f"\nseed {seed}\n{table(learned, fixed)}")
    assert violations(learned, fixed) == []
    assert sum(outcome.false_cutoffs + outcome.false_fallbacks for outcome in learned.outcomes) <= 2


@pytest.mark.parametrize("pong_timeout", [2, 20])
@pytest.mark.parametrize("how", [CUT, UNANSWERED], ids=["fin", "silent"])
@pytest.mark.parametrize("opened_within", [0, 10])
def test_a_cutoff_of_5_seconds_is_learned_by_20_cuts(how: int, pong_timeout: int, opened_within: int) -> None:
    bounds = Bounds(SECOND, 240 * SECOND, pong_timeout * SECOND)
    for clients in (1, 10, 16):
        for talkative in (0, 0.35):
            simulation = Simulation(
                [Network(5, how, clients=clients)],
                Learner(),
                clients,
                bounds,
                leave_per_minute=0,
                talkative=talkative,
                opened_within=opened_within * SECOND,
            ).run(30 * MINUTE)
            outcome = simulation.outcomes[0]
            assert 1 <= len(outcome.cuts) <= 20
            assert outcome.cuts_between(5 * MINUTE, 30 * MINUTE) == 0
            settled = {interval for at, interval in outcome.intervals if at >= 5 * MINUTE} | {simulation.interval(0)}
            assert all(0.5 <= interval / (5 * SECOND) <= 0.95 for interval in settled)


def test_clients_that_leave_all_the_time_do_not_look_like_a_cutoff() -> None:
    networks = [Network(None, clients=clients) for clients in (1, 3, 10, 50, 200)]
    simulation = Simulation(networks, Learner(), 1, leave_per_minute=0.04).run(90 * MINUTE)
    for n, outcome in enumerate(simulation.outcomes):
        assert simulation.interval(n) == BOUNDS.max_ns
        assert outcome.false_cutoffs <= 1


def test_restarts_do_not_look_like_a_cutoff() -> None:
    """Of a backend, say, whose tunnels were all opened after its last restart, and are silent alike."""
    simulation = Simulation([Network(None, clients=300)], Learner(), 1)
    for n in range(1, 6):
        simulation.run(n * 20 * MINUTE)
        simulation.restart(0)
    simulation.run(150 * MINUTE)
    assert simulation.interval(0) == BOUNDS.max_ns
    assert simulation.outcomes[0].false_cutoffs == 0


@pytest.mark.parametrize("how", [CUT, UNANSWERED], ids=["fin", "silent"])
def test_a_network_that_hides_several_limits_is_kept_alive_by_the_strictest(how: int) -> None:
    simulation = Simulation([Network(40, how, share=0.5)], Learner(), 1).run(240 * MINUTE)
    outcome = simulation.outcomes[0]
    silences = sum(at >= 120 * MINUTE for at in outcome.gaps)
    assert outcome.cuts_between(120 * MINUTE, 240 * MINUTE) < 0.005 * silences
