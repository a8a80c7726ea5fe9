"""The poller with connections that are not plain, and with work that costs CPU."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from gateway.tunnels.relay.poller import Poller
from gateway.tunnels.table.layout import BYTES, CLIENT
from tests.support.frames import TEXT

from .harness import Rig
from .wire import frame

HELLO = frame(TEXT, b"hello", masked=True)
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


class Upper:
    """A wire that says everything louder, and holds an end back."""

    def __init__(self, poller: Poller) -> None:
        self.poller = poller
        self.has_end = False

    def receive(self, fd: int, most: int) -> bytes | int:
        if self.has_end:
            return b""
        data = self.poller.kernel.receive(fd, most)
        if isinstance(data, bytes) and data.endswith(b"."):
            self.has_end = True
            self.poller.recall(fd)
        return data.upper() if isinstance(data, bytes) else data

    def is_full(self, got: int, asked: int) -> bool:
        return False


def test_a_reader_gets_what_its_wire_makes_of_it(rig: Rig, pair: Pair) -> None:
    left, right = pair
    left.setblocking(False)
    heard: list[bytes | int] = []
    rig.poller.wires[left.fileno()] = Upper(rig.poller)
    rig.poller.read(left.fileno(), heard.append)
    right.send(b"hello")
    rig.poller.select(0)
    assert heard == [b"HELLO"]
    right.send(b"the last.")
    rig.poller.select(0)
    assert heard[1:] == [b"THE LAST."]
    rig.poller.select(1)  # it is called again at once, although nothing more has come
    assert heard[2:] == [b""]
    rig.poller.unwatch(left.fileno())


def test_who_asks_again_hears_of_what_the_wire_holds(rig: Rig, pair: Pair) -> None:
    left, _ = pair
    left.setblocking(False)
    heard: list[bytes | int] = []
    masks: list[int] = []
    wire = rig.poller.wires[left.fileno()] = Upper(rig.poller)
    rig.poller.read(left.fileno(), heard.append)
    wire.has_end = True
    rig.poller.ask_again(left.fileno())
    rig.poller.select(1)
    assert heard == [b""]
    rig.poller.rewatch(left.fileno(), select.EPOLLRDHUP, masks.append)  # who does not read is not called
    rig.poller.select(0)
    assert masks == []
    rig.poller.rewatch(left.fileno(), select.EPOLLIN, masks.append)
    rig.poller.select(1)
    assert masks == [select.EPOLLIN]
    rig.poller.rewatch(left.fileno(), select.EPOLLIN, masks.append)
    rig.poller.unwatch(left.fileno())
    rig.poller.select(0)
    assert len(masks) == 1


def test_a_plain_descriptor_is_not_called_without_an_event(rig: Rig, pair: Pair) -> None:
    left, _ = pair
    left.setblocking(False)
    heard: list[bytes | int] = []
    rig.poller.read(left.fileno(), heard.append)
    rig.poller.ask_again(left.fileno())
    rig.poller.select(0)
    assert heard == []
    rig.poller.unwatch(left.fileno())


# --- work that costs CPU ----------------------------------------------------------------------------------------------


def test_some_of_it_is_done_in_each_turn_and_tunnels_are_served_between(rig: Rig) -> None:
    tunnel = rig.open()
    relayed: list[int] = []

    def work() -> bool:
        relayed.append(tunnel.side(CLIENT, BYTES))
        return len(relayed) < 3

    rig.poller.heavy = work
    rig.poller.is_loaded = True
    for number in range(1, 4):
        tunnel.peer(CLIENT).send(HELLO)
        rig.poller.select(10)  # which does not wait while there is work
        assert relayed[-1] == number * len(HELLO)
        assert len(relayed) == number
    assert not rig.poller.is_loaded
    rig.poller.select(0)
    assert len(relayed) == 3


def test_work_that_fails_ends_nothing(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    failures: list[int] = []
    rig.poller.on_failure = lambda: failures.append(1)
    rig.poller.heavy = lambda: bool(1 // 0)
    rig.poller.is_loaded = True
    rig.poller.select(0)
    assert "failed" in caplog.text
    assert failures
    rig.poller.is_loaded = False
