"""Bounds how often passwords are guessed, for each client address. Each worker counts for itself."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

MOST_FAILURES = 10
"""In ``WINDOW_SECONDS``, from its first failure on."""

WINDOW_SECONDS = 60.0
MOST_KEPT = 16 * 1024
"""Addresses; the one whose first failure is oldest makes room."""

_NETWORK_BITS = 64

Source = tuple[int, int]
"""An IPv4 address, or the /64 network of an IPv6 address, as each of its hosts has all addresses in it."""


def source_of(address: IPv4Address | IPv6Address | None) -> Source | None:
    """The source that attempts from an address count for. None, for no source, if the address is not known."""
    if address is None:
        return None
    if isinstance(address, IPv6Address):
        return (6, int(address) >> _NETWORK_BITS)
    return (4, int(address))


class Attempts:
    """Failures by source."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """:param clock: monotonic, in seconds"""
        self._clock = clock
        self._failures: dict[Source, tuple[float, int]] = {}
        """when the first one was, and how many; in the order of the first ones"""

    def __len__(self) -> int:
        return len(self._failures)

    def wait_seconds(self, source: Source | None) -> float:
        """How long a source must wait until it may try again. 0 if it need not."""
        if source is None or source not in self._failures:
            return 0.0
        first, count = self._failures[source]
        left = first + WINDOW_SECONDS - self._clock()
        if left <= 0:
            del self._failures[source]
            return 0.0
        return left if count >= MOST_FAILURES else 0.0

    def failed(self, source: Source | None) -> None:
        """Count a failure."""
        if source is None:
            return
        now = self._clock()
        first, count = self._failures.get(source, (now, 0))
        if first + WINDOW_SECONDS <= now:
            del self._failures[source]
            first, count = now, 0
        if not count and len(self._failures) >= MOST_KEPT:
            del self._failures[next(iter(self._failures))]
        self._failures[source] = (first, count + 1)
