"""When backends have come into service, and have settled; through supervisors that follow each other."""

from __future__ import annotations

import json

from gateway.processes.scale_out import ScaleOuts


class Watch:
    def __init__(self) -> None:
        self.changes = 0
        self.scale_outs = ScaleOuts(self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def look(self, in_service: set[int], now: float) -> object:
        return self.scale_outs.look("chat", in_service, 10.0, now)

    def succeeded(self) -> Watch:
        """The next supervisor's."""
        after = Watch()
        after.scale_outs.resume(json.loads(json.dumps(self.scale_outs.left())))
        return after


def test_it_is_due_once_the_same_backends_stay() -> None:
    watch = Watch()
    assert [watch.look({1, 2}, now) for now in (0, 1, 50)] == [None] * 3
    assert watch.look({1, 2, 3}, 51) == {3}
    assert watch.look({1, 2, 3}, 60) is None
    assert watch.look({1, 3}, 60.5) is None  # one leaves: it begins later
    assert watch.look({1, 3}, 61) is None
    assert [watch.look({1, 3}, now) for now in (70.4, 70.5, 71, 100)] == [None, "due", None, None]
    assert watch.look({1}, 101) is None
    assert [watch.look({1}, now) for now in (102, 200)] == [None, None]
    assert watch.look({1, 2}, 201) == {2}
    assert watch.look({1, 2, 3}, 205) == {3}
    assert [watch.look({1, 2, 3}, now) for now in (211, 215)] == [None, "due"]


def test_the_next_supervisor_waits_no_longer() -> None:
    watch = Watch()
    watch.look({1}, 0)
    watch.look({1, 2}, 1)
    after = watch.succeeded()
    assert after.look({1, 2}, 5) is None
    assert after.succeeded().look({1, 2}, 11) == "due"


def test_what_comes_between_two_supervisors_is_noticed() -> None:
    watch = Watch()
    watch.look({1}, 0)
    after = watch.succeeded()
    assert after.look({1, 2}, 5) == {2}
    assert after.look({1, 2}, 15) == "due"


def test_each_change_is_reported_to_be_saved() -> None:
    watch = Watch()
    for now, in_service, changes in (
        (0, {1}, 1),
        (1, {1}, 1),
        (2, {1, 2}, 2),
        (3, {1, 2}, 2),
        (12, {1, 2}, 3),
        (13, {1, 2}, 3),
    ):
        watch.look(in_service, now)
        assert watch.changes == changes
    watch.scale_outs.keep_only(["chat"])
    assert watch.changes == 3
    watch.scale_outs.keep_only([])
    assert (watch.changes, watch.scale_outs.left()) == (4, [])


def test_what_another_version_has_written_is_skipped(caplog) -> None:
    watch = Watch()
    watch.scale_outs.resume([["chat"], ["chat", ["x"], None], ["feed", [1], 3.0]])
    assert watch.scale_outs.left() == [("feed", (1,), 3.0)]
    assert caplog.text.count("which backends were in service before is not known") == 2
