"""The end of a listening socket: who is connected is served, and nobody is connected to be reset."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from gateway.edge.listener import Listener, take_no_more


@pytest.fixture(params=["127.0.0.1", "::1"])
def listening(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        sock = socket.create_server((request.param, 0), family=family)
    except OSError as error:
        if family != socket.AF_INET6:
            raise
        pytest.skip(f"no {request.param} here: {error}")
    with sock:
        sock.setblocking(False)
        yield sock


def test_who_comes_later_is_not_connected(listening: socket.socket) -> None:
    with socket.socket(listening.family) as before, socket.socket(listening.family) as later:
        before.connect(listening.getsockname())
        take_no_more(listening)
        later.setblocking(False)
        assert later.connect_ex(listening.getsockname()) != 0
        connection, _ = listening.accept()
        with connection:
            before.sendall(b"hello")
            assert select.select([connection], [], [], 5)[0]
            assert connection.recv(100) == b"hello"
            connection.sendall(b"so far, so good")
            assert before.recv(100) == b"so far, so good"
        assert select.select([], [later], [], 0.2)[1] == [], "it waits"
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_who_listens_anew_takes_everybody(listening: socket.socket) -> None:
    """A socket that was given up, and whose end nobody noted before the gateway died and was resumed."""
    take_no_more(listening)
    Listener(None, None, None, listening)  # type: ignore[arg-type]  # it is only made
    with socket.socket(listening.family) as client:
        client.settimeout(5)
        client.connect(listening.getsockname())
