"""Descriptors that run short: who still gets one, and what the others are told."""

import os
import resource
import select
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from gateway.edge.descriptors import SPARE, Descriptors
from gateway.edge.refused import Refused
from gateway.tunnels.relay.kernel import Kernel


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with closing(select.epoll()) as epoll:
        yield Kernel(epoll, 1000)


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


def test_a_socket_while_there_is_room(kernel):
    with socket.socket(fileno=Descriptors(4096).backend_socket(kernel, socket.AF_INET)) as sock:
        assert sock.family == socket.AF_INET
        assert not os.get_blocking(sock.fileno())
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_the_last_ones_are_not_for_tunnels(kernel, caplog):
    descriptors = Descriptors(4096)
    descriptors.for_tunnels = 3
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(Refused) as refused:
            descriptors.backend_socket(kernel, socket.AF_INET)
    assert (refused.value.status, refused.value.result) == (503, "unavailable")
    assert "short of descriptors" in str(refused.value)
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(caplog.records) == 1


def test_the_system_has_none(kernel, caplog):
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(Refused) as refused:
            Descriptors(4096).backend_socket(kernel, socket.AF_INET)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    assert refused.value.status == 503
    assert "Too many open files; raise the hard limit" in caplog.text
