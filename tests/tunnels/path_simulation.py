"""Clients behind networks that cut idle connections, and a gateway that pings them: all by a clock of its own.

``python -m tests.tunnels.path_simulation [SEEDS]`` prints the table of the first run, what did not hold in which run,
and how often the learner was wrong in all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random

from gateway.tunnels.learning.learning import CUT, UNANSWERED, Bounds, Key, Learner

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
NEVER = 1 << 62
ROUND_TRIP = SECOND // 20
SWEEP_OFF = SECOND // 50  # pings are sent up to that much before or after they are due
CUT_LATE = 3 * SECOND // 100  # so are the FINs of a cutoff

BOUNDS = Bounds(5 * SECOND, 240 * SECOND, 20 * SECOND)
FIXED = 25 * SECOND
CHANGE = 60 * MINUTE
RUN = 150 * MINUTE
LEARNING = 20 * MINUTE  # after the start, and after a cutoff became stricter


@dataclass
class Network:
    """What one network does to silent connections. Cutoffs in seconds; None where it cuts none."""

    cutoff: float | None
    how: int = CUT
    later: float | None = None  # the cutoff from CHANGE on, if it changes
    changes: bool = False
    clients: int = 50
    share: float = 1.0  # of its clients that are cut at all

    def cutoff_ns(self, now: int) -> int:
        cutoff = self.later if self.changes and now >= CHANGE else self.cutoff
        return NEVER if cutoff is None else round(cutoff * SECOND)

    @property
    def strictest_ns(self) -> int:
        return min(self.cutoff_ns(0), self.cutoff_ns(CHANGE))

    def is_learning(self, now: int) -> bool:
        """Whether cuts are still to be expected."""
        got_stricter = self.cutoff_ns(CHANGE) < self.cutoff_ns(0)
        return now < LEARNING or (got_stricter and CHANGE <= now < CHANGE + LEARNING)

    def __str__(self) -> str:
        texts = ["none" if cutoff is None else f"{cutoff:g} s" for cutoff in (self.cutoff, self.later)]
        return f"{' then '.join(texts[: 1 + self.changes])} {('FIN', 'silent')[self.how] if self.cutoff else ''}"


def twenty() -> list[Network]:
    """The networks of the 1,000 clients."""
    return [
        *(Network(cutoff, CUT) for cutoff in (8, 12, 20, 45, 60, 120, 230, 360)),
        *(Network(cutoff, UNANSWERED) for cutoff in (10, 15, 30, 60, 90, 180, 300)),
        *(Network(None) for _ in range(3)),
        Network(120, UNANSWERED, later=30, changes=True),
        Network(40, CUT, later=150, changes=True),
    ]


@dataclass
class Outcome:
    """What one network's tunnels went through."""

    network: Network
    key: Key
    gaps: list[int] = field(default_factory=list)  # when each silence ended
    cuts: list[int] = field(default_factory=list)  # when the network cut a tunnel
    pings: int = 0
    false_cutoffs: int = 0  # learned, though the network cuts later or never
    false_fallbacks: int = 0  # to 25 s, though all its clients have one limit
    intervals: list[tuple[int, int]] = field(default_factory=list)  # from when on, the common interval

    @property
    def settled(self) -> tuple[int, int]:
        """Cuts and silences, learning aside."""
        is_learning = self.network.is_learning
        return sum(not is_learning(at) for at in self.cuts), sum(not is_learning(at) for at in self.gaps)

    def cuts_between(self, start: int, end: int) -> int:
        return sum(start <= at < end for at in self.cuts)


class Fixed:
    """A gateway that always pings after the same silence, in a learner's place."""

    def __init__(self, interval_ns: int) -> None:
        self.interval_ns = interval_ns

    def interval(self, key: Key, bounds: Bounds) -> int:
        return self.interval_ns

    common_interval = interval

    def answered(self, key: Key, bounds: Bounds, silence_ns: int, now: int) -> int:
        return self.interval_ns

    def cut(self, key: Key, bounds: Bounds, silence_ns: int, how: int, now: int) -> None:
        pass

    def changed(self) -> set[Key]:
        return set()

    def learned_cutoff(self, key: Key) -> None:
        return None

    def export(self, key: Key) -> None:
        return None


HERE, LEFT, LOST = range(3)  # a client: connected; gone without a word; cut off, and neither side knows


