"""What the tests of this folder are given."""

from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from .harness import Rig
from .learning_path import Path, S
from .pair import Pair
from .transition import Begin, Transition


@pytest.fixture
def rig() -> Iterator[Rig]:
    with closing(Rig()) as made:
        yield made


@pytest.fixture
def pair() -> Iterator[Pair]:
    rig = Rig()
    made = Pair(rig)
    yield made
    for row in list(rig.table.rows(1)):
        made.poller.relay.finish(row)
    for poller in (made.poller, made.old[0]):
        poller.select(0)  # it closes what was let go
    for poller in {made.poller, made.old[0]} - {rig.poller}:
        poller.close()
    rig.close()


@pytest.fixture
def path() -> Path:
    """A path that nothing is known of yet."""
    return Path()


@pytest.fixture
def proven() -> Path:
    """A path that tolerates as much as is allowed, and where the interval is that."""
    path = Path()
    path.climb(240)
    path.learner.changed()
    path.learner.news()
    assert path.interval == 240 * S
    return path


@pytest.fixture
def transition() -> Iterator[Begin]:
    with ExitStack() as stack:

        def begin(rig: Rig, seed: int = 0, drop: bool = False) -> Transition:
            made = Transition(rig, seed, drop)
            stack.callback(made.close)
            return made

        yield begin
