"""One path that the learner learns about, by a clock of the test's own."""

from __future__ import annotations

from gateway.tunnels.learning.learning import CUT, UNANSWERED, Bounds, Key, Learner

S = 1_000_000_000
MINUTE = 60 * S
DAY = 86_400 * S
PONG_TIMEOUT = 20 * S
BOUNDS = Bounds(5 * S, 240 * S, PONG_TIMEOUT)
KEY = (0, 0, 1)


class Path:
    """One path of a learner, and a clock that goes on with what happens on it."""

    def __init__(self, bounds: Bounds = BOUNDS, learner: Learner | None = None, key: Key = KEY) -> None:
        self.learner = learner or Learner()
        self.bounds = bounds
        self.key = key
        self.now = 1000 * S
        self.learner.interval(key, bounds)

    @property
    def interval(self) -> int:
        return self.learner.common_interval(self.key, self.bounds)

    @property
    def cutoff(self) -> int | None:
        return self.learner.learned_cutoff(self.key)

    def answered(self, silence: float) -> int:
        """After that many seconds a Ping is answered. :returns: the interval given for the next silence"""
        self.now += round(silence * S)
        return self.answered_at_once(silence)

    def answered_at_once(self, silence: float) -> int:
        """The same, of a tunnel that has been silent all the while."""
        return self.learner.answered(self.key, self.bounds, round(silence * S), self.now)

    def cut(self, silence: float) -> None:
        self.now += round(silence * S)
        self.cut_at_once(silence)

    def cut_at_once(self, silence: float) -> None:
        self.learner.cut(self.key, self.bounds, round(silence * S), CUT, self.now)

    def unanswered(self, silence: float) -> None:
        self.now += round(silence * S) + PONG_TIMEOUT
        self.learner.cut(self.key, self.bounds, round(silence * S), UNANSWERED, self.now)

    def climb(self, seconds: float) -> None:
        """One tunnel tries whatever it is told to, until that much is proven."""
        trial = self.interval
        while trial < seconds * S:
            trial = self.answered(trial / S)
        self.answered(seconds)

    def live(self, cutoff: float, how: int, until: int) -> int:
        """One client, always silent, until then; it comes back when it was cut. :returns: how often that was"""
        cuts = 0
        trial = self.interval
        while self.now < until:
            if trial < cutoff * S:
                trial = self.answered(trial / S)
                continue
            cuts += 1
            if how == CUT:
                self.cut(cutoff)
            else:
                self.unanswered(trial / S)
            trial = self.interval
        return cuts
