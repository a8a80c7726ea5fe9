"""What policies know of backends at the moment: state and load, over all workers."""

from __future__ import annotations

from typing import Protocol


class Standing(Protocol):
    """State and load of backends, by their numbers in the registry."""

    def changed(self) -> int:
        """A number that rises whenever a backend goes out of service or comes back, also when an ejection is over."""
        ...

    def is_out(self, number: int) -> bool:
        """Whether a backend gets nothing new: it is down by its health checks, or ejected."""
        ...

    def is_down(self, number: int) -> bool:
        """Whether it is down by its health checks."""
        ...

    def returned_ns(self, number: int) -> int:
        """When it came into service, or came back (``CLOCK_MONOTONIC``); 0 for long ago."""
        ...

    def load(self, number: int) -> int:
        """Tunnels and plain requests in flight of all workers."""
        ...

    def tunnels(self, number: int) -> int:
        """Tunnels of all workers, handshakes included."""
        ...

    def now_ns(self) -> int:
        """``CLOCK_MONOTONIC`` in nanoseconds."""
        ...
