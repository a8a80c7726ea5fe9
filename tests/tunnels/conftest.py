"""What the tests of this folder are given."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from .harness import Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    with closing(Rig()) as made:
        yield made
