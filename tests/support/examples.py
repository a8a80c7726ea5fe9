"""How many examples property tests are tried with."""

from __future__ import annotations

import os

from tests.support.deadline import SOAK

PURE = os.environ.get("GATEWAY_RELAY") == "pure"


def examples(full: int) -> int:
    """For ``max_examples`` of hypothesis: all of them with ``GATEWAY_SOAK=1``, a quarter otherwise.

    The uncompiled relay gets a sixth: it has the same sources, which the compiled one is tested with.
    """
    return full if SOAK else full // (6 if PURE else 4)
