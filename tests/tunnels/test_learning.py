"""The learner of idle cutoffs, rule by rule, by a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tunnels import learning
from gateway.tunnels.learning import CUT, UNANSWERED, Bounds, Key, Learner

pytestmark = pytest.mark.either_build

S = 1_000_000_000
MINUTE = 60 * S
DAY = 86_400 * S
PONG_TIMEOUT = 20 * S
BOUNDS = Bounds(5 * S, 240 * S, PONG_TIMEOUT)
KEY = (0, 0, 1)


class Path:
    """One path of a learner, and a clock that goes on with what happens on it."""

    def __init__(self, bounds: Bounds = BOUNDS, learner: Learner | None = None, key: Key = KEY) -> None:
        self.learner = learner or Learner()
        self.bounds = bounds
        self.key = key
        self.now = 1000 * S
        self.learner.interval(key, bounds)

    @property
    def interval(self) -> int:
        return self.learner.common_interval(self.key, self.bounds)

    @property
    def cutoff(self) -> int | None:
        return self.learner.learned_cutoff(self.key)

    def answered(self, silence: float) -> int:
        """After that many seconds a Ping is answered. :returns: the interval given for the next silence"""
        self.now += round(silence * S)
        return self.answered_at_once(silence)

    def answered_at_once(self, silence: float) -> int:
        """The same, of a tunnel that has been silent all the while."""
        return self.learner.answered(self.key, self.bounds, round(silence * S), self.now)

    def cut(self, silence: float) -> None:
        self.now += round(silence * S)
        self.cut_at_once(silence)

    def cut_at_once(self, silence: float) -> None:
        self.learner.cut(self.key, self.bounds, round(silence * S), CUT, self.now)

    def unanswered(self, silence: float) -> None:
        self.now += round(silence * S) + PONG_TIMEOUT
        self.learner.cut(self.key, self.bounds, round(silence * S), UNANSWERED, self.now)

    def climb(self, seconds: float) -> None:
        """One tunnel tries whatever it is told to, until that much is proven."""
        trial = self.interval
        while trial < seconds * S:
            trial = self.answered(trial / S)
        self.answered(seconds)

    def live(self, cutoff: float, how: int, until: int) -> int:
        """One client, always silent, until then; it comes back when it was cut. :returns: how often that was"""
        cuts = 0
        trial = self.interval
        while self.now < until:
            if trial < cutoff * S:
                trial = self.answered(trial / S)
                continue
            cuts += 1
            if how == CUT:
                self.cut(cutoff)
            else:
                self.unanswered(trial / S)
            trial = self.interval
        return cuts


@pytest.fixture
def path() -> Path:
    return Path()


@pytest.fixture
def proven() -> Path:
    """A path that tolerates as much as is allowed, and where the interval is that."""
    path = Path()
    path.climb(240)
    path.learner.changed()
    path.learner.news()
    assert path.interval == 240 * S
    return path


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
