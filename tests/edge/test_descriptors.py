"""Descriptors that run short: who still gets one, and what the others are told."""

import errno
import os
import socket

import pytest

from gateway.edge.descriptors import SPARE, Descriptors
from gateway.edge.request import Refused


def test_tunnels_stop_short_of_the_limit():
    descriptors = Descriptors(20_000)
    assert descriptors.for_tunnels == 20_000 - SPARE
    assert descriptors.for_tunnels < descriptors.for_connections < descriptors.limit
    assert descriptors.tunnels == (20_000 - SPARE) // 2


@pytest.mark.parametrize("limit", [32, 100, 256, 1024])
def test_a_small_limit_is_shared_too(limit):
    descriptors = Descriptors(limit)
    assert limit / 2 < descriptors.for_tunnels < limit
    assert descriptors.for_tunnels <= descriptors.for_connections < limit


def test_a_socket_while_there_is_room():
    with Descriptors(4096).backend_socket(socket.AF_INET) as sock:
        assert sock.family == socket.AF_INET
        assert not sock.getblocking()


def test_the_last_ones_are_not_for_tunnels(caplog):
    descriptors = Descriptors(4096)
    descriptors.for_tunnels = 3
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(Refused) as refused:
            descriptors.backend_socket(socket.AF_INET)
    assert (refused.value.status, refused.value.result) == (503, "unavailable")
    assert "short of descriptors" in str(refused.value)
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(caplog.records) == 1


def test_the_system_has_none(caplog, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", fail)
    with pytest.raises(Refused) as refused:
        Descriptors(4096).backend_socket(socket.AF_INET)
    assert refused.value.status == 503
    assert "Too many open files; raise the hard limit" in caplog.text
