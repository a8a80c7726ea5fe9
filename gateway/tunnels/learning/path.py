"""One path: the silences it tolerated, those it did not, and the keepalive interval that follows.

:class:`Path` keeps the rules that ``learning.py`` explains. Pure: silences and the clock come in as nanoseconds.
"""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple

SECOND = 1_000_000_000
NEVER = 1 << 62

CUT = 0  # that side's connection ended, by FIN or RST, after this silence exactly
UNANSWERED = 1  # what was sent after this silence was never answered: the cutoff is as long, or shorter

START_NS = 25 * SECOND
FIRST_RETEST_NS = 1800 * SECOND
LAST_RETEST_NS = 86_400 * SECOND
FALLBACK_NS = 14_400 * SECOND  # how long, at first, a path with several apparent limits stays at START_NS

_CONFIRMED = 2  # failures in a row that confirm a cutoff
_TO_OVERTURN = 4  # failures that overturn what was proven, without evidence against them
_TO_OVERTURN_CONTESTED = 5  # cuts after the same silence that do so despite answers after longer ones
_ANSWERS_TO_CLEAR = (8, 1)  # answers after as long a silence that clear a failure: CUT, UNANSWERED
_DOUBTS = 12  # failures remembered
_TO_AUDIT = 20  # unanswered intervals after which answered ones are counted
_ANSWERS_TO_PASS = 3  # answered intervals expected for each unanswered one
_BURST_NS = SECOND  # failures this close may have one cause other than silence, such as a restart
_SHORTEST_CUTOFF_NS = SECOND  # an end within a second of the last byte is no idle cutoff
_LEASE_SLACK_NS = 3 * SECOND


class Bounds(NamedTuple):
    """What the configuration of a route's side allows the interval to be, and how long it waits for a Pong."""

    min_ns: int
    max_ns: int
    pong_timeout_ns: int


class State(NamedTuple):
    """What workers report to each other about a path. Times are of ``CLOCK_MONOTONIC``, which they share."""

    overturned_ns: int
    proven_ns: int
    cutoff_ns: int
    is_exact: int
    failures: int
    since_ns: int
    retest_ns: int
    retest_delay_ns: int
    trial_ns: int
    lease_ns: int


class _Doubt:
    """A failure after a silence known to be tolerated: a client left, or the path has changed."""

    __slots__ = ("answers", "cleared_by_ns", "how", "silence_ns")

    def __init__(self, silence_ns: int, how: int) -> None:
        self.silence_ns = silence_ns
        self.how = how
        self.cleared_by_ns = silence_ns if how == CUT else _a_little_less(silence_ns)
        self.answers = 0


