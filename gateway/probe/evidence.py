"""What the outcomes so far prove about a path.

A Pong after a silence proves that this silence was tolerated. An end may be chance: a server restarts, a radio link
fades. It counts as chance if longer silences were survived at least three times as often as tunnels were ended near it
(``_by_chance``). Ends that no tunnel of the round outlived count only once, since something that kills all tunnels at
one moment is a single event.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import TypeVar

from gateway.probe.outcomes import Cut, Failed, Outcome, Role, Rung, Survived, Talked

REPEATS = 3
"""How many tunnels are tried at each edge of the bracket, and at the longest silence."""

_STEP_SECONDS = 0.1
_STEP_SHARE = 0.0025
_BLURRED_STEPS = 8

# Cuts may have the same cause if their silences are at least this share of each other.
_NEARBY = 0.8

# How sharp ends by age must be, and what share of all ends must be among them.
_AGE_SECONDS = 0.5
_AGE_SHARE = 0.02
_AGE_MAJORITY = 0.75

Kind = TypeVar("Kind", Survived, Cut)


@dataclass(frozen=True, slots=True)
class AgeLimit:
    """Cuts that happened at the same age."""

    cuts: list[Cut]
    rounds: set[int]

    @property
    def ages(self) -> list[float]:
        return [cut.age_seconds for cut in self.cuts]


class Evidence:
    """All outcomes, with the numbers of their rounds."""

    def __init__(self, rtt_seconds: float) -> None:
        """:param rtt_seconds: round trip of a Ping over the path"""
        self.round = 0
        """number of the latest round, counted from 1"""
        self.seen: list[tuple[int, Rung, Outcome]] = []
        self._rtt = rtt_seconds

    def step(self, seconds: float) -> float:
        """Return how far apart two silences near this one must be to be distinguishable."""
        return max(_STEP_SECONDS + self._rtt, _STEP_SHARE * seconds)

    # --- silence ----------------------------------------------------------------------------------------------------

    def cuts(self) -> list[tuple[int, Cut]]:
        """Return the cuts of silent tunnels: round number, outcome."""
        return [
            (number, outcome) for number, rung, outcome in self.seen if isinstance(outcome, Cut) and rung.role != "busy"
        ]

    def survivals(self) -> list[tuple[int, Survived | Talked]]:
        """Return survived silences: round number, outcome. Includes those that the server itself ended before a cut."""
        found: list[tuple[int, Survived | Talked]] = []
        for number, rung, outcome in self.seen:
            if rung.role != "busy" and isinstance(outcome, Survived | Talked):
                found.append((number, outcome))
            elif rung.role != "busy" and isinstance(outcome, Cut) and outcome.longest_gap_seconds:
                alive_at = outcome.age_seconds - outcome.silence_seconds
                found.append((number, Talked(outcome.longest_gap_seconds, alive_at)))
        return found

    def shortest_cut(self) -> Cut | None:
        """Return the shortest silence that was cut, and not by chance."""
        cuts = sorted((cut for _, cut in self.cuts()), key=lambda cut: cut.silence_seconds)
        return next((cut for cut in cuts if not self._by_chance(cut)), None)

    def longest_survived(self, below_seconds: float = math.inf) -> float:
        """Return the longest survived silence below another, in seconds; 0 if none."""
        lives = (each.silence_seconds for _, each in self.survivals())
        return max((silence for silence in lives if silence < below_seconds), default=0.0)

    def survived_beyond(self, seconds: float) -> int:
        """Return how many tunnels survived a longer silence."""
        return sum(each.silence_seconds > seconds for _, each in self.survivals())

    def is_blurred(self, cut: Cut) -> bool:
        """Whether tunnels were ended in the same way a little earlier. Ends by chance usually look different."""
        first, last = _NEARBY * cut.silence_seconds, cut.silence_seconds
        return any(first <= each.silence_seconds < last and each.way == cut.way for _, each in self.cuts())

    def blurred(self, cut: Cut) -> tuple[float, float]:
        """Return the bracket of a blurred limit: from what always survives to the longest that may survive."""
        first, last = _NEARBY * cut.silence_seconds, cut.silence_seconds / _NEARBY
        ends = min(each.silence_seconds for _, each in self.cuts() if each.silence_seconds >= first)
        return self.longest_survived(ends), max(self.longest_survived(last), cut.silence_seconds)

    def _by_chance(self, cut: Cut) -> bool:
        """Whether longer silences were survived so often that this cut, and those just below it, must be chance."""
        first, last = _NEARBY * cut.silence_seconds, cut.silence_seconds
        ended = Counter(number for number, each in self.cuts() if first <= each.silence_seconds <= last)
        later = cut.age_seconds + _AGE_SECONDS
        lived_on = {number for number, each in self.survivals() if each.age_seconds > later}
        events = sum(count if number in lived_on else 1 for number, count in ended.items())
        return self.survived_beyond(cut.silence_seconds) >= REPEATS * events

    # --- age --------------------------------------------------------------------------------------------------------

    def busy_ended(self) -> bool:
        """Whether all tunnels of the latest round that were kept busy ended anyway."""
        busy = [outcome for number, rung, outcome in self.seen if number == self.round and rung.role == "busy"]
        usable = [outcome for outcome in busy if not isinstance(outcome, Failed)]
        return len(usable) >= REPEATS - 1 and all(isinstance(outcome, Cut) for outcome in usable)

    def age_limit(self) -> AgeLimit | None:
        """Return the cuts at an age that no tunnel outlived, if the server interrupted their silences and longer
        silences survived; None if silence may explain the cuts.
        """
        ends = [(number, outcome) for number, _, outcome in self.seen if isinstance(outcome, Cut) and outcome.by_itself]
        if len(ends) < REPEATS:
            return None
        age = statistics.median(cut.age_seconds for _, cut in ends)
        slack = _AGE_SECONDS + _AGE_SHARE * age
        near = [(number, cut) for number, cut in ends if abs(cut.age_seconds - age) <= slack]
        found = AgeLimit([cut for _, cut in near], {number for number, _ in near})
        lived = [outcome.age_seconds for _, _, outcome in self.seen if isinstance(outcome, Survived | Talked)]
        if len(near) < max(REPEATS, _AGE_MAJORITY * len(ends)) or max(lived, default=0.0) > max(found.ages):
            return None
        interrupted = statistics.median(cut.age_seconds - cut.silence_seconds for cut in found.cuts) > _AGE_SECONDS
        longer = self.longest_survived() > min(cut.silence_seconds for cut in found.cuts) + self.step(age)
        return found if interrupted and longer else None

    # --- the latest round -------------------------------------------------------------------------------------------

    def at_edge(self, role: Role, kind: type[Kind]) -> list[Kind]:
        """Return the latest round's outcomes of one kind at one edge of the bracket."""
        return [outcome for outcome in self._edge(role) if isinstance(outcome, kind)]

    def edges_hold(self) -> bool:
        """Whether the latest round confirmed both edges of the bracket, without exception."""
        roles = {rung.role for number, rung, _ in self.seen if number == self.round}
        lows, highs = self.at_edge("low", Survived), self.at_edge("high", Cut)
        if len(highs) < REPEATS - 1 or len(highs) < len(self._edge("high")):
            return False
        if "low" not in roles:  # the bracket begins at 0
            return True
        if len(lows) < REPEATS - 1 or len(lows) < len(self._edge("low")):
            return False
        return max(low.silence_seconds for low in lows) < min(high.silence_seconds for high in highs)

    def _edge(self, role: Role) -> list[Outcome]:
        """Return the latest round's outcomes at one edge, without those that prove nothing: failures and early ends."""
        return [
            outcome
            for number, rung, outcome in self.seen
            if number == self.round
            and rung.role == role
            and not isinstance(outcome, Failed)
            and outcome.silence_seconds >= _NEARBY * (rung.seconds - _BLURRED_STEPS * self.step(rung.seconds))
        ]
