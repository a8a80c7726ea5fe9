"""What is known of one path: which silences it tolerated, which it did not, and the keepalive interval that follows.

:class:`Path` holds the rules that ``learning.py`` explains. Pure: silences and the clock come in as nanoseconds.
"""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple

SECOND = 1_000_000_000
NEVER = 1 << 62

CUT = 0  # that side ended its connection with FIN or RST at the end of the silence: the silence is exact
UNANSWERED = 1  # what was sent after the silence was never answered: the cutoff is as long as the silence, or shorter

START_NS = 25 * SECOND  # assumed to be safe
FIRST_RETEST_NS = 1800 * SECOND
LAST_RETEST_NS = 86_400 * SECOND

_CONFIRMED = 2  # failures that make a cutoff
_IN_A_ROW = 4  # failures that overturn what was proven, with no answer beyond them
_AMONG_ANSWERS = 5  # cuts of one length that do so although longer silences were answered
_ANSWERS_TO_CLEAR = 8  # answers beyond a cut after which it is forgotten
_DOUBTS = 8  # failures remembered
_LEASE_SLACK_NS = 3 * SECOND
_SHORTEST_CUTOFF_NS = SECOND  # a connection that ends within a second of being used was not cut for being idle


class Bounds(NamedTuple):
    """What a route's configuration allows a side's interval to be, and how long a Pong may take."""

    min_ns: int
    max_ns: int
    pong_timeout_ns: int


class State(NamedTuple):
    """What other processes on this machine are told of a path: integers only, times by ``CLOCK_MONOTONIC``."""

    epoch_ns: int
    proven_ns: int
    cutoff_ns: int
    exact: int
    failures: int
    since_ns: int
    retest_ns: int
    retest_delay_ns: int
    trial_ns: int
    lease_ns: int


class _Doubt:
    """A failure after a silence that is known to be tolerated: somebody left, or the path has changed."""

    __slots__ = ("answers", "cleared_by_ns", "how", "silence_ns")

    def __init__(self, silence_ns: int, how: int) -> None:
        self.silence_ns = silence_ns
        self.how = how
        # Pings of one interval are sent a little early or late: an answer to another one of them counts.
        self.cleared_by_ns = silence_ns if how == CUT else silence_ns - (silence_ns >> 5)
        self.answers = 0


