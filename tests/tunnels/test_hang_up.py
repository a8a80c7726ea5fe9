"""A connection that is hung up ends for its peer, whoever else holds it."""

import select
import socket

import pytest

from gateway.tunnels.relay.kernel import Kernel
from tests.support.deadline import DEADLINE_SECONDS


@pytest.fixture
def kernel():
    with select.epoll() as epoll:
        yield Kernel(epoll, 64 * 1024)


def test_a_peer_that_waits_for_room_is_told(kernel):
    """The receive buffer is full, and another process, such as a service manager, keeps the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    held = ours.dup()
    with peer, ours, held:
        peer.setblocking(False)
        while select.select((), (peer,), (), 0.2)[1]:
            peer.send(bytes(1 << 20))
        kernel.hang_up(ours.fileno())
        ours.close()
        peer.settimeout(DEADLINE_SECONDS)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            peer.sendall(bytes(1 << 28))
