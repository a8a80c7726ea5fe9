"""In which order backends are tried."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Address
from gateway.routing.balancing import LeastTunnels, RoundRobin, Target

from .tables import routes_of

WEIGHTS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def targets(*weights):
    return [Target(i, "chat", Address("127.0.0.1", 9000 + i), weight, str(i)) for i, weight in enumerate(weights)]


def picks(balancer, count):
    return "".join(balancer.pick().label for _ in range(count))


def test_the_configuration_chooses():
    upstreams = {
        "a": {"backends": ["a:1"], "balance": "round_robin"},
        "b": {"backends": ["a:1"], "balance": "least_tunnels"},
        "chat": {"backends": ["a:1"]},
    }
    made = routes_of({}, upstreams=upstreams).upstreams
    assert [type(made[name].balancer) for name in upstreams] == [RoundRobin, LeastTunnels, LeastTunnels]


# --- round robin ------------------------------------------------------------------------------------------------


def test_equals_in_turn():
    assert picks(RoundRobin(targets(1, 1, 1)), 7) == "0120120"


def test_nginxs_example():
    assert picks(RoundRobin(targets(5, 1, 1)), 14) == "0010200" * 2


@given(WEIGHTS, st.integers(1, 3))
def test_each_cycle_has_each_by_its_weight(weights, cycles):
    balancer = RoundRobin(targets(*weights))
    for _ in range(cycles):
        assert Counter(picks(balancer, sum(weights))) == {str(i): weight for i, weight in enumerate(weights)}


@given(WEIGHTS)
def test_never_far_from_its_share(weights):
    counts = Counter()
    balancer = RoundRobin(targets(*weights))
    for n in range(1, 2 * sum(weights) + 1):
        counts[balancer.pick().number] += 1
        for i, weight in enumerate(weights):
            assert abs(counts[i] - n * weight / sum(weights)) < len(weights)


@given(WEIGHTS, st.data())
def test_round_robin_leaves_out_what_was_tried(weights, data):
    check_tried(RoundRobin(targets(*weights)), targets(*weights), data)


def test_a_backend_that_is_down_does_not_skew_the_others():
    down, *others = targets(1, 2, 1)
    balancer = RoundRobin([down, *others])
    counts = Counter()
    for _ in range(400):
        target = balancer.pick()
        counts[(target if target != down else balancer.pick({down})).label] += 1
    assert abs(counts["1"] / counts["2"] - 2) < 0.4
    assert picks(balancer, 8).count("0") == 2


# --- fewest tunnels ---------------------------------------------------------------------------------------------


def least(weights, live):
    return LeastTunnels(targets(*weights), lambda number: live[number])


def test_the_one_with_the_fewest():
    assert picks(least([1, 1, 1], [5, 3, 4]), 3) == "111"


def test_the_one_with_the_fewest_for_its_weight():
    assert picks(least([1, 3], [1, 3]), 2) == "11"
    assert picks(least([1, 3], [0, 3]), 2) == "00"


def test_the_heavier_first_when_there_are_none():
    assert picks(least([1, 2, 1], [0, 0, 0]), 3) == "111"


def test_equals_take_turns():
    assert Counter(picks(least([1, 1, 1], [4, 4, 4]), 9)) == {"0": 3, "1": 3, "2": 3}
    assert set(picks(least([1, 1, 1], [4, 9, 4]), 9)) == {"0", "2"}


@given(WEIGHTS, st.integers(1, 4))
def test_tunnels_spread_by_weight(weights, times):
    live = [0] * len(weights)
    balancer = least(weights, live)
    for _ in range(times * sum(weights)):
        live[balancer.pick().number] += 1
    assert live == [weight * times for weight in weights]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 50)), min_size=1, max_size=6))
def test_nobody_has_less_load_than_the_one_picked(backends):
    weights = [weight for weight, _ in backends]
    live = [tunnels for _, tunnels in backends]
    picked = least(weights, live).pick().number
    load = [(tunnels + 1) / weight for weight, tunnels in backends]
    assert load[picked] == min(load)


@given(WEIGHTS, st.data())
def test_fewest_leaves_out_what_was_tried(weights, data):
    check_tried(least(weights, [0] * len(weights)), targets(*weights), data)


def check_tried(balancer, all_targets, data):
    tried = set(data.draw(st.lists(st.sampled_from(all_targets))))
    seen = set(tried)
    while (target := balancer.pick(seen)) is not None:
        assert target not in seen
        seen.add(target)
    assert seen == set(all_targets)
    assert balancer.pick() in all_targets
