"""Pings of the gateway's own beside whatever endpoints say: both receive exactly what the other sent.

The endpoints are the protocol cores of ``websockets`` and ``wsproto``, which send, mask, answer Pings and judge what
they receive as in any program; sockets, cuts and the moments of injection are hypothesis's.

As of 1.3.2, wsproto forgets that a message is compressed when a control frame comes between its fragments, as other
libraries do or did (aiohttp, Tornado, libwebsockets). The gateway sends no Ping there; nor do the endpoints here send
wsproto such messages in the property test, as their own control frames would spoil them.
"""

from __future__ import annotations

import itertools
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import PerMessageDeflate as WebsocketsDeflate
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate

from gateway.tunnels.table.layout import BACKEND_SIDE, CLIENT, PING_TAG, PINGS_SENT, SIDES
from tests.support.examples import examples
from tests.support.frames import CLOSE, PING, PONG

from .harness import Rig, Tunnel
from .wire import split

BOTH = (CLIENT, BACKEND_SIDE)


# --- the libraries ----------------------------------------------------------------------------------------------------


class Endpoint(ABC):
    """One end of a WebSocket connection: what it has sent, what it has received."""

    def __init__(self, side: int, deflate: bool) -> None:
        self.outgoing = bytearray()
        self.sent: list[tuple[bool, bytes]] = []
        """messages: whether it is text, payload"""
        self.received: list[tuple[bool, bytes]] = []
        self.pings: list[bytes] = []
        """it has sent"""
        self.pongs: list[bytes] = []
        """it has received"""
        self.asked: list[tuple[bytes, bool]] = []
        """Pings that it has received, and whether a message was unfinished then"""
        self.closed = False
        """whether it received a Close frame"""
        self.fragment: tuple[bool, bytes] | None = None
        """of a message that it has begun to send"""
        self.partial: bytes | None = None
        """of a message that it has begun to receive"""

    def data(self, text: bool, payload: bytes, fin: bool) -> None:
        """Send a frame of a message: the first says what it is."""
        first = self.fragment is None
        text, before = self.fragment or (text, b"")
        self.fragment = None if fin else (text, before + payload)
        if fin:
            self.sent.append((text, before + payload))
        self._data(text, payload, fin, first)
        self._flush()

    def ping(self, payload: bytes) -> None:
        self.pings.append(payload)
        self._ping(payload)
        self._flush()

    def pong(self, payload: bytes) -> None:
        """Send one that nobody asked for."""
        self._pong(payload)
        self._flush()

    def close(self) -> None:
        """Say goodbye."""
        self._close()
        self._flush()

    def feed(self, data: bytes) -> None:
        """Receive bytes."""
        self._feed(data)
        self._flush()

    def _came(self, text: bool, payload: bytes, fin: bool) -> None:
        self.partial = (self.partial or b"") + payload
        if fin:
            self.received.append((text, self.partial))
            self.partial = None

    @abstractmethod
    def _flush(self) -> None:
        """Move what the library wants sent to ``outgoing``."""

    @abstractmethod
    def _data(self, text: bool, payload: bytes, fin: bool, first: bool) -> None: ...

    @abstractmethod
    def _ping(self, payload: bytes) -> None: ...

    @abstractmethod
    def _pong(self, payload: bytes) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...

    @abstractmethod
    def _feed(self, data: bytes) -> None: ...


