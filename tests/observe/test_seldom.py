"""Log lines about what happens thousands of times a second."""

from __future__ import annotations

from gateway.observe.seldom import EVERY_SECONDS, Seldom


def test_once_in_a_while_with_a_count() -> None:
    said: list[str] = []
    now = [1000.0]
    seldom = Seldom(lambda message, *arguments: said.append(message % arguments), lambda: now[0])
    for n in range(50):
        seldom("number %d", n)
    assert said == ["number 0"]
    now[0] += EVERY_SECONDS
    seldom("number %d", 50)
    assert said[1:] == ["number 50 (49 more like this suppressed)"]
    now[0] += EVERY_SECONDS
    seldom("number %d", 51)
    assert said[2:] == ["number 51"]


def test_the_first_is_said_however_young_the_clock_is() -> None:
    said: list[str] = []
    Seldom(said.append, lambda: 0.0)("at once")
    assert said == ["at once"]
