"""Certificates and contexts for handshakes in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.edge.tls import callback
from gateway.edge.tls.secrets import KeyLog
from tests.support.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Issues certificates that the tests' clients trust."""
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=["callback", "pipe"] if callback.COMPILED else ["pipe"])
def key_log(request: pytest.FixtureRequest) -> Iterator[KeyLog]:
    log = KeyLog(uses_callback=request.param == "callback")
    yield log
    log.close()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return tmp_path