class Path:
    """One path. ``learning.py`` reads and writes the public attributes directly, to keep ordinary answers cheap."""

    __slots__ = (
        "_audit_ns",
        "_doubted_ns",
        "_doubts",
        "_failed_ns",
        "_failures",
        "_is_exact",
        "_lease_ns",
        "_overturned_ns",
        "_retest_delay_ns",
        "_retest_ns",
        "_rose_ns",
        "_since_ns",
        "_trial_ns",
        "_unanswered",
        "answered_ns",
        "answers",
        "bounds",
        "cutoff_ns",
        "doubt_ns",
        "full_ns",
        "interval_ns",
        "proven_ns",
        "scout_ns",
    )

    def __init__(self) -> None:
        self.bounds: Bounds | None = None  # until :meth:`bind`
        self.interval_ns = NEVER  # for all tunnels but the scout
        self.proven_ns = 0  # the longest silence that was answered
        self.cutoff_ns = 0  # the shortest silence that failed; 0 while none did
        self.full_ns = NEVER  # an answer after this silence is one after a whole interval
        self.answered_ns = 0  # when the latest of those came
        self.answers = 0  # how many there were since the audit began
        self.doubt_ns = NEVER  # an answer after this silence weakens a doubt
        self.scout_ns = NEVER  # when the next tunnel may be sent scouting
        self._is_exact = False  # the cutoff is known exactly, not only bounded
        self._failures = 0  # in favour of the cutoff, bursts counted once
        self._failed_ns = -NEVER  # when the last of those came
        self._since_ns = 0  # silences that began earlier are no evidence beyond the cutoff
        self._retest_ns = 0  # when the cutoff is tried again
        self._retest_delay_ns = FIRST_RETEST_NS
        self._trial_ns = 0  # what the scout tries
        self._lease_ns = 0  # until when no other scout is sent
        self._rose_ns = 0  # when the interval last rose
        self._overturned_ns = 0  # when what was proven was last overturned
        self._doubts: list[_Doubt] = []
        self._doubted_ns = -NEVER
        self._audit_ns = 0
        self._unanswered = 0  # whole intervals since the audit began

    @property
    def learned_cutoff_ns(self) -> int:
        """The cutoff, 0 while none is confirmed. Where a path cuts silently, the real one may be a quarter shorter."""
        return self.cutoff_ns if self._failures >= _CONFIRMED else 0

    def bind(self, bounds: Bounds) -> None:
        """Apply these bounds from now on."""
        self.bounds = bounds
        self._reckon(bounds)

    def send_scout(self, bounds: Bounds, now: int) -> int:
        """The silence that a scout must try. Call it only once ``scout_ns`` has come."""
        self._trial_ns = self._next_trial(bounds)
        self._lease_ns = self.scout_ns = now + self._trial_ns + bounds.pong_timeout_ns + _LEASE_SLACK_NS
        return self._trial_ns

    def answer(self, bounds: Bounds, silence_ns: int, now: int) -> bool:
        """Note an answer after a silence beyond ``proven_ns`` or ``doubt_ns``. :returns: whether it proves more"""
        if silence_ns >= self.doubt_ns:
            self._lessen_doubts(silence_ns)
        if silence_ns <= self.proven_ns or (silence_ns > self.cutoff_ns and now - silence_ns < self._since_ns):
            return False
        self.proven_ns = silence_ns
        if silence_ns >= _a_little_less(self._trial_ns):
            self._end_trial()
        if self._is_refuted() or self._is_refuted_at_the_end(bounds):
            self._forget_cutoff(now)
        before = self.interval_ns
        self._reckon(bounds)
        if self.interval_ns > _a_little_more(before):
            self._rose_ns = now
            self._begin_audit(now)
        return True

    def fail(self, bounds: Bounds, silence_ns: int, how: int, now: int) -> bool:
        """Record that a connection did not survive a silence. :returns: whether that was believed"""
        if not min(_SHORTEST_CUTOFF_NS, bounds.min_ns) <= silence_ns <= _a_little_more(bounds.max_ns):
            return False
        began = now - silence_ns - (bounds.pong_timeout_ns if how == UNANSWERED else 0)
        if began < self._since_ns:
            return False
        proven = self.proven_ns if how == CUT else self.proven_ns + (self.proven_ns >> 5)
        is_known = self._is_exact and self._failures >= _CONFIRMED and not _are_alike(silence_ns, self.cutoff_ns)
        if silence_ns > proven and not (is_known and silence_ns < self.cutoff_ns):
            self._believe(bounds, silence_ns, how, now)
        elif not self._doubt(bounds, silence_ns, how, began, now):
            return False
        self._reckon(bounds)
        return True

    def export(self) -> State:
        """The state to report to the other workers."""
        return State(
            overturned_ns=self._overturned_ns,
            proven_ns=self.proven_ns,
            cutoff_ns=self.cutoff_ns,
            is_exact=int(self._is_exact),
            failures=self._failures,
            since_ns=self._since_ns,
            retest_ns=self._retest_ns,
            retest_delay_ns=self._retest_delay_ns,
            trial_ns=self._trial_ns,
            lease_ns=self._lease_ns,
        )

    def adopt(self, state: State, now: int) -> None:
        """Learn what another worker knows: all of it if it overturned what was proven, else what goes further."""
        if state.overturned_ns < self._overturned_ns:
            return
        if state.overturned_ns > self._overturned_ns:
            self._overturn(state.overturned_ns, state.since_ns)
        self.proven_ns = max(self.proven_ns, state.proven_ns)
        if self._is_refuted():
            self._forget_cutoff(now)
        cutoff, is_exact, failures = self.cutoff_ns, self._is_exact, self._failures
        if state.cutoff_ns == cutoff:
            is_exact, failures = is_exact or bool(state.is_exact), max(failures, state.failures)
        elif state.cutoff_ns and (not cutoff or state.cutoff_ns < cutoff):
            cutoff, is_exact, failures = state.cutoff_ns, bool(state.is_exact), state.failures
        if not self._goes_beyond(cutoff):
            self._set_cutoff(cutoff, CUT if is_exact else UNANSWERED, failures)
        self._retest_ns = max(self._retest_ns, state.retest_ns)
        self._retest_delay_ns = max(self._retest_delay_ns, state.retest_delay_ns)
        if state.lease_ns > self._lease_ns:
            self._trial_ns, self._lease_ns = state.trial_ns, state.lease_ns
        if self.proven_ns >= _a_little_less(self._trial_ns):
            self._end_trial()
        if self.bounds is not None:
            self._reckon(self.bounds)

    # --- failures beyond what is proven -------------------------------------------------------------------------------

    def _believe(self, bounds: Bounds, silence_ns: int, how: int, now: int) -> None:
        """Accept a failure as the cutoff, or as a bound of it, until it is refuted."""
        trial, cutoff = self._trial_ns, self.cutoff_ns
        if abs(silence_ns - trial) <= trial >> 4 or (how == CUT and silence_ns < trial):
            self._end_trial()
        was_confirmed = self._failures >= _CONFIRMED
        # Answers awaited at the same time may have been lost for the same reason.
        is_apart = now - self._failed_ns > (_BURST_NS if how == CUT else bounds.pong_timeout_ns + _BURST_NS)
        if is_apart:
            self._failed_ns = now
        failures = self._failures + is_apart
        if not cutoff:
            self._set_cutoff(silence_ns, how, 1)
        elif how == CUT:
            if self._is_exact and _are_alike(silence_ns, cutoff):
                self._set_cutoff(min(silence_ns, cutoff), CUT, failures)
            elif silence_ns < cutoff:
                self._set_cutoff(silence_ns, CUT, 1)
            elif not was_confirmed:
                # The connection survived until then, so a failure after a much shorter silence was a client leaving.
                self.proven_ns = max(self.proven_ns, _a_little_less(silence_ns))
                is_refuted = self._is_refuted()
                self._set_cutoff(silence_ns if is_refuted else cutoff, CUT, 1 if is_refuted else failures)
        elif silence_ns < cutoff:
            self._set_cutoff(silence_ns, UNANSWERED, failures if 2 * cutoff <= 3 * silence_ns else 1)
        elif self._is_exact and was_confirmed:
            # The path would have cut it earlier: the client left.
            self._retest_ns = max(self._retest_ns, now + FIRST_RETEST_NS)
            return
        elif 2 * silence_ns <= 3 * cutoff:
            self._failures = failures
        if self._failures >= _CONFIRMED:
            if not was_confirmed:
                self._defer_retest(now)
            elif now >= self._retest_ns:
                self._lengthen_retest_delay()
                self._defer_retest(now)

    # --- failures that contradict what is proven ----------------------------------------------------------------------

    def _doubt(self, bounds: Bounds, silence_ns: int, how: int, began: int, now: int) -> bool:
        """Remember a failure. :returns: whether enough of those remembered agree to overturn what was proven"""
        if how == UNANSWERED:
            if began < self._rose_ns:
                # A silence from before the interval rose. Longer ones will decide.
                return False
            if silence_ns >= self.full_ns and self._is_audit_failed(bounds, now):
                self._overturn(now, since_ns=now)
                self._retest_delay_ns = max(self._retest_delay_ns, FALLBACK_NS)
                self._defer_retest(now)
                self._lengthen_retest_delay()
                return True
            if began + silence_ns < self.answered_ns and silence_ns <= _a_little_more(self.interval_ns):
                return False
        if now - self._doubted_ns < _BURST_NS:
            return False
        self._doubted_ns = now
        self._doubts.append(_Doubt(silence_ns, how))
        del self._doubts[:-_DOUBTS]
        self._find_doubt_limit()
        comparable = [doubt for doubt in self._doubts if doubt.how == how]
        agreeing = [doubt for doubt in comparable if how == UNANSWERED or _are_alike(doubt.silence_ns, silence_ns)]
        is_contested = any(doubt.answers for doubt in agreeing)
        enough = _TO_OVERTURN_CONTESTED if is_contested else _TO_OVERTURN
        if len(agreeing) < enough or 4 * len(agreeing) < 3 * len(comparable):
            return False
        self._overturn(now, since_ns=now if is_contested else 0)
        self._set_cutoff(min(doubt.silence_ns for doubt in agreeing), how, _CONFIRMED if how == CUT else 1)
        self._failed_ns = now
        self._defer_retest(now)
        return True

    def _lessen_doubts(self, silence_ns: int) -> None:
        for doubt in self._doubts:
            doubt.answers += silence_ns >= doubt.cleared_by_ns
        self._doubts = [doubt for doubt in self._doubts if doubt.answers < _ANSWERS_TO_CLEAR[doubt.how]]
        self._find_doubt_limit()

    def _find_doubt_limit(self) -> None:
        self.doubt_ns = min((doubt.cleared_by_ns for doubt in self._doubts), default=NEVER)

    def _begin_audit(self, now: int) -> None:
        self._audit_ns = now
        self._unanswered = self.answers = 0

    def _is_audit_failed(self, bounds: Bounds, now: int) -> bool:
        """Count one more interval without an answer. :returns: whether they are too many, each tunnel asked once"""
        self._unanswered += 1
        if self._unanswered < _TO_AUDIT or now - self._audit_ns < self.interval_ns + bounds.pong_timeout_ns:
            return False
        failed = self.interval_ns > START_NS and self.answers < _ANSWERS_TO_PASS * self._unanswered
        self._begin_audit(now)
        return failed

    # --- the cutoff ---------------------------------------------------------------------------------------------------

    def _overturn(self, now: int, since_ns: int) -> None:
        """Forget everything. :param since_ns: silences that began earlier are no evidence from now on"""
        self._overturned_ns = now
        self._since_ns = since_ns
        self._doubts.clear()
        self._find_doubt_limit()
        self.proven_ns = 0
        self._set_cutoff(0, UNANSWERED, 0)
        self._end_trial()
        self._begin_audit(now)

    def _set_cutoff(self, silence_ns: int, how: int, failures: int) -> None:
        self.cutoff_ns = silence_ns
        self._is_exact = how == CUT
        self._failures = failures
        if silence_ns:
            # Silences near the cutoff must be proven again.
            self.proven_ns = min(self.proven_ns, silence_ns - (silence_ns >> 4))

    def _is_refuted(self) -> bool:
        return self.cutoff_ns != 0 and self._goes_beyond(self.cutoff_ns)

    def _goes_beyond(self, cutoff_ns: int) -> bool:
        """Whether more than a cutoff is proven, by a margin beyond the error of timers."""
        return 20 * self.proven_ns >= 21 * cutoff_ns

    def _is_refuted_at_the_end(self, bounds: Bounds) -> bool:
        """Whether the longest allowed silence is proven and the cutoff is near it: no silence can go beyond."""
        cutoff = self.cutoff_ns
        return self._is_all_proven(bounds) and self.proven_ns >= cutoff - (cutoff >> 4)

    def _is_all_proven(self, bounds: Bounds) -> bool:
        return self.proven_ns >= _a_little_less(bounds.max_ns)

    def _forget_cutoff(self, now: int) -> None:
        if self._failures >= _CONFIRMED:
            self._lengthen_retest_delay()
        self._set_cutoff(0, UNANSWERED, 0)
        self._retest_ns = min(self._retest_ns, now)

    def _defer_retest(self, now: int) -> None:
        if now - self._retest_ns > LAST_RETEST_NS:
            self._retest_delay_ns = FIRST_RETEST_NS
        self._retest_ns = now + self._retest_delay_ns

    def _lengthen_retest_delay(self) -> None:
        self._retest_delay_ns = min(2 * self._retest_delay_ns, LAST_RETEST_NS)

    # --- interval and trials ------------------------------------------------------------------------------------------

    def _reckon(self, bounds: Bounds) -> None:
        """Recompute the interval and the next scout."""
        proven, cutoff = self.proven_ns, self.cutoff_ns
        is_confirmed = self._failures >= _CONFIRMED
        if not cutoff:
            interval = bounds.max_ns if self._is_all_proven(bounds) else max(START_NS, proven * 4 // 5)
        elif not self._is_exact:
            interval = min(proven, cutoff) * 4 // 5
        elif is_confirmed:
            interval = cutoff * 4 // 5
        else:
            interval = min(cutoff * 4 // 5, max(START_NS, proven * 4 // 5))
        self.interval_ns = max(bounds.min_ns, min(interval, bounds.max_ns))
        self.full_ns = self.interval_ns - (self.interval_ns >> 4)
        if not self._next_trial(bounds):
            self.scout_ns = NEVER
        elif not cutoff or (is_confirmed and self._is_narrow()):
            self.scout_ns = max(self._retest_ns, self._lease_ns)
        else:
            self.scout_ns = self._lease_ns

    def _next_trial(self, bounds: Bounds) -> int:
        """The silence that a scout must try; 0 if there is nothing to learn."""
        proven, cutoff = self.proven_ns, self.cutoff_ns
        trial = proven * 3 // 2
        if not cutoff:
            if 8 * bounds.max_ns <= 9 * trial:  # the rest is not worth a trial of its own
                trial = bounds.max_ns
        elif self._is_narrow():
            trial = min(trial, cutoff + (cutoff >> 3))
        else:
            trial = min(trial, isqrt(proven * cutoff))
        trial = min(trial, bounds.max_ns)
        return trial if trial > max(proven, self.interval_ns) else 0

    def _is_narrow(self) -> bool:
        """Whether there is nothing left to try between what is proven and what failed."""
        return self._is_exact or 4 * self.cutoff_ns <= 5 * self.proven_ns

    def _end_trial(self) -> None:
        self._trial_ns = self._lease_ns = 0


def _are_alike(one_ns: int, other_ns: int) -> bool:
    """Whether two cuts may have the same cutoff: timers are coarse, and clocks are read late."""
    return abs(one_ns - other_ns) <= max(max(one_ns, other_ns) // 20, SECOND // 2)


def _a_little_less(silence_ns: int) -> int:
    """The least that counts as the same silence: Pings of one interval are not sent to the nanosecond."""
    return silence_ns - (silence_ns >> 5)


def _a_little_more(interval_ns: int) -> int:
    return interval_ns + (interval_ns >> 4)
