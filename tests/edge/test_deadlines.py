"""Deadlines of connections: each is reported once it has passed, whatever the others do."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gateway.edge.deadlines import Deadlines


class Connection:
    """Something that waits."""

    def __init__(self, deadlines: Deadlines, deadline_ns: int, fails: bool = False) -> None:
        self.deadline_ns = deadline_ns
        self.was_late = self.was_abandoned = 0
        self._deadlines = deadlines
        self._fails = fails
        deadlines.add(self)

    def late(self) -> None:
        self.was_late += 1
        if self._fails:
            raise RuntimeError("a bug")
        self._deadlines.discard(self)

    def abandon(self) -> None:
        self.was_abandoned += 1


async def test_one_that_fails_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    deadlines = Deadlines(asyncio.get_running_loop())
    failures: list[None] = []
    deadlines.on_failure = lambda: failures.append(None)
    waiting = [Connection(deadlines, ns, fails=ns % 2 == 0) for ns in range(1, 9)]
    deadlines.look(6)
    assert [each.was_late for each in waiting] == [1] * 6 + [0] * 2
    assert [each.was_abandoned for each in waiting] == [0, 1, 0, 1, 0, 1, 0, 0]
    assert len(failures) == 3
    assert len(deadlines) == 2
    assert caplog.text.count("RuntimeError: a bug") == 3
    deadlines.look(6)
    assert sum(each.was_late for each in waiting) == 6
    deadlines.close()


async def test_one_that_another_one_ends_is_not_late(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    deadlines = Deadlines(asyncio.get_running_loop())

    class Ending(Connection):
        def late(self) -> None:
            super().late()
            for other in deadlines.all():
                deadlines.discard(other)

    waiting = [Ending(deadlines, 1) for _ in range(3)]
    deadlines.look(1)
    assert sum(each.was_late for each in waiting) == 1
    assert not caplog.records
    deadlines.close()
