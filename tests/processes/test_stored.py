"""Stored connections: none is lost or mixed up, and each costs little."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.processes.stored import StoredConnections

pytestmark = pytest.mark.either_build

ids = st.integers(0, 2**63 - 1)
descriptors = st.integers(0, 2**31 - 1)


@given(st.lists(st.tuples(ids, st.none() | st.tuples(descriptors, descriptors)), max_size=30))
def test_they_are_a_dictionary(steps: list[tuple[int, tuple[int, int] | None]]) -> None:
    """None in place of connections removes a tunnel."""
    stored, expected = StoredConnections(), {}
    for tunnel, connections in steps:
        if connections is None:
            assert stored.pop(tunnel) == expected.pop(tunnel, None)
        else:
            stored.update([(tunnel, connections)])
            expected[tunnel] = connections
        assert (len(stored), list(stored), stored.items()) == (len(expected), list(expected), list(expected.items()))


def test_a_tunnel_costs_little_memory() -> None:
    tunnels = 5000
    tracemalloc.start()
    stored = StoredConnections()
    stored.update((1 << 48 | n, (2 * n, 2 * n + 1)) for n in range(1000, 1000 + tunnels))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / tunnels < 130
