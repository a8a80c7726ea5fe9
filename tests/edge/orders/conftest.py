"""Fixtures of the tests of orders."""

from collections.abc import Iterator

import pytest

from .worker import Worker


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker() as worker:
        yield worker
