"""Paths that cut in known ways, and a probe over them in virtual time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.probe.outcomes import Cut, EndedBy, Outcome, Rung, Survived, Talked
from gateway.probe.planner import Planner, Verdict

PONG_TIMEOUT = 5.0
RTT = 0.02


@dataclass
class Path:
    """What lies between: silences are cut after ``cutoff`` seconds, by itself or in answer to what is sent later."""

    cutoff: float = math.inf
    ended_by: EndedBy = "fin"
    by_itself: bool = True
    jitter: Callable[[random.Random], float] = lambda _: 0.0
    """added to the cutoff of each tunnel"""
    lifetime: float = math.inf
    talks_every: float = math.inf
    vanish_a_minute: float = 0.0
    """share of tunnels that are reset at random in each minute"""
    restarts_at: tuple[float, ...] = ()
    """clock times at which every tunnel is reset"""
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def play(self, rung: Rung, start: float) -> tuple[float, Outcome]:
        """What becomes of a tunnel: age at which that is known, outcome. :param start: clock when it was opened"""
        cutoff = self.cutoff + self.jitter(self.rng)
        vanishes = self.rng.expovariate(-math.log1p(-self.vanish_a_minute) / 60) if self.vanish_a_minute else math.inf
        restart = min((at - start for at in self.restarts_at if at > start), default=math.inf)
        late = self.rng.uniform(0, 0.003)
        ends = {"restart": min(vanishes, restart), "lifetime": self.lifetime}
        silence_from = 0.0
        if rung.role == "busy":
            goal = rung.seconds
            if rung.ping_every_seconds > cutoff:
                ends["idle"] = cutoff if self.by_itself else rung.ping_every_seconds
        elif self.talks_every <= min(rung.seconds, cutoff):
            # Interruptions after the first ten seconds count; it is given up on the third.
            third = self.talks_every * (math.floor(10 / self.talks_every) + 3)
            first_end = min(ends.values())
            if first_end > third:
                return third, Talked(self.talks_every, third)
            goal, silence_from = math.inf, math.floor(first_end / self.talks_every) * self.talks_every
        else:
            goal = rung.seconds
            if self.by_itself:
                ends["idle"] = cutoff
        why, end = min(ends.items(), key=lambda item: item[1])
        if end < goal:
            silence = min(end - silence_from, rung.ping_every_seconds or math.inf) + late
            gap = self.talks_every if silence_from else 0.0
            if why == "restart":
                return end, Cut(silence, end + late, "reset", True, longest_gap_seconds=gap)
            code = 1001 if self.ended_by == "close_frame" else None
            return end, Cut(silence, end + late, self.ended_by, True, code, longest_gap_seconds=gap)
        if rung.role != "busy" and goal + late > cutoff:
            wait = PONG_TIMEOUT if self.ended_by == "silence" else RTT
            return goal + wait, Cut(goal + late, goal + wait, self.ended_by, False)
        return goal + RTT, Survived(goal + late, goal + RTT)


def probe(path: Path, max_seconds: float = 300) -> tuple[Verdict, float, Planner]:
    """Probe a path: the verdict, seconds that it took, the planner."""
    planner = Planner(max_seconds, PONG_TIMEOUT, RTT)
    clock = 0.0
    while rungs := planner.next_round(clock):
        assert len(rungs) <= 32
        played = sorted(((*path.play(rung, clock), rung) for rung in rungs), key=lambda each: each[0])
        longest = 0.0
        for took, outcome, rung in played:
            planner.note(rung, outcome)
            longest = took
            if planner.settled:
                break
        clock += longest
    return planner.verdict(), clock, planner
