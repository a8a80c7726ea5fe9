"""What the learner of idle cutoffs makes of failures: which it believes, and which what is proven speaks against."""

from __future__ import annotations

import pytest

from gateway.tunnels.learning.learning import UNANSWERED

from .learning_path import BOUNDS, KEY, MINUTE, PONG_TIMEOUT, Path, S

pytestmark = pytest.mark.either_build


# --- failures beyond what is proven -----------------------------------------------------------------------------------


def test_a_cut_drops_the_interval_below_it_at_once(path: Path) -> None:
    path.cut(10)
    assert path.interval == 8 * S
    assert path.learner.changed() == {KEY}
    assert path.learner.changed() == set()
    assert path.cutoff is None


def test_it_never_drops_below_the_minimum(path: Path) -> None:
    path.cut(4)
    assert path.interval == 5 * S


def test_an_unanswered_ping_drops_it_to_the_minimum_where_nothing_is_proven(path: Path) -> None:
    path.unanswered(25)
    assert path.interval == 5 * S
    assert path.answered(5) == 7.5 * S


def test_a_scout_that_fails_costs_the_others_nothing(path: Path) -> None:
    path.answered(100)
    path.unanswered(150)
    assert path.interval == 80 * S
    path.cut(145)
    assert path.interval == 80 * S


def test_a_second_cut_of_the_same_length_confirms_the_cutoff(path: Path) -> None:
    path.cut(10)
    path.cut(10.3)
    assert path.cutoff == 10 * S
    assert path.interval == 8 * S


def test_a_cut_confirms_a_bound_that_is_near(path: Path) -> None:
    path.climb(45)
    path.unanswered(56)
    path.cut(60)
    assert path.cutoff == 56 * S
    assert path.interval == 44.8 * S


def test_a_cut_says_who_failed_much_earlier_had_left(path: Path) -> None:
    path.climb(45)
    path.unanswered(50)
    path.cut(60)
    assert path.cutoff is None
    path.cut(60)
    assert path.cutoff == 60 * S


def test_a_second_cut_of_another_length_confirms_nothing(path: Path) -> None:
    path.cut(10)
    path.cut(7)
    assert path.cutoff is None
    assert path.interval == 5.6 * S


def test_a_failure_after_a_much_longer_silence_confirms_nothing(path: Path) -> None:
    path.unanswered(25)
    path.unanswered(10)
    assert path.cutoff is None
    path.unanswered(12)
    assert path.cutoff == 10 * S


def test_a_moment_more_than_is_proven_is_not_beyond_it(path: Path) -> None:
    path.answered(25)
    path.unanswered(25.02)
    assert path.interval == 25 * S


def test_where_tunnels_are_cut_who_is_missing_sooner_has_left(path: Path) -> None:
    path.cut(60)
    path.cut(60)
    path.unanswered(48)
    assert path.interval == 48 * S


def test_what_fails_together_counts_once(path: Path) -> None:
    for _ in range(16):
        path.cut_at_once(10)
        path.now += S // 100
    assert path.cutoff is None
    path.cut(10)
    assert path.cutoff == 10 * S


def test_those_that_waited_at_the_same_time_count_once(path: Path) -> None:
    path.answered(100)
    path.unanswered(150)
    path.now -= 150 * S
    path.unanswered(150)
    assert path.cutoff is None
    path.unanswered(150)
    assert path.cutoff == 150 * S


def test_who_left_is_found_out_by_the_next_scout(path: Path) -> None:
    path.climb(100)
    path.cut(120)
    trial = path.answered(80)
    assert trial == 120 * 1.125 * S
    path.answered(trial / S)
    assert path.interval == trial * 4 // 5


def test_after_a_false_start_it_starts_again(path: Path) -> None:
    path.unanswered(25)
    path.climb(27)
    assert path.interval == 25 * S


def test_who_leaves_right_after_a_message_was_not_cut_for_idling(path: Path) -> None:
    for _ in range(5):
        path.cut(0.9)
        path.now += 10 * S
    assert path.interval == 25 * S
    assert path.cutoff is None


# --- failures that what is proven speaks against ----------------------------------------------------------------------


def test_three_cuts_overturn_nothing_four_do(proven: Path) -> None:
    for _ in range(3):
        proven.cut(30)
        assert proven.interval == 240 * S
    proven.cut(31)
    assert proven.interval == 24 * S
    assert proven.cutoff == 30 * S
    assert proven.learner.changed() == {KEY}


def test_cuts_of_all_lengths_overturn_nothing(proven: Path) -> None:
    for n in range(200):
        proven.cut(5 + n * 97 % 235)
    for _ in range(20):
        for silence in (30, 80, 150):
            proven.cut(silence)
    assert proven.learner.changed() == set()
    assert proven.interval == 240 * S


