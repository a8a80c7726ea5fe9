"""Learners of several workers: what one learned is told to the others, and whatever happens they stay within bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tunnels.learning.learning import CUT, UNANSWERED, Bounds, Learner

from .learning_path import BOUNDS, KEY, MINUTE, Path, S

pytestmark = pytest.mark.either_build


# --- other workers ----------------------------------------------------------------------------------------------------


def tell(one: Path, other: Path) -> None:
    """What one worker learned since it last told, the other adopts."""
    other.now = max(one.now, other.now)
    for key in one.learner.news():
        state = one.learner.export(key)
        assert state is not None
        other.learner.adopt(key, tuple(state), other.now)


def test_other_workers_learn_a_cutoff(path: Path) -> None:
    other = Path()
    path.cut(10)
    tell(path, other)
    assert other.interval == 8 * S
    assert other.learner.changed() == {KEY}
    assert other.learner.news() == set()
    path.cut(10)
    tell(path, other)
    assert other.cutoff == 10 * S


def test_other_workers_learn_what_is_proven(path: Path) -> None:
    path.climb(240)
    other = Path()
    tell(path, other)
    assert other.interval == 240 * S


def test_a_worker_without_tunnels_there_yet_learns_too(path: Path) -> None:
    path.cut(10)
    other = Learner()
    state = path.learner.export(KEY)
    assert state is not None
    other.adopt(KEY, state, path.now)
    assert other.shortest(0, 0) is None
    assert other.interval(KEY, BOUNDS) == 8 * S
    assert other.changed() == set()


def test_one_scout_goes_for_all_workers(path: Path) -> None:
    other = Path()
    path.answered(25)
    tell(path, other)
    assert other.answered_at_once(25) == 25 * S


def test_other_workers_learn_that_a_path_changed(proven: Path) -> None:
    other = Path()
    other.climb(240)
    for _ in range(4):
        proven.cut(30)
    tell(proven, other)
    assert other.interval == 24 * S
    # What was known before the change is no news to the one who saw it.
    late = Path()
    late.climb(240)
    state = late.learner.export(KEY)
    assert state is not None
    proven.learner.adopt(KEY, state, proven.now)
    assert proven.interval == 24 * S


def test_what_a_worker_has_seen_answered_refutes_what_it_is_told(proven: Path) -> None:
    other = Path()
    other.answered(100)
    other.unanswered(150)
    tell(other, proven)
    assert proven.interval == 240 * S


# --- whatever happens -------------------------------------------------------------------------------------------------

seconds = st.integers(1, 400 * S)
bounds = st.tuples(seconds, seconds, st.integers(1, 60 * S)).map(lambda b: Bounds(min(b[:2]), max(b[:2]), b[2]))
events = st.tuples(
    st.sampled_from(["answered", "interval", "cut", "unanswered", "tell"]),
    st.integers(0, 1),  # worker
    st.integers(0, 2),  # network
    st.one_of(seconds, st.just(0)),  # silence; 0 for what this tunnel was told
    st.integers(0, 40 * MINUTE),  # later
    st.integers(0, 2),  # bounds
)


@given(st.lists(bounds, min_size=3, max_size=3), st.lists(events, max_size=60))
def test_whatever_happens_intervals_and_trials_stay_within_bounds(
    limits: list[Bounds], happening: list[tuple[str, int, int, int, int, int]]
) -> None:
    workers = Learner(), Learner()
    told = 25 * S
    now = 0
    for what, worker, network, silence, later, which in happening:
        now += later
        silence = silence or told
        learner, key, bounds = workers[worker], (0, 0, network), limits[which]
        if what == "answered":
            told = learner.answered(key, bounds, silence, now)
            assert bounds.min_ns <= told <= bounds.max_ns
        elif what == "interval":
            assert bounds.min_ns <= learner.interval(key, bounds) <= bounds.max_ns
        elif what == "tell":
            for changed in learner.news():
                state = learner.export(changed)
                assert state is not None
                workers[1 - worker].adopt(changed, state, now)
        else:
            learner.cut(key, bounds, silence, CUT if what == "cut" else UNANSWERED, now)
        assert bounds.min_ns <= learner.common_interval(key, bounds) <= bounds.max_ns
        state, cutoff = learner.export(key), learner.learned_cutoff(key)
        if state is not None and cutoff is not None and state.proven_ns < bounds.max_ns:
            assert learner.common_interval(key, bounds) <= max(bounds.min_ns, cutoff * 4 // 5)
        shortest = learner.shortest(0, 0)
        assert shortest is None or shortest[0] <= max(limit.max_ns for limit in limits)
        assert learner.changed() <= {(0, 0, n) for n in range(3)}


@given(st.lists(st.tuples(st.sampled_from(["answered", "cut", "unanswered"]), seconds), max_size=40))
def test_workers_that_tell_each_other_everything_agree(happening: list[tuple[str, int]]) -> None:
    one, other = Path(), Path()
    for n, (what, silence) in enumerate(happening):
        actor, listener = (one, other) if n % 2 else (other, one)
        getattr(actor, what)(silence / S)
        tell(actor, listener)
    one.now = other.now = max(one.now, other.now)
    for actor, listener in ((one, other), (other, one)):
        state = actor.learner.export(KEY)
        assert state is not None
        listener.learner.adopt(KEY, state, listener.now)
    assert one.interval == other.interval
