"""Steps of handshakes take their turns: one may cost a millisecond of CPU, and a thousand may be due at once.

So a turn of the poller spends a bounded time on them. Then tunnels are served again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gateway.tunnels.relay.poller import Poller

TURN_NS = 2_000_000


class Shaking(Protocol):
    """A connection whose handshake is under way."""

    def turn(self) -> None:
        """Make one step."""

    def abandon(self) -> None:
        """Close the connection: :meth:`turn` raised."""


class Turns:
    """The steps that are due in one worker, in the order in which they became due."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._clock = poller.kernel.now
        self._waiting: deque[Shaking] = deque()
        self._behind: list[Callable[[], None]] = []
        poller.heavy = self._run

    def add(self, shaking: Shaking) -> None:
        """Make one step of a handshake when its turn comes."""
        self._waiting.append(shaking)
        self._poller.is_loaded = True

    def after(self, call: Callable[[], None]) -> None:
        """From within a step: call a bound method of its object when the steps of this turn are made.

        OpenSSL evicts everything else from a processor's caches: what follows handshakes costs less in a row.
        """
        self._behind.append(call)

    def __len__(self) -> int:
        return len(self._waiting)

    def _run(self) -> bool:
        """Make steps until the time is up. :returns: whether some are left"""
        waiting = self._waiting
        until = self._clock() + TURN_NS
        while waiting:
            self._poller.call(waiting.popleft().turn)
            if self._clock() >= until:
                break
        behind, self._behind = self._behind, []
        for call in behind:
            self._poller.call(call)
        return bool(waiting)