def test_among_cuts_of_all_lengths_those_of_one_length_are_found(proven: Path) -> None:
    for silence in (30, 12, 30, 30, 30):
        proven.cut(silence)
    assert proven.cutoff == 30 * S


def test_an_answer_beyond_them_speaks_against_cuts(proven: Path) -> None:
    for _ in range(20):
        for _ in range(3):
            proven.cut(30)
        for _ in range(8):
            proven.answered(240)
    assert proven.learner.changed() == set()
    assert proven.interval == 240 * S


def test_an_answer_speaks_against_silences_that_nobody_answered(proven: Path) -> None:
    for _ in range(5):
        for _ in range(3):
            proven.unanswered(240)
        proven.answered(240)
    assert proven.learner.changed() == set()
    assert proven.interval == 240 * S


def test_four_silences_in_a_row_that_nobody_answers_overturn_what_was_proven(proven: Path) -> None:
    for _ in range(3):
        proven.unanswered(240)
        assert proven.interval == 240 * S
    proven.unanswered(240)
    assert proven.interval == 5 * S
    # Live tunnels are pinged at once, and show what the path still tolerates.
    proven.answered_at_once(29)
    assert proven.interval == 23.2 * S


def test_clients_found_missing_while_others_answer_overturn_nothing(proven: Path) -> None:
    for _ in range(200):
        for _ in range(8):
            proven.now += 5 * S
            proven.answered_at_once(240)
        proven.learner.cut(KEY, BOUNDS, 240 * S, UNANSWERED, proven.now + S)
    assert proven.learner.changed() == set()
    assert proven.interval == 240 * S


def test_clients_found_missing_after_others_answered_overturn_nothing(proven: Path) -> None:
    """Pings that are sent together are answered at once, or found unanswered later, all in a row."""
    proven.now += 600 * S
    for _ in range(100):
        proven.answered_at_once(240)
    proven.now += PONG_TIMEOUT - 10 * S
    for _ in range(5):
        proven.now += 2 * S - 1
        proven.learner.cut(KEY, BOUNDS, 240 * S, UNANSWERED, proven.now)
    assert proven.interval == 240 * S


def test_a_restart_is_no_cutoff(proven: Path) -> None:
    """All tunnels to a backend end at once: after silences of all lengths, or of one if they began at once, too."""
    for silences in ([n % 240 for n in range(1000)], [100] * 1000):
        for silence in silences:
            proven.cut_at_once(silence)
            proven.now += S // 2000
        proven.now += MINUTE
    assert proven.interval == 240 * S


def test_silences_from_before_more_was_proven_tell_nothing(path: Path) -> None:
    path.climb(240)
    began = path.now - 30 * S
    for n in range(10):
        path.learner.cut(KEY, BOUNDS, 150 * S, UNANSWERED, began + 150 * S + PONG_TIMEOUT + n * 2 * S)
    assert path.interval == 240 * S


# --- networks that hide several limits --------------------------------------------------------------------------------


def test_five_cuts_of_one_length_count_although_others_answer(proven: Path) -> None:
    for _ in range(5):
        assert proven.interval == 240 * S
        proven.answered_at_once(240)
        proven.cut(30)
    assert proven.interval == 24 * S
    # Those that tolerate more are still silent, and answer.
    proven.answered_at_once(200)
    assert proven.interval == 24 * S


def go_on(path: Path, one_in: int) -> None:
    """Many tunnels, each silent for four minutes; one in so many does not answer. Until the interval drops."""
    for n in range(50 * one_in):
        path.now += 10 * S
        if path.interval != 240 * S:
            return
        if n % one_in:
            path.answered_at_once(240)
        else:
            path.learner.cut(KEY, BOUNDS, 240 * S, UNANSWERED, path.now)


def test_where_more_than_one_in_four_intervals_ends_unanswered_it_goes_back_to_25_seconds(proven: Path) -> None:
    go_on(proven, one_in=5)
    assert proven.interval == 240 * S
    go_on(proven, one_in=3)
    assert proven.interval == 25 * S
    # Silences that began before say nothing more.
    proven.now += 10 * S
    proven.learner.cut(KEY, BOUNDS, 240 * S, UNANSWERED, proven.now)
    proven.answered_at_once(240)
    assert proven.answered_at_once(25) == 25 * S
    proven.now += 3 * 60 * MINUTE
    assert proven.answered_at_once(25) == 25 * S
    proven.now += 60 * MINUTE
    assert proven.answered_at_once(25) > 25 * S
