"""Clients with TLS in scenes: what they say is sealed, what they get is opened. Handshakes are made beforehand."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import cache
from itertools import pairwise

from gateway.edge.client import Client
from gateway.edge.wire.tls import TlsStream
from gateway.protocol.tls.content import CLOSED, NOTHING
from gateway.protocol.tls.state import OUT_CLOSED
from tests.protocol.tls.ends import End
from tests.protocol.tls.openssl import TLS12_SUITES, TLS13_SUITES, Pair

from .play import Actor, Play, Step, always
from .sockets import EVERYTHING, Peer
from .worker import Worker

SUITES = (TLS13_SUITES[0], TLS12_SUITES[1])


@cache
def _pair(suite: str) -> tuple[array[int], array[int]]:
    pair = Pair(suite)
    return pair.accepted, pair.dialled


class TlsPeer(Peer):
    """A client with TLS. ``received`` is plaintext."""

    def __init__(self, name: str, suite: str) -> None:
        super().__init__(name)
        accepted, dialled = _pair(suite)
        self.accepted = array("q", accepted)
        self.end = End(dialled)
        self.heard_close = False
        """whether close_notify has come"""
        self.wire_ahead = b""
        """sealed, and not sent yet (:func:`wire_pieces`)"""

    def send(self, data: bytes) -> None:
        super().send(self.end.send(data))

    def send_wire(self, data: bytes) -> None:
        """Send what is sealed already."""
        super().send(data)

    def fin(self) -> None:
        if not self.said_all and self.sock is not None and not self.sock.closed and not self.end[OUT_CLOSED]:
            super().send(self.end.close())
        super().fin()

    def take(self, most: int = EVERYTHING) -> int:
        plain, self.received = self.received, bytearray()
        taken = super().take(most)
        wire, self.received = bytes(self.received), plain
        if wire:
            assert not self.heard_close, "something follows close_notify"
            self.received += self.end.read(wire)
            event = self.end.records.event
            assert event in (NOTHING, CLOSED), f"what the gateway sent cannot be opened: {event}"
            self.heard_close = event == CLOSED
        return taken


class TlsWorker(Worker):
    """A worker all of whose clients use TLS."""

    def __init__(self, suite: str) -> None:
        super().__init__()
        self._suite = suite
        self.listener.use(self._accept)

    def _accept(self, fd: int, address: object, received: bytes | int) -> None:
        """As behind a handshake, with what came right after it."""
        edge = self.edge
        peer = self.kernel.sockets[fd].peer
        assert isinstance(peer, TlsPeer)
        edge.tls_wire.attach(fd, TlsStream(peer.accepted, received if isinstance(received, bytes) else b""))
        client = Client(edge.clients, fd, edge.config.trust.peer(address), edge.tls_wire)
        self.poller.call(client.begin)

    def client(self, name: str = "client", room: int = 0) -> Peer:
        peer = TlsPeer(name, self._suite)
        peer.limit(room)
        return peer

    @property
    def is_busy(self) -> bool:
        return super().is_busy or bool(self.poller._recalled)

    def leaks(self) -> list[str]:
        found = super().leaks()
        for name in ("wires", "_recalled"):
            if getattr(self.poller, name):
                found.append(f"{name}: {getattr(self.poller, name)}")
        if len(self.edge.tls_wire):
            found.append(f"{len(self.edge.tls_wire)} streams")
        return found


def wire_pieces(data: bytes, *cuts: int, when: Callable[[Play, Actor], bool] = always) -> list[Step]:
    """Send one record in pieces. :param cuts: where a piece ends; negative ones count from the end"""

    def step(number: int) -> Step:
        def do(play: Play, actor: Actor) -> None:
            peer = actor.peer
            assert isinstance(peer, TlsPeer)
            if peer.said_all:
                return
            if number == 0:
                peer.wire_ahead = peer.end.send(data)
            whole = peer.wire_ahead
            ends = [0, *(cut if cut >= 0 else len(whole) + cut for cut in cuts), len(whole)]
            start, end = list(pairwise(ends))[number]
            peer.send_wire(whole[start:end])

        return Step(f"sends part {number} of a record", do, when)

    return [step(number) for number in range(len(cuts) + 1)]


def said_goodbye(play: Play) -> None:
    """The gateway ended the stream as TLS wants it."""
    peer = play.client.peer
    assert isinstance(peer, TlsPeer)
    assert peer.ended == "fin"
    assert peer.heard_close
