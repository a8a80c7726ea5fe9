"""How many examples property tests are tried with."""

from __future__ import annotations

from tests.support.deadline import SOAK


def examples(full: int) -> int:
    """For ``max_examples`` of hypothesis: all of them with ``GATEWAY_SOAK=1``, two fifths otherwise."""
    return full if SOAK else full * 2 // 5
