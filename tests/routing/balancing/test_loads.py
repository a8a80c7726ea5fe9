"""Loads of many backends are read no more often than is worth it."""

from gateway.routing.balancing.loads import FRESH_NS, Loads

from ..standing import NS, FakeStanding
from .backends import least, targets


class Counting(FakeStanding):
    """Counts how often a load is read, and has a clock in nanoseconds."""

    def __init__(self):
        super().__init__()
        self.reads = 0
        self.ns = NS

    def load(self, number):
        self.reads += 1
        return super().load(number)

    def now_ns(self):
        return self.ns


def test_they_are_good_for_a_time_that_grows_with_their_number():
    standing = Counting()
    loads = Loads(standing)
    loads.use(targets(*[1] * 50))
    for standing.ns in (NS, NS + 1, NS + 50 * FRESH_NS - 1):
        assert loads.now() == [0] * 50
    assert standing.reads == 50
    standing.loads[3] = 7
    standing.ns = NS + 50 * FRESH_NS
    assert loads.now()[3] == 7
    assert standing.reads == 100


def test_other_backends_are_read_at_once():
    standing = Counting()
    loads = Loads(standing)
    loads.use(targets(1, 1))
    assert loads.now() == [0, 0]
    standing.loads[0] = 1
    loads.use(targets(1))
    assert loads.now() == [1]


def test_what_is_picked_meanwhile_counts():
    """A burst between two readings is spread as if each pick had read them."""
    standing = Counting()
    policy = least(targets(*[1] * 49, 2), standing)
    for _ in range(510):
        standing.loads[policy.pick().number] += 1
    assert standing.reads == 50
    assert [standing.loads[i] for i in range(50)] == [10] * 49 + [20]
