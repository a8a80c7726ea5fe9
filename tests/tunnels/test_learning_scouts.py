"""Scouts of the learner of idle cutoffs: one tunnel tries a longer interval for all, and a known cutoff again."""

from __future__ import annotations

import pytest

from gateway.tunnels.learning.learning import CUT, UNANSWERED

from .learning_path import DAY, MINUTE, PONG_TIMEOUT, Path, S

pytestmark = pytest.mark.either_build


# --- scouts -----------------------------------------------------------------------------------------------------------


def test_one_tunnel_tries_half_as_much_again(path: Path) -> None:
    assert path.answered(25) == 37.5 * S
    assert path.answered_at_once(25) == 25 * S
    assert path.interval == 25 * S


def test_a_tunnel_that_is_used_is_not_sent_scouting(path: Path) -> None:
    assert path.answered(20) == 25 * S


def test_when_a_scout_is_used_another_is_sent_in_time(path: Path) -> None:
    trial = path.answered(25)
    path.answered(3)
    assert path.answered_at_once(25) == 25 * S
    path.now += trial + PONG_TIMEOUT + 10 * S
    assert path.answered_at_once(25) == trial


def test_what_a_scout_proves_is_for_all(path: Path) -> None:
    trial = path.answered(25)
    following = path.answered(trial / S)
    assert path.interval == trial * 4 // 5
    assert following == trial * 3 // 2


def test_where_nothing_cuts_the_maximum_is_reached_within_a_quarter_of_an_hour(path: Path) -> None:
    started = path.now
    path.climb(240)
    assert path.now - started < 15 * MINUTE
    assert path.interval == 240 * S


def test_between_what_is_proven_and_what_failed_the_geometric_mean_is_tried(path: Path) -> None:
    path.answered(100)
    path.unanswered(144)
    assert path.answered(80) == 120 * S


def test_a_ping_a_little_early_proves_what_it_set_out_to(path: Path) -> None:
    trial = path.answered(24.98) / S
    assert path.answered(trial - 0.02) > trial * S
    path.climb(239.98)
    assert path.interval == 240 * S


def test_no_trial_is_longer_than_the_maximum(path: Path) -> None:
    assert path.answered(200) == 240 * S


@pytest.mark.parametrize("how", [CUT, UNANSWERED])
@pytest.mark.parametrize("cutoff", [10, 11.3, 17, 26, 40, 59, 60, 93, 120, 180, 239])
def test_one_tunnel_finds_a_cutoff_by_a_few_cuts(path: Path, cutoff: float, how: int) -> None:
    cuts = path.live(cutoff, how, path.now + 25 * MINUTE)
    assert 1 <= cuts <= 4
    assert 0.5 <= path.interval / (cutoff * S) <= 0.95
    assert path.cutoff is not None
    assert 0.99 <= path.cutoff / (cutoff * S) <= 1.26
    if how == CUT:
        assert path.cutoff == cutoff * S


# --- trying again -----------------------------------------------------------------------------------------------------


def retested(path: Path, until: int) -> list[int]:
    """When a tunnel that is silent all the time is sent scouting, and cut after 60 s."""
    at = []
    while path.now < until:
        if path.answered(path.interval / S) > path.interval:
            at.append(path.now)
            path.cut(60)
    return at


def test_a_cutoff_is_tried_again_after_half_an_hour_then_ever_later(path: Path) -> None:
    path.cut(60)
    path.cut(60)
    learned = path.now
    tried = retested(path, learned + 12 * DAY)
    waited = [(b - a) / MINUTE for a, b in zip([learned, *tried], tried, strict=False)]
    expected = [30, 60, 120, 240, 480, 960, 1440, 1440, 1440]
    assert len(waited) >= len(expected)
    assert [round(minutes) for minutes in waited[: len(expected)]] == pytest.approx(expected, abs=3)
    assert path.interval == 48 * S


def test_a_cutoff_that_is_gone_is_forgotten(path: Path) -> None:
    path.cut(60)
    path.cut(60)
    path.now += 31 * MINUTE
    trial = path.answered(48)
    assert trial == 60 * 1.125 * S
    path.answered(trial / S)
    assert path.cutoff is None
    path.climb(240)
    assert path.interval == 240 * S


def test_a_cutoff_at_the_maximum_is_learned_and_forgotten_too(proven: Path) -> None:
    """No trial can go beyond it: one that is as long has to do."""
    proven.cut(240.01)
    proven.cut(240.01)
    assert proven.interval == pytest.approx(192 * S, rel=0.001)
    proven.now += 31 * MINUTE
    assert proven.answered(192) == 240 * S
    proven.answered(239.97)
    assert proven.cutoff is None
    assert proven.interval == 240 * S


def test_who_is_cut_after_more_than_the_maximum_teaches_nothing(proven: Path) -> None:
    proven.cut(280)
    proven.cut(280)
    assert proven.cutoff is None
    assert proven.interval == 240 * S


def test_once_it_is_forgotten_scouts_go_on_at_once(path: Path) -> None:
    path.cut(60)
    path.cut(60)
    assert path.answered(70) == 105 * S


def test_a_cutoff_after_a_quiet_day_is_tried_again_after_half_an_hour(path: Path) -> None:
    path.live(60, CUT, path.now + DAY)
    path.live(1000, CUT, path.now + 3 * DAY)
    assert path.interval == 240 * S
    path.live(60, CUT, path.now + 20 * MINUTE)
    assert path.interval == 48 * S
    assert path.live(60, CUT, path.now + 30 * MINUTE) == 1


def test_an_answer_at_the_cutoff_does_not_make_it_forgotten(path: Path) -> None:
    path.cut(60)
    path.cut(60)
    path.answered(62)
    assert path.cutoff == 60 * S
    assert path.interval == 48 * S


def test_a_scout_that_vanishes_where_tunnels_are_cut_says_nothing(path: Path) -> None:
    path.cut(60)
    path.cut(60)
    path.now += 31 * MINUTE
    path.unanswered(path.answered(48) / S)
    path.now += 31 * MINUTE
    assert path.answered(48) > 60 * S


def test_a_stricter_path_is_learned_by_one_tunnel(path: Path) -> None:
    path.live(120, UNANSWERED, path.now + 30 * MINUTE)
    assert path.live(40, UNANSWERED, path.now + 30 * MINUTE) <= 10
    assert 20 * S <= path.interval <= 38 * S


def test_a_laxer_path_is_learned_by_one_tunnel(path: Path) -> None:
    path.live(40, UNANSWERED, path.now + 10 * MINUTE)
    path.live(1000, UNANSWERED, path.now + 60 * MINUTE)
    assert path.interval == 240 * S
