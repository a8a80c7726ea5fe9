"""Connections of tunnels by tunnel id, in little memory: there are as many as tunnels.

The two descriptors of a tunnel share one integer. As two in a tuple they would take 100 bytes more, most of what an
idle tunnel costs beside its row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.tunnels.moving.adoption import Connections

_BITS = 32  # of a descriptor


class StoredConnections:
    """Connections by tunnel id, in the order in which they were stored."""

    def __init__(self) -> None:
        self._joined: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._joined)

    def __iter__(self) -> Iterator[int]:
        """The tunnels' ids."""
        return iter(self._joined)

    def update(self, tunnels: Iterable[tuple[int, Connections]]) -> None:
        """Store the connections of tunnels; those that a tunnel had before are forgotten."""
        for tunnel, (client, backend) in tunnels:
            self._joined[tunnel] = client << _BITS | backend

    def pop(self, tunnel: int) -> Connections | None:
        """Remove and return the connections of a tunnel; None if there are none."""
        joined = self._joined.pop(tunnel, None)
        return None if joined is None else _parted(joined)

    def items(self) -> list[tuple[int, Connections]]:
        """All of them, by tunnel id."""
        return [(tunnel, _parted(joined)) for tunnel, joined in self._joined.items()]


def _parted(joined: int) -> Connections:
    return joined >> _BITS, joined & (1 << _BITS) - 1
