"""Plans which silences to try next, and gives the verdict. Pure: outcomes go in, rungs come out.

First comes a *ladder* of silences up to the longest. Its steps lie between common time-outs, so most of those are
distinguished at once. If tunnels are cut, *narrowing* puts rungs between the longest silence that was survived and the
shortest that was cut, until the two are close. If ends come unprompted, the time of an end is the time-out, and nothing
is left to narrow. *Confirming* then repeats both edges of the bracket, three times each and a little outside of it: all
three below must survive, all three above must be cut. In parallel, tunnels of the same age are kept busy: if they end
too, tunnels are ended because of their age, not their silence.

Error rates, in simulation (tests/probe/test_planner.py): if 2 % of tunnels vanish at random in each minute, no limit is
reported wrongly; with limits of four minutes, one in five silent cuts is left unconfirmed for lack of time.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal, TypeAlias

from gateway.probe.evidence import REPEATS, Evidence
from gateway.probe.outcomes import Cut, EndedBy, Outcome, Rung, Survived, Talked

LADDER_SECONDS = (2.5, 4, 7, 12, 18, 27, 40, 57, 80, 110, 150, 210, 270, 330, 450, 660, 1100, 1700, 2700, 4500, 7300)
_LADDER_RATIO = 1.6  # for steps beyond the last

MAX_ROUNDS = 10
_BUDGET = 4  # times the longest silence: ladder, narrowing, confirmation, and one more
_SPARE_SECONDS = 15.0
_OPENING_SECONDS = 5.0

_NARROW_SECONDS = 0.25
_NARROW_SHARE = 0.015  # of the silence, if that is more
_MAX_BETWEEN = 27
_MAX_GROWTH = 8
_SHARP_TRIES = 3  # attempts to confirm a limit before it is considered not sharp

# A middlebox sees bytes half a round trip before or after this end does. It may start counting at an acknowledgement,
# which TCP delays, usually by 40 ms and by at most 200 ms.
_DELAYED_ACK_SECONDS = 0.2
_TIMER_SECONDS = 0.05

Kind: TypeAlias = Literal["ladder", "narrowing", "confirming"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known about the path.

    ``low_seconds`` of silence are tolerated, ``high_seconds`` are cut; the latter and ``ended_by`` are None if nothing
    is cut. With ``by_age`` both are ages at which tunnels are ended, whether they are silent or not. ``confirmed`` is
    false if the probe was interrupted, ran out of time, or saw contradictory outcomes.
    """

    low_seconds: float
    high_seconds: float | None = None
    ended_by: EndedBy | None = None
    by_itself: bool = False
    close_code: int | None = None
    close_reason: str = ""
    by_age: bool = False
    confirmed: bool = False
    server_sends_every_seconds: float | None = None
    chance_ends: int = 0
    """tunnels that ended earlier than the verdict explains"""
    survivors_beyond: int = 0
    """tunnels that survived a longer silence than the verdict allows"""