class Websockets(Endpoint):
    """``websockets``: it answers Pings by itself."""

    def __init__(self, side: int, deflate: bool) -> None:
        super().__init__(side, deflate)
        self._protocol = (
            ClientProtocol(parse_uri("ws://localhost/"), state=State.OPEN, max_size=None)
            if side == CLIENT
            else ServerProtocol(state=State.OPEN, max_size=None)
        )
        if deflate:
            self._protocol.extensions = [WebsocketsDeflate(False, False, 15, 15)]
        self._text = False

    def _data(self, text: bool, payload: bytes, fin: bool, first: bool) -> None:
        if not first:
            self._protocol.send_continuation(payload, fin)
        elif text:
            self._protocol.send_text(payload, fin)
        else:
            self._protocol.send_binary(payload, fin)

    def _ping(self, payload: bytes) -> None:
        self._protocol.send_ping(payload)

    def _pong(self, payload: bytes) -> None:
        self._protocol.send_pong(payload)

    def _close(self) -> None:
        self._protocol.send_close(1000)

    def _feed(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        assert self._protocol.parser_exc is None, self._protocol.parser_exc
        for frame in self._protocol.events_received():
            if frame.opcode is Opcode.PING:
                self.asked.append((bytes(frame.data), self.partial is not None))
            elif frame.opcode is Opcode.PONG:
                self.pongs.append(bytes(frame.data))
            elif frame.opcode is Opcode.CLOSE:
                self.closed = True
            else:
                self._text = frame.opcode is Opcode.TEXT or (frame.opcode is Opcode.CONT and self._text)
                self._came(self._text, bytes(frame.data), frame.fin)

    def _flush(self) -> None:
        self.outgoing += b"".join(self._protocol.data_to_send())


class Wsproto(Endpoint):
    """``wsproto``: its user answers Pings, here each as it comes."""

    def __init__(self, side: int, deflate: bool) -> None:
        super().__init__(side, deflate)
        extensions = []
        if deflate:
            extensions.append(WsprotoDeflate())
            extensions[0].finalize("permessage-deflate")
        kind = ConnectionType.CLIENT if side == CLIENT else ConnectionType.SERVER
        self._connection = Connection(kind, extensions)

    def _data(self, text: bool, payload: bytes, fin: bool, first: bool) -> None:
        event = (
            TextMessage(payload.decode(), message_finished=fin) if text else BytesMessage(payload, message_finished=fin)
        )
        self.outgoing += self._connection.send(event)

    def _ping(self, payload: bytes) -> None:
        self.outgoing += self._connection.send(Ping(payload))

    def _pong(self, payload: bytes) -> None:
        self.outgoing += self._connection.send(Pong(payload))

    def _close(self) -> None:
        self.outgoing += self._connection.send(CloseConnection(1000))

    def _feed(self, data: bytes) -> None:
        self._connection.receive_data(data)
        for event in self._connection.events():
            if isinstance(event, Ping):
                self.asked.append((bytes(event.payload), self.partial is not None))
                self._answer(event)
            elif isinstance(event, Pong):
                self.pongs.append(bytes(event.payload))
            elif isinstance(event, CloseConnection):
                assert event.code == 1000, event.reason
                self.closed = True
                if self._connection.state is ConnectionState.REMOTE_CLOSING:
                    self.outgoing += self._connection.send(event.response())
            else:
                assert isinstance(event, Message)
                payload = event.data.encode() if isinstance(event.data, str) else bytes(event.data)
                self._came(isinstance(event, TextMessage), payload, event.message_finished)

    def _answer(self, ping: Ping) -> None:
        if self._connection.state is ConnectionState.OPEN:
            self.outgoing += self._connection.send(ping.response())

    def _flush(self) -> None:
        """Whatever it is asked, it gives the bytes at once."""


class LazyWsproto(Wsproto):
    """The same, answering only the latest Ping of what it reads at once (RFC 6455 section 5.5.3)."""

    _latest: Ping | None = None

    def _answer(self, ping: Ping) -> None:
        self._latest = ping

    def _feed(self, data: bytes) -> None:
        super()._feed(data)
        if self._latest is not None:
            super()._answer(self._latest)
            self._latest = None


LIBRARIES: dict[str, Callable[[int, bool], Endpoint]] = {
    "websockets": Websockets,
    "wsproto": Wsproto,
    "lazy wsproto": LazyWsproto,
}
both_libraries = pytest.mark.parametrize(
    ("client", "backend"), [pair for pair in itertools.product(LIBRARIES, repeat=2) if pair != ("lazy wsproto",) * 2]
)


# --- between them -----------------------------------------------------------------------------------------------------


class Link:
    """Two endpoints, the tunnel between them, and the gateway's Pings."""

    def __init__(self, rig: Rig, client: str, backend: str, *, deflate: bool, family: str, buffers: int | None) -> None:
        self.rig = rig
        self.deflate = deflate
        self.tunnel: Tunnel = rig.open(family, buffers=buffers)
        self.endpoints = LIBRARIES[client](CLIENT, deflate), LIBRARIES[backend](BACKEND_SIDE, deflate)
        self.wire = bytearray(), bytearray()
        """what each side has sent"""
        self.injected: tuple[list[bytes], list[bytes]] = ([], [])
        """what Pings to each side carried"""

    def write(self, side: int, limit: int) -> int:
        """A side sends some of what it has to send; how much that was."""
        outgoing = self.endpoints[side].outgoing
        sent = self.tunnel.peer(side).send(outgoing[:limit])
        self.wire[side].extend(outgoing[:sent])
        del outgoing[:sent]
        return sent

    def read(self, side: int, limit: int) -> int:
        """A side reads; how much that was."""
        peer = self.tunnel.peer(side)
        before = len(peer.received)
        got = peer.read(limit)
        if got:
            self.endpoints[side].feed(bytes(peer.received[before:]))
        return got

    def data(self, side: int, text: bool, payload: bytes, fin: bool) -> None:
        """A side sends a frame of a message."""
        whole = self.deflate and isinstance(self.endpoints[1 - side], Wsproto)
        self.endpoints[side].data(text, payload, fin or whole)

    def inject(self, side: int) -> bool:
        """Have the gateway send a side a Ping, if it may."""
        if not self.rig.relay.ping(self.tunnel.row, side):
            return False
        tag, number = self.tunnel.side(side, PING_TAG), self.tunnel.side(side, PINGS_SENT)
        self.injected[side].append(tag.to_bytes(4, "big") + number.to_bytes(4, "big"))
        return True

    def assert_clean(self) -> None:
        """What is in the process's hands is pending, and nothing else is."""
        assert self.tunnel.dirty == any(self.tunnel.pending)

    def drain(self) -> None:
        """Let everything arrive that is under way."""

        def moved() -> int:
            return sum(self.write(side, 1 << 20) + self.read(side, 1 << 20) for side in BOTH)

        quiet = 0
        while quiet < 3:
            quiet = 0 if moved() or self.rig.waiting() or any(self.tunnel.pending) else quiet + 1
            self.rig.serve(0.001 if quiet else 0)
        self.assert_clean()

    def assert_heard_each_other(self) -> None:
        """Each has received what the other sent, byte for byte, but for the Pings of the gateway and what they got."""
        for side in BOTH:
            mine, other = self.endpoints[side], self.endpoints[1 - side]
            assert mine.received == other.sent
            assert not set(mine.pongs) & {*self.injected[side], *self.injected[1 - side]}
            arrived = split(bytes(self.tunnel.peer(side).received))
            sent = split(bytes(self.wire[1 - side]))
            assert without(arrived, PING, self.injected[side]) == without(sent, PONG, self.injected[1 - side])
            assert [payload for payload, _ in mine.asked if payload in self.injected[side]] == self.injected[side]
            totals = self.rig.totals(side)
            assert totals.pings == len(self.injected[side])
            assert totals.bytes == sum(map(len, without(split(bytes(self.wire[side])), PONG, self.injected[side])))
            assert totals.violations == 0

    def assert_pings_answered(self) -> None:
        """Each endpoint's Pings have their Pongs, in order; from one that answers the latest, that to the latest."""
        for side in BOTH:
            mine = self.endpoints[side]
            answers = [payload for payload in mine.pongs if payload[:1] == b"?"]
            if isinstance(self.endpoints[1 - side], LazyWsproto):
                assert answers[-1:] == mine.pings[-1:]
            else:
                assert answers == mine.pings
                assert self.rig.totals(1 - side).pongs == len(self.injected[1 - side])


def without(frames: list[bytes], opcode: int, payloads: list[bytes]) -> list[bytes]:
    """``frames`` less control frames with one of these payloads."""
    return [each for each in frames if each[0] != 0x80 | opcode or unmasked(each) not in payloads]


def unmasked(control: bytes) -> bytes:
    """The payload of a control frame."""
    if not control[1] & 0x80:
        return control[2:]
    return bytes(byte ^ control[2 + i % 4] for i, byte in enumerate(control[6:]))


# --- any traffic ------------------------------------------------------------------------------------------------------

SIZES = st.sampled_from([0, 1, 2, 8, 125, 126, 127, 1000, 20_000]) | st.integers(0, 300)
SIDE = st.sampled_from(BOTH)
FEW = st.sampled_from([1, 2, 5, 9, 13, 14, 100, 5000])
STEPS = st.one_of(
    st.tuples(st.just("data"), SIDE, st.booleans(), SIZES, st.booleans()),
    st.tuples(st.just("ping"), SIDE, st.sampled_from([0, 1, 7, 124]) | st.integers(0, 124)),
    st.tuples(st.just("pong"), SIDE, st.binary(max_size=125)),
    st.tuples(st.just("write"), SIDE, FEW),
    st.tuples(st.just("write"), SIDE, st.just(1 << 20)),
    st.tuples(st.just("drip"), SIDE, st.sampled_from([1, 2, 3, 7, 11])),
    st.tuples(st.just("read"), SIDE, FEW),
    st.tuples(st.just("read"), SIDE, st.just(1 << 20)),
    st.tuples(st.just("serve")),
)
INJECTIONS = st.sampled_from([(), (CLIENT,), (BACKEND_SIDE,), BOTH])


def take(link: Link, step: tuple[object, ...], serial: int) -> None:
    """Do one step."""
    match step:
        case ("data", int(side), bool(text), int(size), bool(fin)):
            link.data(side, text, (b"%06d " % serial * (size // 7 + 1))[:size], fin)
        case ("ping", int(side), int(size)):
            link.endpoints[side].ping((b"?%06d" % serial).ljust(size + 1, b".")[: max(size + 1, 7)])
        case ("pong", int(side), bytes(payload)):
            link.endpoints[side].pong(b"!" + payload[:124])
        case ("write", int(side), int(limit)):
            link.write(side, limit)
        case ("drip", int(side), int(limit)):
            for _ in range(20):
                link.write(side, limit)
                link.rig.serve()
        case ("read", int(side), int(limit)):
            link.read(side, limit)
        case _:
            link.rig.serve()


@both_libraries
@settings(
    deadline=None, max_examples=examples(100), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(
    steps=st.lists(st.tuples(STEPS, INJECTIONS), max_size=80),
    deflate=st.booleans(),
    wire=st.sampled_from([("unix", None), ("unix", 8 * 1024), ("tcp", None), ("tcp", 32 * 1024)]),
    closer=SIDE,
)
def test_both_receive_exactly_what_the_other_sent(
    client: str,
    backend: str,
    steps: list[tuple[tuple[object, ...], tuple[int, ...]]],
    deflate: bool,
    wire: tuple[str, int | None],
    closer: int,
) -> None:
    with closing(Rig()) as rig:
        link = Link(rig, client, backend, deflate=deflate, family=wire[0], buffers=wire[1])
        for serial, (step, injections) in enumerate(steps):
            take(link, step, serial)
            if step[0] == "write":
                rig.serve()
            for side in injections:
                link.inject(side)
            link.assert_clean()
        for side in BOTH:
            if link.endpoints[side].fragment is not None:
                link.endpoints[side].data(False, b"", True)
        link.drain()
        # Nothing is under way any more, so that each may be asked once more.
        for side in BOTH:
            assert link.inject(side)
        link.drain()
        link.assert_heard_each_other()
        link.assert_pings_answered()
        say_goodbye(link, closer)


def say_goodbye(link: Link, closer: int) -> None:
    """The endpoints close, with a Ping of the gateway's just before."""
    link.inject(1 - closer)
    link.inject(closer)
    link.endpoints[closer].close()
    link.drain()
    for side in BOTH:
        assert not link.inject(side)
        assert link.endpoints[side].closed
        assert split(bytes(link.tunnel.peer(side).received))[-1][0] == 0x80 | CLOSE
    link.assert_heard_each_other()
    for side in BOTH:
        link.tunnel.peer(side).half_close()
    end = link.rig.end()
    assert (end.initiator, end.cause) == (SIDES[closer], "close_frame")


# --- long messages ----------------------------------------------------------------------------------------------------

LONG = 16 << 20
FRAGMENT = 1 << 18


def megabytes(seed: int) -> bytes:
    """As much as a long message has, some of which can be compressed."""
    rng = random.Random(seed)
    return b"".join(rng.randbytes(1 << 12) + bytes(7 << 12) for _ in range(LONG >> 15))


def fragments(message: bytes) -> list[tuple[bytes, bool]]:
    """Payloads of its frames, and whether each is the last."""
    starts = range(0, len(message), FRAGMENT)
    return [(message[start : start + FRAGMENT], start + FRAGMENT >= len(message)) for start in starts]


def assert_intact(endpoint: Endpoint, message: bytes) -> None:
    """The one message that it received is this."""
    ((text, payload),) = endpoint.received
    assert not text
    assert sha256(payload).digest() == sha256(message).digest()


@pytest.mark.parametrize(("client", "backend"), [("websockets", "wsproto"), ("wsproto", "websockets")])
def test_pings_between_the_fragments_of_long_messages(rig: Rig, client: str, backend: str) -> None:
    """Both ways at once: a Ping behind each fragment, and its Pong, which arrives between two of the other message."""
    link = Link(rig, client, backend, deflate=False, family="unix", buffers=1 << 20)
    messages = [megabytes(side) for side in BOTH]
    for pair in zip(fragments(messages[CLIENT]), fragments(messages[BACKEND_SIDE]), strict=True):
        for side in BOTH:
            link.data(side, False, *pair[side])
        link.drain()
        assert link.inject(CLIENT)
        assert link.inject(BACKEND_SIDE)
    link.drain()
    for side in BOTH:
        endpoint = link.endpoints[side]
        assert_intact(endpoint, messages[1 - side])
        assert [each for each, _ in endpoint.asked] == link.injected[side]
        assert sum(inside for _, inside in endpoint.asked) == LONG // FRAGMENT - 1
        assert endpoint.pongs == []
        totals = rig.totals(side)
        assert totals.pings == totals.pongs == LONG // FRAGMENT
        assert totals.frames.get(PONG, 0) == totals.frames.get(PING, 0) == 0


@pytest.mark.parametrize("sender", BOTH, ids=SIDES)
@pytest.mark.parametrize(("client", "backend"), [("websockets", "wsproto"), ("wsproto", "websockets")])
def test_pings_beside_the_fragments_of_long_compressed_messages(
    rig: Rig, client: str, backend: str, sender: int
) -> None:
    """Its sender is asked behind each fragment, and none of its Pongs gets among them; its receiver when it is over."""
    link = Link(rig, client, backend, deflate=True, family="unix", buffers=1 << 20)
    message = megabytes(sender)
    for payload, fin in fragments(message):
        link.endpoints[sender].data(False, payload, fin)
        link.drain()
        assert link.inject(sender)
        assert link.inject(1 - sender) == fin
    link.drain()
    assert_intact(link.endpoints[1 - sender], message)
    assert len(link.endpoints[sender].asked) == rig.totals(sender).pongs == LONG // FRAGMENT
    assert len(link.endpoints[1 - sender].asked) == rig.totals(1 - sender).pongs == 1
    assert link.endpoints[CLIENT].pongs == link.endpoints[BACKEND_SIDE].pongs == []
    # Compressed messages that are whole are no obstacle, nor is one that is fragmented without compression.
    link.endpoints[sender].data(True, b"short", True)
    link.drain()
    assert link.inject(1 - sender)


def test_a_message_of_one_frame_is_never_broken_into(rig: Rig) -> None:
    """Sixteen mebibytes at once, and a Ping wanted at every turn of the loop."""
    link = Link(rig, "websockets", "websockets", deflate=False, family="unix", buffers=1 << 18)
    message = megabytes(0)
    link.endpoints[BACKEND_SIDE].data(False, message, True)
    refused = 0
    while len(link.endpoints[CLIENT].received) < 1:
        link.write(BACKEND_SIDE, 1 << 20)
        rig.serve()
        refused += not link.inject(CLIENT)
        link.read(CLIENT, 1 << 20)
    link.drain()
    assert refused > 10
    assert link.endpoints[CLIENT].received == [(False, message)]
    assert link.inject(CLIENT)
    link.drain()
    assert [each for each, _ in link.endpoints[CLIENT].asked] == link.injected[CLIENT]
    assert rig.totals(CLIENT).pongs == len(link.injected[CLIENT])
    assert link.endpoints[BACKEND_SIDE].pongs == []
