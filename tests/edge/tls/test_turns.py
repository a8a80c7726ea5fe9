"""A turn of the poller spends a bounded time on handshakes."""

from __future__ import annotations

from gateway.edge.tls.turns import TURN_NS, Turns


class FakePoller:
    def __init__(self) -> None:
        self.kernel = self
        self.clock_ns = 0
        self.is_loaded = False
        self.heavy = lambda: False

    def now(self) -> int:
        return self.clock_ns

    def call(self, callback) -> None:
        callback()


class Step:
    def __init__(self, poller: FakePoller, cost_ns: int, done: list[int], number: int) -> None:
        self.poller, self.cost_ns, self.done, self.number = poller, cost_ns, done, number

    def turn(self) -> None:
        self.poller.clock_ns += self.cost_ns
        self.done.append(self.number)

    def abandon(self) -> None:
        raise AssertionError


def test_a_thousand_steps_take_many_turns_in_order():
    poller = FakePoller()
    turns = Turns(poller)
    done: list[int] = []
    cost_ns = 300_000
    for number in range(1000):
        turns.add(Step(poller, cost_ns, done, number))
    assert poller.is_loaded
    count = 0
    more = True
    while more:
        began = poller.clock_ns
        more = poller.heavy()
        assert poller.clock_ns - began < TURN_NS + cost_ns
        count += 1
    assert done == list(range(1000))
    assert count >= 1000 * cost_ns // (TURN_NS + cost_ns)


def test_a_step_that_costs_more_than_a_turn_is_made_all_the_same():
    poller = FakePoller()
    turns = Turns(poller)
    done: list[int] = []
    for number in range(3):
        turns.add(Step(poller, 5 * TURN_NS, done, number))
    assert [poller.heavy() for _ in range(3)] == [True, True, False]
    assert done == [0, 1, 2]


def test_what_follows_steps_comes_behind_all_of_them_in_the_same_turn():
    poller = FakePoller()
    turns = Turns(poller)
    done: list[int] = []

    class Last(Step):
        def turn(self) -> None:
            super().turn()
            turns.after(lambda: done.append(-self.number))

    for number in (1, 2):
        turns.add(Last(poller, 1, done, number))
    turns.add(Last(poller, TURN_NS, done, 3))
    turns.add(Last(poller, 1, done, 4))
    assert poller.heavy()
    assert done == [1, 2, 3, -1, -2, -3]
    assert not poller.heavy()
    assert done[6:] == [4, -4]