class Planner:
    """Plans rounds of rungs from the outcomes so far."""

    def __init__(self, max_seconds: float, pong_timeout_seconds: float, rtt_seconds: float = 0.0) -> None:
        """
        :param max_seconds: the longest silence to try
        :param pong_timeout_seconds: how long to wait for a Pong
        :param rtt_seconds: round trip of a Ping over the path
        """
        self.kind: Kind = "ladder"
        self.evidence = Evidence(rtt_seconds)
        self.longest_seconds = _BUDGET * (max_seconds + pong_timeout_seconds) + _SPARE_SECONDS
        """limit of the time for all rounds together"""
        self._max = max_seconds
        self._pong_timeout = pong_timeout_seconds
        self._rtt = rtt_seconds
        self._open: Counter[Rung] = Counter()
        self._confirmations = 0
        self._finished = False

    @property
    def rounds(self) -> int:
        """How many rounds were started."""
        return self.evidence.round

    # --- rounds -----------------------------------------------------------------------------------------------------

    def next_round(self, elapsed_seconds: float) -> list[Rung]:
        """Return the tunnels to open next; empty when the verdict is final, or when no time is left.

        :param elapsed_seconds: since the first round began
        """
        if self._finished:
            return []
        kind, rungs = ("ladder", []) if self._is_done() else self._plan()
        duration = max((rung.seconds for rung in rungs), default=0.0) + self._pong_timeout + _OPENING_SECONDS
        if not rungs or self.rounds == MAX_ROUNDS or elapsed_seconds + duration > self.longest_seconds:
            self._finished = True
            return []
        self.kind = kind
        self.evidence.round += 1
        self._open = Counter(rungs)
        return rungs

    def note(self, rung: Rung, outcome: Outcome) -> None:
        """Record the outcome of one of the round's tunnels."""
        self._open[rung] -= 1
        self.evidence.seen.append((self.rounds, rung, outcome))

    @property
    def settled(self) -> bool:
        """Whether the round's remaining tunnels, all with longer silences, cannot influence the next round."""
        if self.kind == "confirming":
            return False
        cuts = sorted(cut.silence_seconds for number, cut in self.evidence.cuts() if number == self.rounds)
        if len(cuts) < REPEATS:
            return False
        survived = [each.silence_seconds for number, each in self.evidence.survivals() if number == self.rounds]
        left = [rung.seconds for rung, count in self._open.items() if count]
        return max(survived, default=0.0) < cuts[0] and min(left, default=math.inf) > cuts[REPEATS - 1]

    def _is_done(self) -> bool:
        """Whether the verdict is final."""
        if +self._open or not self.rounds:
            return False
        if limit := self.evidence.age_limit():
            return len(limit.rounds) > 1
        if self.evidence.shortest_cut() is None:
            return self.kind == "ladder"
        return self.kind == "confirming" and self.evidence.edges_hold()

    # --- verdict ----------------------------------------------------------------------------------------------------

    def verdict(self) -> Verdict:
        """Return the verdict from the outcomes so far."""
        evidence = self.evidence
        if limit := evidence.age_limit():
            return self._cut_verdict(min(limit.ages), max(limit.ages), limit.cuts, True)
        cut = evidence.shortest_cut()
        if cut is None:
            low, talks = evidence.longest_survived(), self._server_sends_every()
            confirmed = self._is_done() and (talks is not None or low > 0.9 * self._max)
            ends = len(evidence.cuts())
            return Verdict(low, confirmed=confirmed, server_sends_every_seconds=talks, chance_ends=ends)
        low, high = self._bracket(cut)
        by_age = False
        if self._is_done():
            low = min((each.silence_seconds for each in evidence.at_edge("low", Survived)), default=low)
            high = max(each.silence_seconds for each in evidence.at_edge("high", Cut))
            by_age = evidence.busy_ended()
        beyond = high + evidence.step(high)
        near = [each for _, each in evidence.cuts() if cut.silence_seconds <= each.silence_seconds <= beyond]
        return self._cut_verdict(low, high, near or [cut], by_age)

    def _cut_verdict(self, low: float, high: float, cuts: list[Cut], by_age: bool) -> Verdict:
        """Return the verdict that tunnels are cut between ``low`` and ``high``, in the way of most ``cuts``."""
        way = Counter(cut.way for cut in cuts).most_common(1)[0][0]
        ended_by, by_itself, close_code = way
        reasons = [cut.close_reason for cut in cuts if cut.way == way]
        unexplained = sum(cut.silence_seconds < low for _, cut in self.evidence.cuts())
        return Verdict(
            max(low - _DELAYED_ACK_SECONDS - self._rtt, 0.0),
            high + _TIMER_SECONDS + self._rtt,
            ended_by,
            by_itself,
            close_code,
            reasons[-1],
            by_age,
            self._is_done(),
            self._server_sends_every(),
            0 if self.evidence.age_limit() else unexplained,
            0 if self.evidence.age_limit() else self.evidence.survived_beyond(high),
        )

    def _server_sends_every(self) -> float | None:
        """Return the longest silence of a server that keeps sending; None if the server was silent."""
        gaps = [each.silence_seconds for _, _, each in self.evidence.seen if isinstance(each, Talked)]
        return max(gaps, default=None)

    # --- plans ------------------------------------------------------------------------------------------------------

    def _plan(self) -> tuple[Kind, list[Rung]]:
        evidence = self.evidence
        if limit := evidence.age_limit():
            return "confirming", self._busy(max(limit.ages), min(cut.silence_seconds for cut in limit.cuts))
        cut = evidence.shortest_cut()
        if cut is None:
            return "ladder", self._ladder(evidence.longest_survived())
        low, high = self._bracket(cut)
        if not self._is_blurred(cut):
            if cut.by_itself:
                low = high
            elif high - low > _close_enough(high):
                return "narrowing", self._between(low, high)
        self._confirmations += 1
        return "confirming", self._edges(low, high)

    def _bracket(self, cut: Cut) -> tuple[float, float]:
        """Return the silences between which the limit is known to lie."""
        if self._is_blurred(cut):
            return self.evidence.blurred(cut)
        return self.evidence.longest_survived(cut.silence_seconds), cut.silence_seconds

    def _is_blurred(self, cut: Cut) -> bool:
        return self._confirmations >= _SHARP_TRIES or self.evidence.is_blurred(cut)

    def _ladder(self, low: float) -> list[Rung]:
        steps = list(LADDER_SECONDS)
        while steps[-1] < self._max:
            steps.append(steps[-1] * _LADDER_RATIO)
        tried = [step for step in steps if 1.05 * low < step < 0.95 * self._max]
        return [Rung(seconds, "ladder") for seconds in [*tried, *[self._max] * REPEATS]]

    def _between(self, low: float, high: float) -> list[Rung]:
        gaps = min(math.ceil((high - low) / _close_enough(low)), _MAX_BETWEEN + 1)
        between = [Rung(low + (high - low) * number / gaps, "between") for number in range(1, gaps)]
        return between + [Rung(high + self.evidence.step(high), "high")] * REPEATS

    def _edges(self, low: float, high: float) -> list[Rung]:
        # Widen the bracket if outcomes contradicted each other last time.
        step = self.evidence.step(high) * min(2 ** (self._confirmations - 1), _MAX_GROWTH)
        below, above = max(low - step, low / 2), high + step
        rungs = [Rung(below, "low")] * REPEATS if low else []
        return [*rungs, *[Rung(above, "high")] * REPEATS, *self._busy(above, below)]

    def _busy(self, age: float, silence: float) -> list[Rung]:
        """Return tunnels that get as old without ever being as silent."""
        return [Rung(age + self.evidence.step(age), "busy", max(silence / 3, 0.2))] * REPEATS


def _close_enough(seconds: float) -> float:
    """Return how wide a bracket around a silence may be."""
    return max(_NARROW_SECONDS, _NARROW_SHARE * seconds)