class Path:
    """One path. Its owner reads ``interval_ns`` and, to be quick, the three limits that say when to call in."""

    __slots__ = (
        "_doubts",
        "_epoch_ns",
        "_exact",
        "_failures",
        "_lease_ns",
        "_retest_delay_ns",
        "_retest_ns",
        "_rose_ns",
        "_since_ns",
        "_trial_ns",
        "answered_ns",
        "bounds",
        "cutoff_ns",
        "doubt_ns",
        "full_ns",
        "interval_ns",
        "proven_ns",
        "scout_ns",
    )

    def __init__(self) -> None:
        self.bounds: Bounds | None = None
        self.interval_ns = NEVER  # of all tunnels but the scout
        self.proven_ns = 0  # longest silence that was answered
        self.cutoff_ns = 0  # shortest silence that failed; 0 while none did
        self.doubt_ns = NEVER  # an answer after this silence clears a doubt
        self.full_ns = NEVER  # an answer after this silence counts as one after a whole interval
        self.answered_ns = 0  # when the latest of those came
        self.scout_ns = NEVER  # when the next tunnel may be sent scouting
        self._exact = False  # the cutoff is known, rather than a bound of it
        self._failures = 0  # that speak for this cutoff
        self._since_ns = 0  # silences that began earlier do not speak against it
        self._epoch_ns = 0  # when what was proven was overturned
        self._retest_ns = 0
        self._retest_delay_ns = FIRST_RETEST_NS
        self._rose_ns = 0  # when the interval last rose
        self._trial_ns = 0
        self._lease_ns = 0  # until when the scout has its trial to itself
        self._doubts: list[_Doubt] = []

    @property
    def learned_cutoff_ns(self) -> int:
        """The cutoff, once it is confirmed; else 0. Where the path is cut silently, it may be a quarter shorter."""
        return self.cutoff_ns if self._failures >= _CONFIRMED else 0

    def bind(self, bounds: Bounds) -> None:
        """Keep to these bounds from now on."""
        self.bounds = bounds
        self._reckon()

    def scout(self, now: int) -> int:
        """Lend the trial that is due to a tunnel: the silence it is to try. Only when ``scout_ns`` has come."""
        assert self.bounds is not None
        self._trial_ns = self._trial()
        self._lease_ns = now + self._trial_ns + self.bounds.pong_timeout_ns + _LEASE_SLACK_NS
        self.scout_ns = self._lease_ns
        return self._trial_ns

    def answer(self, silence_ns: int, now: int) -> None:
        """Note an answer that goes beyond ``proven_ns`` or ``doubt_ns``."""
        if silence_ns >= self.doubt_ns:
            self._clear_doubts(silence_ns)
        if silence_ns <= self.proven_ns or (self.cutoff_ns < silence_ns and now - silence_ns < self._since_ns):
            return
        self.proven_ns = silence_ns
        if self._is_refuted():
            self._forget_cutoff()
        assert self.bounds is not None
        if silence_ns >= self.bounds.max_ns:
            self._retest_delay_ns = FIRST_RETEST_NS
        if silence_ns >= self._trial_ns:
            self._end_trial()
        before = self.interval_ns
        self._reckon()
        if self.interval_ns > before + (before >> 4):
            self._rose_ns = now

    def fail(self, silence_ns: int, how: int, now: int) -> None:
        """Note that a connection did not live through a silence."""
        assert self.bounds is not None
        if silence_ns < min(_SHORTEST_CUTOFF_NS, self.bounds.min_ns):
            return
        proven = self.proven_ns if how == CUT else self.proven_ns + (self.proven_ns >> 5)
        known = self._exact and self._failures >= _CONFIRMED
        if silence_ns <= proven or (known and silence_ns < self.cutoff_ns and not _alike(silence_ns, self.cutoff_ns)):
            self._doubt(silence_ns, how, now)
        else:
            self._believe(silence_ns, how, now)
        self._reckon()

    def export(self) -> State:
        """What other processes may want to know."""
        return State(
            self._epoch_ns,
            self.proven_ns,
            self.cutoff_ns,
            int(self._exact),
            self._failures,
            self._since_ns,
            self._retest_ns,
            self._retest_delay_ns,
            self._trial_ns,
            self._lease_ns,
        )

    def adopt(self, state: State) -> None:
        """Learn what another process knows: all of it where it overturned what was proven, else what goes further."""
        if state.epoch_ns < self._epoch_ns:
            return
        if state.epoch_ns > self._epoch_ns:
            self.proven_ns = self.cutoff_ns = 0
            self._epoch_ns = state.epoch_ns
            self._doubts.clear()
            self.doubt_ns = NEVER
        self.proven_ns = max(self.proven_ns, state.proven_ns)
        if state.cutoff_ns and (not self.cutoff_ns or state.cutoff_ns < self.cutoff_ns):
            self.cutoff_ns = state.cutoff_ns
            self._exact = bool(state.exact)
            self._failures = state.failures
            self._since_ns = state.since_ns
        elif state.cutoff_ns == self.cutoff_ns:
            self._failures = max(self._failures, state.failures)
        self._retest_ns = max(self._retest_ns, state.retest_ns)
        self._retest_delay_ns = max(self._retest_delay_ns, state.retest_delay_ns)
        if state.lease_ns > self._lease_ns:
            self._lease_ns = state.lease_ns
            self._trial_ns = state.trial_ns
        if self._is_refuted():
            self._forget_cutoff()
        if self.proven_ns >= self._trial_ns:
            self._end_trial()
        if self.bounds is not None:
            self._reckon()

    # --- failures -----------------------------------------------------------------------------------------------------

    def _believe(self, silence_ns: int, how: int, now: int) -> None:
        """Take a failure beyond all that is proven for what it seems to be: the cutoff, or a bound of it."""
        if abs(silence_ns - self._trial_ns) <= self._trial_ns >> 4 or (how == CUT and silence_ns < self._trial_ns):
            self._end_trial()
        cutoff = self.cutoff_ns
        was_confirmed = self._failures >= _CONFIRMED
        if not cutoff:
            self._set_cutoff(silence_ns, how, 1)
        elif how == CUT:
            if self._exact and _alike(silence_ns, cutoff):
                self._set_cutoff(min(silence_ns, cutoff), CUT, self._failures + 1)
            elif silence_ns < cutoff or not was_confirmed:
                # Whoever is cut at this silence lived until then: what failed earlier had left.
                self._set_cutoff(silence_ns, CUT, 1)
        elif silence_ns >= cutoff:
            self._failures += 2 * silence_ns <= 3 * cutoff
        else:
            self._set_cutoff(silence_ns, UNANSWERED, self._failures + 1 if 2 * cutoff <= 3 * silence_ns else 1)
        if self._failures < _CONFIRMED:
            return
        if not was_confirmed:
            self._retest_ns = now + self._retest_delay_ns
        elif now >= self._retest_ns:
            self._retest_delay_ns = min(2 * self._retest_delay_ns, LAST_RETEST_NS)
            self._retest_ns = now + self._retest_delay_ns

    def _doubt(self, silence_ns: int, how: int, now: int) -> None:
        """Note a failure that what is known speaks against; believe it when enough of them agree."""
        assert self.bounds is not None
        if how == UNANSWERED:
            sent = now - self.bounds.pong_timeout_ns
            if sent - silence_ns < self._rose_ns:
                return
            if sent < self.answered_ns and silence_ns <= self.interval_ns + (self.interval_ns >> 4):
                return
        self._doubts.append(_Doubt(silence_ns, how))
        del self._doubts[:-_DOUBTS]
        self.doubt_ns = min(doubt.cleared_by_ns for doubt in self._doubts)
        comparable = [doubt for doubt in self._doubts if doubt.how == how]
        agreeing = [doubt for doubt in comparable if how == UNANSWERED or _alike(doubt.silence_ns, silence_ns)]
        contested = any(doubt.answers for doubt in agreeing)
        # When a backend restarts, all its connections end at once, each after a silence of its own.
        if len(agreeing) >= (_AMONG_ANSWERS if contested else _IN_A_ROW) and 4 * len(agreeing) >= 3 * len(comparable):
            self._doubts.clear()
            self.doubt_ns = NEVER
            self.proven_ns = 0
            self._set_cutoff(min(doubt.silence_ns for doubt in agreeing), how, len(agreeing))
            self._end_trial()
            self._epoch_ns = now
            self._since_ns = now if contested else 0
            self._retest_ns = now + self._retest_delay_ns

    def _clear_doubts(self, silence_ns: int) -> None:
        for doubt in self._doubts:
            doubt.answers += silence_ns >= doubt.cleared_by_ns
        self._doubts = [doubt for doubt in self._doubts if doubt.answers < (_ANSWERS_TO_CLEAR if doubt.how == CUT else 1)]
        self.doubt_ns = min((doubt.cleared_by_ns for doubt in self._doubts), default=NEVER)

    # --- the cutoff ---------------------------------------------------------------------------------------------------

    def _set_cutoff(self, silence_ns: int, how: int, failures: int) -> None:
        self.cutoff_ns = silence_ns
        self._exact = how == CUT
        self._failures = failures
        self._since_ns = 0

    def _is_refuted(self) -> bool:
        """Whether what was answered goes beyond the cutoff, by more than clocks and timers differ."""
        cutoff, proven = self.cutoff_ns, self.proven_ns
        if not cutoff:
            return False
        if self._failures >= _CONFIRMED:
            at_the_end = self.bounds is not None and proven >= self.bounds.max_ns
            return 20 * proven >= 21 * cutoff or (at_the_end and proven > cutoff)
        return proven >= cutoff - (0 if self._exact else cutoff >> 5)

    def _forget_cutoff(self) -> None:
        if self._failures >= _CONFIRMED:
            self._retest_delay_ns = min(2 * self._retest_delay_ns, LAST_RETEST_NS)
        self._set_cutoff(0, UNANSWERED, 0)

    # --- the interval -------------------------------------------------------------------------------------------------

    def _end_trial(self) -> None:
        self._trial_ns = self._lease_ns = 0

    def _reckon(self) -> None:
        """Work out the interval and the time of the next scout, after anything changed."""
        assert self.bounds is not None
        low, high, _ = self.bounds
        proven, cutoff = self.proven_ns, self.cutoff_ns
        confirmed = self._failures >= _CONFIRMED
        if not cutoff:
            interval = high if proven >= high else max(START_NS, proven * 4 // 5)
        elif not self._exact:
            interval = min(proven, cutoff) * 4 // 5
        elif confirmed:
            interval = cutoff * 4 // 5
        else:
            interval = min(cutoff, max(START_NS, proven)) * 4 // 5
        self.interval_ns = max(low, min(interval, high))
        self.full_ns = self.interval_ns - (self.interval_ns >> 4)
        if not self._trial():
            self.scout_ns = NEVER
        elif confirmed and self._is_narrow():
            self.scout_ns = max(self._retest_ns, self._lease_ns)
        else:
            self.scout_ns = self._lease_ns

    def _is_narrow(self) -> bool:
        """Whether what is proven and what failed are near each other."""
        return self._exact or 4 * self.cutoff_ns <= 5 * self.proven_ns

    def _trial(self) -> int:
        """The silence that a scout is to try next; 0 when there is none to try."""
        assert self.bounds is not None
        high = self.bounds.max_ns
        proven, cutoff = self.proven_ns, self.cutoff_ns
        trial = proven * 3 // 2
        if not cutoff:
            if 8 * high <= 9 * trial:  # a last step that is not worth its time
                trial = high
        elif self._is_narrow():
            trial = min(trial, cutoff + (cutoff >> 4))
        else:
            trial = min(trial, isqrt(proven * cutoff))
        trial = min(trial, high)
        return trial if trial > max(proven, self.interval_ns) else 0


def _alike(one_ns: int, other_ns: int) -> bool:
    """Whether two cuts may be those of one cutoff: timers are coarse, and clocks are read late."""
    return abs(one_ns - other_ns) <= max(max(one_ns, other_ns) // 20, SECOND // 2)
