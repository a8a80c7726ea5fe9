"""State and load of backends, as a test says."""

from collections import Counter

NS = 1_000_000_000


class FakeStanding:
    """As :class:`gateway.routing.balancing.Standing`. Without a clock, time passes between any two looks."""

    def __init__(self, load=None, clock=None):
        """:param load: by number; it may change. :param clock: seconds"""
        self.loads = Counter() if load is None else load
        self.requests = Counter()
        self.out = set()
        self.down = set()
        self.returned = {}
        self._clock = clock
        self._passed = 0
        self._changes = 0

    def change(self, out=(), down=()):
        """These are ejected, or down by health checks, from now on."""
        self.out, self.down = set(out) | set(down), set(down)
        self._changes += 1

    def back(self, number, seconds):
        """A backend is back in service since then."""
        self.returned[number] = int(seconds * NS)
        self._changes += 1

    def changed(self):
        return self._changes

    def is_out(self, number):
        return number in self.out

    def is_down(self, number):
        return number in self.down

    def returned_ns(self, number):
        return self.returned.get(number, 0)

    def load(self, number):
        return self.loads[number] + self.requests[number]

    def tunnels(self, number):
        return self.loads[number]

    def now_ns(self):
        if self._clock is not None:
            return int(self._clock() * NS)
        self._passed += NS
        return self._passed
