"""Tunnels of each backend over the last hour."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.history import STEPS, History

ONE, TWO = ("chat", "127.0.0.1:1"), ("chat", "127.0.0.1:2")


def by_address(history: History) -> dict[str, list[int]]:
    return {backend["address"]: backend["tunnels"] for backend in history.answer()["backends"]}


def test_a_backend_that_comes_later_had_none_before() -> None:
    history = History()
    history.take({ONE: 3}, 1.0)
    history.take({ONE: 4, TWO: 5}, 2.0)
    assert history.answer()["times"] == [1.0, 2.0]
    assert by_address(history) == {"127.0.0.1:1": [3, 4], "127.0.0.1:2": [0, 5]}


def test_a_backend_that_is_gone_stays_until_nothing_is_left_of_it() -> None:
    history = History()
    history.take({ONE: 1, TWO: 7}, 0.0)
    for step in range(STEPS - 1):
        history.take({ONE: 1}, step + 1.0)
        assert by_address(history)["127.0.0.1:2"][0] == 7
    history.take({ONE: 1}, STEPS + 1.0)
    assert by_address(history) == {"127.0.0.1:1": [1] * STEPS}


@given(st.lists(st.dictionaries(st.sampled_from([ONE, TWO, ("site", "x")]), st.integers(0, 9)), max_size=STEPS + 20))
def test_there_are_as_many_numbers_as_times_and_no_more_than_fit(samples: list[dict[tuple[str, str], int]]) -> None:
    history = History()
    for at, sample in enumerate(samples):
        history.take(sample, float(at))
    answer = history.answer()
    assert len(answer["times"]) == min(len(samples), STEPS)
    for backend in answer["backends"]:
        key = backend["upstream"], backend["address"]
        assert backend["tunnels"] == [sample.get(key, 0) for sample in samples[-STEPS:]]
