"""When tunnels are closed in a rebalance, and what becomes of them."""

from __future__ import annotations

from collections import Counter

import pytest

from gateway.admin.rebalances import CLOSED, ENDED, RebalanceState
from gateway.processes.rebalancing import LATE_SECONDS, NS, _Run
from gateway.routing.rebalancing import Tunnel


def tunnels(number: int, **cells: object) -> tuple[Tunnel, ...]:
    return tuple(Tunnel(i, i % 2, 0, 0, 0, 0, True, False)._replace(**cells) for i in range(number))


def run_of(seconds: float) -> _Run:
    return _Run(RebalanceState("chat", "least_tunnels", seconds), int(seconds * NS), 0)


@pytest.mark.parametrize(("number", "seconds"), [(1000, 10), (37, 10), (3, 10), (1000, 1)])
def test_turns_are_even_over_the_period(number: int, seconds: int) -> None:
    run, left = run_of(seconds), tunnels(number)
    given: dict[int, int] = {}
    for tick in range(seconds * 10 + 1):
        now = tick * NS // 10
        for slot, turns in run.take(left, now, NS // 10).items():
            for tunnel, when in turns:
                assert (tunnel % 2, tunnel in given) == (slot, False)
                assert now <= when <= now + NS // 10
                given[tunnel] = when
        left = tuple(tunnel for tunnel in left if tunnel.id not in given)
    assert len(given) == number
    assert max(given.values()) <= seconds * NS
    tenths = Counter(min(when * 10 // (seconds * NS), 9) for when in given.values())
    assert all(abs(tenths[tenth] - number / 10) <= 1 + number / 100 for tenth in range(10))


def test_without_time_all_are_closed_at_once() -> None:
    run = run_of(0)
    turns = run.take(tunnels(10), 5, NS)
    assert sorted(when for each in turns.values() for _, when in each) == [5] * 10


def test_those_that_end_before_their_turn_have_not_been_closed() -> None:
    run = run_of(10)
    some = tunnels(4)
    run.take(some, 10 * NS, NS)  # the period is over: all of them
    whens = sorted(turn.when_ns for turn in run.turns.values())
    assert run.settle_turns(some, whens[3] + 1) == []
    assert run.settle_turns([some[0], some[1]._replace(is_ending=True)], 5 * NS) == [(0, ENDED)] * 3
    assert run.settle_turns([], 11 * NS) == [(0, CLOSED)]
    assert (run.state.closed, run.state.ended, run.turns) == (1, 3, {})


def test_a_tunnel_whose_worker_died_with_its_turn_gets_another() -> None:
    run = run_of(10)
    (one,) = tunnels(1)
    run.take((one,), 10 * NS, NS)
    assert run.settle_turns([one], int((11 + LATE_SECONDS) * NS)) == []
    assert run.turns == {}
    assert run.take((one,), 20 * NS, NS) == {0: [(0, 20 * NS)]}


def test_clients_that_were_closed_count_until_they_are_back() -> None:
    run = run_of(0)
    some = tunnels(6)
    assert run.away(20, 0) == 0
    run.take(some, 0, NS)
    run.settle_turns([], NS)
    assert run.away(14, NS) == 6
    assert run.away(18, NS) == 2
    assert run.away(25, NS) == 0
    assert run.away(14, 40 * NS) == 0  # they do not come back
