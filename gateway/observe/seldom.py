"""Log lines about what may happen thousands of times a second."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_SECONDS = 10.0


class Seldom:
    """Says a thing at once, and again only after a while, with how often it was left unsaid."""

    def __init__(self, say: Callable[..., None], clock: Callable[[], float] = time.monotonic) -> None:
        """:param say: a logger's method. :param clock: in seconds"""
        self._say = say
        self._clock = clock
        self._silent_until = -EVERY_SECONDS
        self._unsaid = 0

    def __call__(self, message: str, *arguments: object) -> None:
        """Say it, if it is time. Arguments are as a logger's."""
        now = self._clock()
        if now < self._silent_until:
            self._unsaid += 1
            return
        if self._unsaid:
            message += f" ({self._unsaid} more such since the last line of this kind)"
        self._silent_until = now + EVERY_SECONDS
        self._unsaid = 0
        self._say(message, *arguments)
