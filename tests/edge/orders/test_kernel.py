"""The kernel in memory does what Linux does: the same steps on TCP sockets and on its own give the same results."""

from __future__ import annotations

import fcntl
import inspect
import random
import select
import socket
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from gateway.tunnels.table.layout import READING
from tests.support.deadline import DEADLINE_SECONDS

from .kernel import FakeKernel
from .sockets import Peer
from .worker import modules

pytestmark = pytest.mark.either_build

pure_kernel = modules["kernel"].Kernel
SEQUENCES = 2000
STEPS = 14
WATCHES = (READING, READING | select.EPOLLOUT, select.EPOLLIN, select.EPOLLOUT, select.EPOLLRDHUP)


def methods(kernel: type) -> dict[str, list[str]]:
    return {
        name: list(inspect.signature(method).parameters)
        for name, method in inspect.getmembers(kernel, inspect.isfunction)
        if not name.startswith("_")
    }


def test_it_has_the_methods_of_the_kernel() -> None:
    fake = methods(FakeKernel)
    assert {name: fake.get(name) for name in methods(pure_kernel)} == methods(pure_kernel)


class RealPeer:
    """The other end of a TCP connection. Each step has arrived when it returns, however busy the machine is."""

    def __init__(self, sock: socket.socket, far: socket.socket) -> None:
        """:param far: the end that the kernel under test has"""
        self.sock = sock
        self.said_all = False
        self._far = far

    def send(self, data: bytes) -> None:
        expected = self._unread() + len(data)
        self.sock.sendall(data)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self._unread() < expected:
            assert time.monotonic() < deadline, "what was sent does not arrive"

    def fin(self) -> None:
        self.said_all = True
        self.sock.shutdown(socket.SHUT_WR)
        self._end_arrives()

    def reset(self) -> None:
        self.said_all = True
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
        self._end_arrives()

    def _unread(self) -> int:
        size = fcntl.ioctl(self._far, termios.FIONREAD, bytes(4))
        return int.from_bytes(size, sys.byteorder)

    def _end_arrives(self) -> None:
        poll = select.poll()
        poll.register(self._far, select.POLLRDHUP)
        assert poll.poll(DEADLINE_SECONDS * 1000), "the end does not arrive"


@contextmanager
def real() -> Iterator[tuple[object, int, RealPeer]]:
    """A kernel, a connection of it, and that one's peer."""
    with (
        select.epoll() as epoll,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as theirs,
        closing(server.accept()[0]) as ours,
    ):
        ours.setblocking(False)
        theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield pure_kernel(epoll, 1000), ours.fileno(), RealPeer(theirs, ours)


@contextmanager
def fake() -> Iterator[tuple[object, int, Peer]]:
    kernel = FakeKernel(None, 1000)
    listening = kernel.listen()
    peer = Peer("peer")
    kernel.connect_to(listening, peer)
    (fd, _, _), _ = kernel.accept(listening, 32, 1000)
    yield kernel, fd, peer


def play(make: Callable, seed: int) -> list[object]:
    """What some steps, chosen at random, give."""
    rng = random.Random(seed)
    found: list[object] = []
    with make() as (kernel, fd, peer):
        kernel.watch(fd, False, READING)
        shut = False
        for _ in range(STEPS):
            step = rng.choice(("send", "send", "fin", "reset", "receive", "receive", "watch", "shut", "write", "wait"))
            if rng.random() < 0.4:
                step = "wait"
            result: object = None
            if step in ("send", "fin", "reset"):
                if peer.said_all or rng.random() < (0 if step == "send" else 0.6):
                    continue
                if step == "send":
                    peer.send(b"x" * rng.randrange(1, 50))
                else:
                    getattr(peer, step)()
            elif step == "receive":
                result = kernel.receive(fd, rng.choice((10, 100)))
            elif step == "watch":
                kernel.watch(fd, True, rng.choice(WATCHES))
            elif step == "shut":
                if shut or rng.random() < 0.7:
                    continue
                shut = True
                kernel.shut(fd)
            elif step == "write":
                if shut:
                    continue
                result = kernel.write(fd, b"y" * 10)
            else:
                count = kernel.wait(0)
                result = [kernel.event_mask(i) for i in range(count)]
            found.append((step, result))
    return found


@pytest.mark.parametrize("part", range(4))
def test_the_same_steps_give_the_same_results(part: int) -> None:
    for seed in range(part, SEQUENCES, 4):
        assert play(fake, seed) == play(real, seed), f"sequence {seed}"
