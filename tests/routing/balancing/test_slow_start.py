"""Slow start: the weight of a backend that has come back grows."""

import pytest

from gateway.routing.balancing.weights import SCALE, Weights

from ..standing import NS, FakeStanding
from .backends import in_turn, least, targets, two

SLOW_NS = 30 * NS


class Clock:
    def __init__(self, seconds=100.0):
        self.seconds = seconds

    def __call__(self):
        return self.seconds


def returned(number=0, clock=None):
    """A backend came back at second 100."""
    standing = FakeStanding(clock=clock or Clock())
    standing.back(number, 100)
    return standing


def test_a_weight_grows_in_proportion_to_time():
    clock = Clock()
    weights = Weights(returned(clock=clock), SLOW_NS)
    weights.use(targets(4, 1))
    seen = []
    for clock.seconds in (100, 103, 107.5, 115, 122.5, 129.9, 130, 1000):
        seen.append(weights.now()[0] / 4 / SCALE)
        assert weights.now()[1] == SCALE
        assert weights.are_equal is False
    assert seen == pytest.approx([0, 0.1, 0.25, 0.5, 0.75, 0.997, 1, 1], abs=0.002)
    assert weights.grow is False


@pytest.mark.parametrize("slow_ns", [0, SLOW_NS])
def test_what_has_been_there_for_long_has_its_weight(slow_ns):
    weights = Weights(FakeStanding(clock=Clock()), slow_ns)
    weights.use(targets(2, 2))
    assert weights.now() == [2 * SCALE, 2 * SCALE]
    assert weights.are_equal
    assert not weights.grow


def test_off_is_full_weight_at_once():
    weights = Weights(returned(), 0)
    weights.use(targets(1, 1))
    assert weights.now() == [SCALE, SCALE]


def test_one_that_returns_again_begins_again():
    clock = Clock()
    standing = returned(clock=clock)
    weights = Weights(standing, SLOW_NS)
    weights.use(targets(1, 1))
    clock.seconds = 200
    assert weights.now()[0] == SCALE
    standing.back(0, 200)
    weights.use(targets(1, 1))
    assert weights.now()[0] == 1


def shares_over_time(policy, standing, clock, lasts, brief=False):
    """The share of new arrivals that backend 0 gets in each tenth of the slow start.

    :param lasts: for how many arrivals each stays, a hundred of which come in a second
    """
    present = []
    shares = []
    for tenth in range(12):
        got = 0
        for i in range(300):
            clock.seconds = 100 + tenth * 3 + i / 100
            number = policy.pick(brief=brief).number
            got += number == 0
            standing.loads[number] += 1
            present.append(number)
            if len(present) > lasts:
                standing.loads[present.pop(0)] -= 1
        shares.append(got / 300)
    return shares


@pytest.mark.parametrize("make", [in_turn, least, two], ids=["round_robin", "least_tunnels", "random_two"])
def test_the_curve_of_what_comes_to_it(make):
    """Of four equal backends, one that returns gets a share that rises from nothing to a quarter over the 30 s."""
    clock = Clock()
    standing = returned(clock=clock)
    shares = shares_over_time(make(targets(1, 1, 1, 1), standing, SLOW_NS), standing, clock, lasts=40)
    for tenth, share in enumerate(shares):
        weight = min((tenth + 0.5) / 10, 1)
        assert share == pytest.approx(weight / (3 + weight), abs=0.08)
    assert shares[0] < 0.07
    assert sum(shares[-2:]) / 2 == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize("make", [in_turn, least], ids=["round_robin", "least_tunnels"])
def test_requests_one_at_a_time_follow_the_curve_too(make):
    clock = Clock()
    standing = returned(clock=clock)
    shares = shares_over_time(make(targets(1, 1, 1, 1), standing, SLOW_NS), standing, clock, lasts=0, brief=True)
    for tenth, share in enumerate(shares):
        weight = min((tenth + 0.5) / 10, 1)
        assert share == pytest.approx(weight / (3 + weight), abs=0.05)


def test_who_comes_back_empty_does_not_get_everything_at_once():
    """With 500 long-lived tunnels elsewhere, ``least_tunnels`` without slow start sends the next 500 to it."""
    clock = Clock()
    got = []
    for slow_ns in (0, SLOW_NS):
        standing = returned(clock=clock)
        standing.loads.update({1: 500, 2: 500})
        policy = least(targets(1, 1, 1), standing, slow_ns)
        for i in range(100):
            clock.seconds = 100 + i / 100
            standing.loads[policy.pick().number] += 1
        got.append(standing.loads[0])
    assert got[0] == 100
    assert 5 <= got[1] <= 25  # a thirtieth of 500 at the end of the first second


@pytest.mark.parametrize("make", [in_turn, least, two])
def test_alone_it_gets_everything(make):
    standing = returned()
    policy = make(targets(1), standing, SLOW_NS)
    assert [policy.pick().number for _ in range(3)] == [0, 0, 0]