@dataclass(slots=True, eq=False)
class Tunnel:
    """A client's place in its network. When a tunnel has ended, another begins there."""

    network: int
    is_limited: bool  # whether its network's cutoff is for it
    is_open: bool = False
    state: int = HERE
    interval: int = 0
    last: int = 0  # when its silence began
    ping_at: int = 0
    talks_at: int = 0
    leaves_at: int = 0
    leaves_by_fin: bool = False
    mean_gap: int = 0  # of its own traffic; 0 for none
    asked_at: int = 0  # when what was sent to it needed an answer; 0 while nothing does
    turn: int = 0  # of its next event; earlier ones are void


class Simulation:
    """One gateway, its networks and their clients."""

    def __init__(
        self,
        networks: Iterable[Network],
        learner: Learner | Fixed,
        seed: int,
        bounds: Bounds = BOUNDS,
        *,
        leave_per_minute: float = 0.02,
        talkative: float = 0.35,  # share of clients that have traffic of their own, now and then
        opened_within: int = MINUTE,
    ) -> None:
        self.random = Random(seed)
        self.learner = learner
        self.bounds = bounds
        self.leave_per_minute = leave_per_minute
        self.talkative = talkative
        self.now = 0
        self.outcomes = [Outcome(network, (0, 0, n)) for n, network in enumerate(networks)]
        self.tunnels: list[list[Tunnel]] = []
        self._events: list[tuple[int, int, int, Tunnel]] = []
        self._serial = 0
        for n, outcome in enumerate(self.outcomes):
            clients = range(outcome.network.clients)
            self.tunnels.append([Tunnel(n, self.random.random() < outcome.network.share) for _ in clients])
            for tunnel in self.tunnels[n]:
                self._schedule(tunnel, int(self.random.random() * opened_within))

    def run(self, until: int) -> Simulation:
        while self._events[0][0] <= until:
            at, _, turn, tunnel = heappop(self._events)
            if turn == tunnel.turn:
                self.now = at
                self._act(tunnel)
                self._shorten()
        self.now = until
        return self

    def restart(self, n: int) -> None:
        """All connections of a network end at once, as those to a backend do that restarts."""
        for tunnel in self.random.sample(self.tunnels[n], len(self.tunnels[n])):
            if tunnel.is_open:
                self._end(tunnel, self.now - max(tunnel.last, tunnel.asked_at), CUT)
        self._shorten()

    def interval(self, n: int) -> int:
        return self.learner.common_interval(self.outcomes[n].key, self.bounds)

    # --- a tunnel's life ----------------------------------------------------------------------------------------------

    def _open(self, tunnel: Tunnel) -> None:
        random = self.random
        tunnel.is_open = True
        tunnel.state = HERE
        tunnel.asked_at = 0
        tunnel.leaves_at = NEVER
        if self.leave_per_minute:
            tunnel.leaves_at = self.now + int(random.expovariate(self.leave_per_minute) * MINUTE)
        tunnel.leaves_by_fin = random.random() < 0.5
        kind = random.random() / self.talkative if self.talkative else 1
        tunnel.mean_gap = 10 * SECOND if kind < 0.25 else 90 * SECOND if kind < 1 else 0
        tunnel.interval = self.learner.interval(self.outcomes[tunnel.network].key, self.bounds)
        self._fall_silent(tunnel, self.now)

    def _fall_silent(self, tunnel: Tunnel, now: int) -> None:
        tunnel.last = now
        tunnel.ping_at = now + tunnel.interval + int(self.random.uniform(-SWEEP_OFF, SWEEP_OFF))
        tunnel.talks_at = now + int(self.random.expovariate(1 / tunnel.mean_gap)) if tunnel.mean_gap else NEVER
        self._plan(tunnel)

    def _plan(self, tunnel: Tunnel) -> None:
        """Schedule what comes first."""
        if tunnel.asked_at:
            self._schedule(tunnel, tunnel.asked_at + self.bounds.pong_timeout_ns)
            return
        at = min(tunnel.ping_at, tunnel.talks_at)
        if tunnel.state == HERE:
            at = min(at, tunnel.leaves_at, self._cut_at(tunnel))
            if self.now < CHANGE < at:
                at = CHANGE  # the cutoff may be another one then
        self._schedule(tunnel, max(at, self.now))

    def _cut_at(self, tunnel: Tunnel) -> int:
        return tunnel.last + self.outcomes[tunnel.network].network.cutoff_ns(self.now) if tunnel.is_limited else NEVER

    def _schedule(self, tunnel: Tunnel, at: int) -> None:
        self._serial += 1
        tunnel.turn += 1
        heappush(self._events, (at, self._serial, tunnel.turn, tunnel))

    def _act(self, tunnel: Tunnel) -> None:
        outcome = self.outcomes[tunnel.network]
        silence = self.now - tunnel.last
        if not tunnel.is_open:
            self._open(tunnel)
        elif tunnel.asked_at:
            if tunnel.state == LOST:
                outcome.cuts.append(self.now)
            self._end(tunnel, tunnel.asked_at - tunnel.last, UNANSWERED)
        elif tunnel.state == HERE and self.now >= self._cut_at(tunnel):
            if outcome.network.how == CUT:
                outcome.cuts.append(self.now)
                self._end(tunnel, silence + int(self.random.random() * CUT_LATE), CUT)
            else:
                tunnel.state = LOST
                self._plan(tunnel)
        elif tunnel.state == HERE and self.now >= tunnel.leaves_at:
            if tunnel.leaves_by_fin:
                self._end(tunnel, silence, CUT)
            else:
                tunnel.state = LEFT
                tunnel.talks_at = NEVER
                self._plan(tunnel)
        elif self.now >= min(tunnel.ping_at, tunnel.talks_at):
            outcome.pings += self.now >= tunnel.ping_at
            if tunnel.state == HERE:
                outcome.gaps.append(self.now)
                answered = self.now + ROUND_TRIP
                tunnel.interval = self.learner.answered(outcome.key, self.bounds, silence, answered)
                self._note(outcome)
                self._fall_silent(tunnel, answered)
            else:
                tunnel.asked_at = self.now
                self._plan(tunnel)
        else:
            self._plan(tunnel)

    def _end(self, tunnel: Tunnel, silence: int, how: int) -> None:
        """The gateway sees a tunnel end; its client, or another, comes back within two seconds."""
        outcome, learner = self.outcomes[tunnel.network], self.learner
        outcome.gaps.append(self.now)
        known, knew = learner.learned_cutoff(outcome.key), learner.export(outcome.key)
        learner.cut(outcome.key, self.bounds, silence, how, self.now)
        learned, knows = learner.learned_cutoff(outcome.key), learner.export(outcome.key)
        if learned and learned != known and learned < 0.9 * outcome.network.cutoff_ns(self.now):
            outcome.false_cutoffs += 1
        if knew and knows and knows.overturned_ns != knew.overturned_ns and not knows.cutoff_ns:
            outcome.false_fallbacks += 1
        self._note(outcome)
        tunnel.is_open = False
        self._schedule(tunnel, self.now + int(self.random.uniform(0.5, 2) * SECOND))

    def _shorten(self) -> None:
        """Where the interval dropped, live tunnels are pinged the sooner."""
        for key in self.learner.changed():
            interval = self.learner.common_interval(key, self.bounds)
            for tunnel in self.tunnels[key[2]]:
                if tunnel.is_open and not tunnel.asked_at and tunnel.interval > interval:
                    tunnel.interval = interval
                    due = max(tunnel.last + interval, self.now) + int(self.random.random() * SWEEP_OFF)
                    tunnel.ping_at = min(tunnel.ping_at, due)
                    self._plan(tunnel)

    def _note(self, outcome: Outcome) -> None:
        interval = self.learner.common_interval(outcome.key, self.bounds)
        if not outcome.intervals or outcome.intervals[-1][1] != interval:
            outcome.intervals.append((self.now, interval))


