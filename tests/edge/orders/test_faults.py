"""An exception in any call of a callback: its connection is closed, nothing is left behind, and all others go on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from .choices import Choices
from .exchange_steps import BODY, answers, asked, begun
from .messages import answer, post, request
from .play import (
    LATER,
    Actor,
    Backend,
    Play,
    Scene,
    Step,
    accept,
    after,
    connect,
    fin,
    passes,
    pieces,
    reset,
    send,
    take,
)
from .upgrade_steps import AHEAD, ASKED, DECLINED, DECLINED_AS_SENT, EARLY, RAW, RAW_ANSWER
from .worker import Worker

pytestmark = pytest.mark.either_build

GET_1, GET_2 = request(b"/1"), request(b"/2")
ANSWER_1, ANSWER_2 = answer(b"/1"), answer(b"/2")
NEVER_RAISE = {"wait", "close", "shut", "hang_up", "reset"}
"""Calls that raise in neither build, whatever they are given."""


class Mistake(Exception):
    """What is raised."""


class Story(NamedTuple):
    """What one client and its backends do, while others ask."""

    client: Sequence[Step]
    backends: list[Backend]
    answer: bytes
    """all that the client gets"""
    request: bytes = b""
    """how what the last backend gets ends"""
    seconds: float = 1
    """that pass"""


PIECES = pieces(post(b"/1", BODY), 80)
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nabc"
STORIES = {
    "tunnel": Story(
        [connect(RAW), send(AHEAD), fin(after(EARLY))],
        [Backend([*pieces(RAW_ANSWER + EARLY, 20, when=ASKED), fin()])],
        RAW_ANSWER + EARLY,
        AHEAD,
    ),
    "tunnel dialled": Story(
        [connect(RAW), send(AHEAD)],
        [Backend([accept(), send(RAW_ANSWER, ASKED), send(EARLY, after(AHEAD))], LATER)],
        RAW_ANSWER + EARLY,
        AHEAD,
    ),
    "declined": Story([connect(RAW), send(AHEAD)], [Backend(pieces(DECLINED, 20, when=ASKED))], DECLINED_AS_SENT),
    "requests": Story(
        [connect(GET_1), send(GET_2)],
        [Backend([*pieces(ANSWER_1, 50, when=asked(1)), *answers(1, first=1)])],
        ANSWER_1 + ANSWER_2,
    ),
    "body": Story([connect(), *PIECES], [Backend(answers(1))], ANSWER_1, BODY),
    "slow body": Story([connect(), *PIECES], [Backend([take(99), *answers(1)], slow=50)], ANSWER_1, BODY),
    "early answer": Story([connect(), *PIECES], [Backend([send(ANSWER_1, begun())])], ANSWER_1),
    "until close": Story(
        [connect(GET_1)],
        [Backend([send(UNTIL_CLOSE, asked(1)), fin()])],
        UNTIL_CLOSE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
    ),
    "again": Story(
        [connect(GET_1), send(GET_2, after(ANSWER_1))],
        [Backend([*answers(1), reset()]), Backend(answers(1))],
        ANSWER_1 + ANSWER_2,
    ),
    "too late": Story([connect(GET_1)], [Backend()], b"HTTP/1.1 504", seconds=61),
    "slow client": Story([connect(GET_1), take(20)], [Backend(pieces(ANSWER_1, 50, when=asked(1)))], ANSWER_1),
}


class Faulty(Play):
    """A run in which the n-th call of the kernel raises."""

    calls = 0
    at = -1
    raised = ""

    def _before(self, call: str, fd: int) -> None:
        if call in NEVER_RAISE:
            return
        self.calls += 1
        if self.calls == self.at:
            self.raised = f"{call} of {self._name_of(fd)}"
            self.trace.append(f"raised: {self.raised}")
            raise Mistake(self.raised)

    def _no_trouble(self) -> None:
        """The mistake was logged, and nothing else."""
        worker = self.worker
        if not self.raised.startswith("unwatch"):  # else the close of the descriptor has epoll forget it
            assert not worker.kernel.mistakes, worker.kernel.mistakes
        records = worker.failures.records
        assert bool(records) == bool(self.raised), [record.getMessage() for record in records]
        raised = [record.exc_info[1] for record in records if record.exc_info]
        assert all(isinstance(error, Mistake) or _is_of_unwatch(error) for error in raised), raised
        assert len([error for error in raised if isinstance(error, Mistake)]) <= 1, raised


def _is_of_unwatch(error: BaseException | None) -> bool:
    """Whether a descriptor could not be unwatched, as it could not be watched."""
    return isinstance(error, FileNotFoundError) and "unwatch" in str(error)


OTHERS = ("second", "third")


def when_others_are_done(play: Play, actor: Actor) -> bool:
    return bool(play.backends) and all(
        other.ended or b"HTTP/1.1 50" in other.received or other.received.endswith(answer(b"/again"))
        for other in play.clients.values()
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", STORIES)
def test_any_call_raises(name: str, seed: int) -> None:
    story = STORIES[name]

    def check(play: Play) -> None:
        well = [
            other.received == answer(b"/" + other.name.encode()) + answer(b"/again") for other in play.clients.values()
        ]
        whole = play.client.received == story.answer and play.backends[-1].received.endswith(story.request)
        if name == "too late":
            whole = play.client.received.startswith(story.answer)
        if name == "early answer":  # which ends with "Connection: close", or not, if all of the body has come
            whole = play.client.received.endswith(b"\r\n\r\nanswer to /1")
        assert [whole, *well].count(False) <= 1, (play.client.received, *play.clients.values())
        if not whole:
            got = play.client.received
            error = got.find(b"HTTP/1.1 50")
            assert story.answer.startswith(got[:error] if error >= 0 else got), got
            assert play.client.ended or error >= 0, "it waits for an answer that never comes"

    others = {
        other: [
            connect(),
            send(request(b"/" + other.encode(), host=b"second")),
            send(request(b"/again", host=b"second"), after(answer(b"/" + other.encode()))),
        ]
        for other in OTHERS
    }
    scene = Scene(
        story.client,
        [*story.backends, *[Backend(answers(3))] * 3],
        check,
        [Backend(answers(5))] * 5,
        {
            "clock": [passes(story.seconds, when_others_are_done)],
            "pause": [passes(1, lambda play, actor: play.raised != "")],
        },
        others,
        slow_client=60 if "slow" in name else 0,
    )
    at = 0
    with Worker() as worker:
        while True:
            at += 1
            worker.failures.records.clear()
            worker.kernel.mistakes.clear()
            play = Faulty(worker, scene, Choices([], random.Random(seed)))
            play.at = at
            play.run()
            if not play.raised:
                break
    assert at > 20
