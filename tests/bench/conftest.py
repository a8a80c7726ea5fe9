"""The load program, and its backend."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.build import build_load
from bench.load import running_backend


@pytest.fixture(scope="package")
def program() -> Path:
    return build_load()


@pytest.fixture
def backend(program: Path) -> Iterator[int]:
    with running_backend(program, None) as (port, _):
        yield port