# --- the thousand clients ---------------------------------------------------------------------------------------------


def simulate(seed: int) -> Simulation:
    """1,000 clients in 20 networks, and a gateway that learns."""
    return Simulation(twenty(), Learner(), seed).run(RUN)


def simulate_fixed(seed: int) -> Simulation:
    """The same clients, and a gateway that pings after 25 s."""
    return Simulation(twenty(), Fixed(FIXED), seed).run(RUN)


def ratio(simulation: Simulation, outcome: Outcome) -> float:
    """The interval, as a share of the cutoff."""
    return simulation.interval(outcome.key[2]) / outcome.network.cutoff_ns(simulation.now)


def violations(learned: Simulation, fixed: Simulation) -> list[str]:
    """What does not hold of a run, in words."""
    found = []
    low, high, _ = learned.bounds
    cuts = silences = 0
    for outcome, baseline in zip(learned.outcomes, fixed.outcomes, strict=True):
        network, name = outcome.network, str(outcome.network)
        cut, settled = outcome.settled
        cuts, silences = cuts + cut, silences + settled
        if cut > 0.005 * settled:
            found.append(f"{name}: {cut} of {settled} silences were cut after learning")
        cutoff = network.cutoff_ns(learned.now)
        if 2 * low <= cutoff <= high and not 0.5 <= ratio(learned, outcome) <= 0.95:
            found.append(f"{name}: interval at {ratio(learned, outcome):.2f} of the cutoff")
        if cutoff > high / 0.8 and learned.interval(outcome.key[2]) != high:
            found.append(f"{name}: interval {learned.interval(outcome.key[2]) / SECOND:.0f} s, not the maximum")
        if network.strictest_ns > 1.25 * FIXED / 0.8 and outcome.pings >= baseline.pings:
            found.append(f"{name}: {outcome.pings} pings, {baseline.pings} with a fixed interval")
    if cuts > 0.005 * silences:
        found.append(f"{cuts} of {silences} silences were cut after learning")
    return found


