"""What the tests of this folder are given."""

from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from .harness import Rig
from .transition import Begin, Transition


@pytest.fixture
def rig() -> Iterator[Rig]:
    with closing(Rig()) as made:
        yield made


@pytest.fixture
def transition() -> Iterator[Begin]:
    with ExitStack() as stack:

        def begin(rig: Rig, seed: int = 0, drop: bool = False) -> Transition:
            made = Transition(rig, seed, drop)
            stack.callback(made.close)
            return made

        yield begin
