"""The interval that the learner of idle cutoffs gives, on one path and on many, and what bounds it."""

from __future__ import annotations

import pytest

from gateway.tunnels.learning import learning
from gateway.tunnels.learning.learning import Bounds, Learner

from .learning_path import KEY, PONG_TIMEOUT, Path, S

pytestmark = pytest.mark.either_build


# --- the interval -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "interval"), [(5, 240, 25), (30, 240, 30), (5, 10, 10), (5, 25, 25), (7, 7, 7)]
)
def test_it_starts_at_25_seconds_within_bounds(low: int, high: int, interval: int) -> None:
    bounds = Bounds(low * S, high * S, PONG_TIMEOUT)
    assert Learner().common_interval(KEY, bounds) == interval * S
    assert Learner().interval(KEY, bounds) == interval * S
    assert Path(bounds).answered(1) == interval * S


def test_what_is_answered_sooner_proves_nothing(path: Path) -> None:
    for silence in (1, 5, 10, 20):
        assert path.answered(silence) == 25 * S
    assert path.interval == 25 * S


def test_it_is_four_fifths_of_what_is_proven(path: Path) -> None:
    path.answered(100)
    assert path.interval == 80 * S


def test_it_is_the_maximum_once_that_is_proven(path: Path) -> None:
    path.answered(230)
    assert path.interval < 200 * S
    path.answered(240)
    assert path.interval == 240 * S
    assert path.answered(240) == 240 * S


# --- bounds that change -----------------------------------------------------------------------------------------------


def test_a_reload_bounds_the_interval_anew(proven: Path) -> None:
    proven.bounds = Bounds(5 * S, 60 * S, PONG_TIMEOUT)
    assert proven.interval == 60 * S
    assert proven.learner.changed() == {KEY}
    proven.bounds = Bounds(90 * S, 600 * S, PONG_TIMEOUT)
    assert proven.answered(100) == 192 * S
    assert proven.answered(192) == 360 * S
    proven.bounds = Bounds(300 * S, 600 * S, PONG_TIMEOUT)
    assert proven.learner.interval(KEY, proven.bounds) == 300 * S


# --- many paths -------------------------------------------------------------------------------------------------------


def test_paths_learn_apart() -> None:
    learner = Learner()
    one, other = Path(learner=learner, key=(0, 0, 1)), Path(learner=learner, key=(0, 1, 1))
    one.cut(10)
    assert one.interval == 8 * S
    assert other.interval == 25 * S


def test_the_least_recently_used_path_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "MAX_PATHS", 3)
    learner = Learner()
    paths = [Path(learner=learner, key=(0, 0, n)) for n in range(3)]
    for path in paths:
        path.cut(10)
    paths[0].answered(3)
    assert paths[1].interval == 8 * S  # looked at, not used
    Path(learner=learner, key=(0, 0, 3))
    assert [path.interval // S for path in paths] == [8, 25, 8]
    assert learner.export((0, 0, 1)) is None
    paths[1].answered(3)
    assert [path.interval // S for path in paths] == [8, 25, 25]


def test_the_shortest_interval_and_cutoff_of_a_side_are_known() -> None:
    learner = Learner()
    assert learner.shortest(0, 0) is None
    paths = [Path(learner=learner, key=(0, 0, n)) for n in range(3)]
    backend = Path(learner=learner, key=(0, 1, 0))
    assert learner.shortest(0, 0) == (25 * S, None)
    paths[0].climb(240)
    paths[1].cut(20)
    assert learner.shortest(0, 0) == (16 * S, None)
    paths[1].cut(20)
    paths[2].cut(40)
    paths[2].cut(40)
    backend.cut(12)
    assert learner.shortest(0, 0) == (16 * S, 20 * S)
    assert learner.shortest(0, 1) == (9.6 * S, None)
    assert learner.shortest(1, 0) is None
    backend.bounds = Bounds(15 * S, 240 * S, PONG_TIMEOUT)
    backend.answered(1)
    assert learner.shortest(0, 1) == (15 * S, None)