def table(learned: Simulation, fixed: Simulation) -> str:
    """A line for each network."""
    lines = [
        f"{'cutoff':24} {'interval':>9} {'of cutoff':>9} {'settled at':>11} {'pings':>7} {'at 25 s':>8} "
        f"{'cuts':>6} {'at 25 s':>8} {'once learned':>18} {'wrong':>6}"
    ]
    for outcome, baseline in zip(learned.outcomes, fixed.outcomes, strict=True):
        interval = learned.interval(outcome.key[2])
        share = ratio(learned, outcome)
        near = [at for at, was in outcome.intervals if abs(was - interval) > interval / 10]
        settled_at = min(at for at, _ in outcome.intervals if not near or at > near[-1])
        cuts, silences = outcome.settled
        lines.append(
            f"{outcome.network!s:24} {interval / SECOND:7.1f} s {f'{share:.2f}' if share > 0.01 else '':>9} "
            f"{settled_at / MINUTE:7.1f} min {outcome.pings:7} {baseline.pings:8} {len(outcome.cuts):6} "
            f"{len(baseline.cuts):8} {cuts:6} of {silences:8} {outcome.false_cutoffs + outcome.false_fallbacks:6}"
        )
    return "\n".join(lines)


def main(seeds: int) -> None:
    cuts = silences = false_cutoffs = false_fallbacks = held = 0
    fixed = simulate_fixed(0)
    ratios, at_maximum = [], []
    for seed in range(seeds):
        run = simulate(seed)
        if not seed:
            print(table(run, fixed), flush=True)
        broken = violations(run, fixed)
        held += not broken
        for line in broken:
            print(f"seed {seed}: {line}", flush=True)
        cuts += sum(outcome.settled[0] for outcome in run.outcomes)
        silences += sum(outcome.settled[1] for outcome in run.outcomes)
        false_cutoffs += sum(outcome.false_cutoffs for outcome in run.outcomes)
        false_fallbacks += sum(outcome.false_fallbacks for outcome in run.outcomes)
        ratios += [ratio(run, outcome) for outcome in run.outcomes if outcome.network.strictest_ns <= run.bounds.max_ns]
        for outcome in run.outcomes:
            if outcome.network.strictest_ns > run.bounds.max_ns / 0.8:
                at_maximum.append(next(at for at, interval in outcome.intervals if interval == run.bounds.max_ns))
    at_maximum.sort()
    half, most = (at_maximum[len(at_maximum) * percent // 100] // MINUTE for percent in (50, 95))
    hours = seeds * len(twenty()) * RUN / 60 / MINUTE
    print(
        f"all held in {held} of {seeds} runs; {cuts / silences:.4%} of silences cut once learned; intervals at "
        f"{min(ratios):.2f} to {max(ratios):.2f} of the cutoff; maximum reached in {half} min, 95 % in {most}; "
        f"in {hours:.0f} hours of a network {false_cutoffs} false cutoffs, {false_fallbacks} fallbacks to 25 s"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
