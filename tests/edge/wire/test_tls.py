"""The wire of TLS connections, over a kernel in memory that takes and gives what a test says."""

from __future__ import annotations

import random
from errno import EAGAIN, EPIPE, EPROTO
from typing import Any

import pytest

from gateway.edge.wire.tls import SEAL_BYTES, TlsStream, TlsWire
from gateway.protocol.tls.alerts import BAD_RECORD_MAC
from gateway.protocol.tls.content import CLOSED, FATAL_ALERT
from gateway.protocol.tls.records import Records
from gateway.protocol.tls.state import ANSWER_DUE, OUT_SEQ
from tests.protocol.tls.ends import End
from tests.protocol.tls.openssl import TLS12_SUITES, TLS13_SUITES, Pair

FD = 7
SUITES = pytest.mark.parametrize("suite", [TLS13_SUITES[0], TLS12_SUITES[1]])


class FakeKernel:
    """One socket: what it has received, and how much it takes."""

    def __init__(self) -> None:
        self.buffer = bytearray(128 * 1024 + 16)
        self.wire = bytearray(148 * 1024)
        self.receive_bytes = 128 * 1024
        self.room = 1 << 30
        self.sent = b""
        self.incoming = b""
        self.is_shut = self.is_reset = self.has_fin = False
        self.calls = 0

    def _take(self, data: bytes) -> int:
        self.calls += 1
        taken = min(len(data), self.room)
        self.room -= taken
        self.sent += data[:taken]
        return taken or -EAGAIN

    def write(self, fd: int, data: bytes) -> int:
        return self._take(data)

    def send_wire(self, fd: int, start: int, end: int) -> int:
        return self._take(bytes(self.wire[start:end]))

    def recv_wire(self, fd: int, start: int, end: int) -> int:
        data = self.incoming[: end - start]
        self.incoming = self.incoming[len(data) :]
        self.wire[start : start + len(data)] = data
        return len(data) or (0 if self.has_fin else -EAGAIN)

    def shut(self, fd: int) -> None:
        self.is_shut = True

    def reset(self, fd: int) -> None:
        self.is_reset = True

    def now(self) -> int:
        return 10**12


class FakePoller:
    """What the wire needs of a poller."""

    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.relay = self
        self.records = Records(self.kernel.wire)
        self.wires: dict[int, Any] = {}
        self.recalled: list[int] = []

    def recall(self, fd: int) -> None:
        self.recalled.append(fd)


class Rig:
    """A wire with one connection, and its client."""

    def __init__(self, suite: str) -> None:
        pair = Pair(suite)
        self.poller = FakePoller()
        self.kernel = self.poller.kernel
        self.wire = TlsWire(self.poller)  # type: ignore[arg-type]  # what of it is used
        self.stream = TlsStream(pair.accepted)
        self.wire.attach(FD, self.stream)
        self.client = End(pair.dialled)

    def heard(self) -> bytes:
        """What the client makes of everything sent."""
        sent, self.kernel.sent = self.kernel.sent, b""
        return b"".join(self.client.read(sent[at : at + 100_000]) for at in range(0, len(sent), 100_000))


@SUITES
def test_whole_writes(suite: str) -> None:
    rig = Rig(suite)
    for size in (1, 2000, 200_000):
        data = random.Random(size).randbytes(size)
        assert rig.wire.write(FD, data) == size
        assert rig.heard() == data
    rig.kernel.buffer[5:105] = b"x" * 100
    assert rig.wire.send(FD, 5, 105) == 100
    assert rig.heard() == b"x" * 100


@SUITES
@pytest.mark.parametrize("seed", range(6))
def test_a_socket_that_takes_little(suite: str, seed: int) -> None:
    """The caller passes on what was not taken, with more behind it; each byte arrives once, in order."""
    rng = random.Random(seed)
    rig = Rig(suite)
    expected = b""
    waiting = b""
    heard = b""
    sequence = -1
    for _ in range(60):
        piece = rng.randbytes(rng.choice((1, 500, 20_000, 150_000)))
        expected += piece
        waiting += piece
        rig.kernel.room = rng.choice((0, 1, 30, 5000, 80_000, 1 << 20))
        before = len(rig.kernel.sent)
        sent = rig.wire.write(FD, waiting)
        if sent == -EAGAIN:
            assert len(rig.kernel.sent) == before, "there was progress"
            sent = 0
        assert 0 <= sent <= len(waiting)
        waiting = waiting[sent:]
        heard += rig.heard()
        assert expected.startswith(heard)
        assert rig.stream.cells[OUT_SEQ] >= sequence
        sequence = rig.stream.cells[OUT_SEQ]
    rig.kernel.room = 1 << 30
    while waiting:
        waiting = waiting[rig.wire.write(FD, waiting) :]
    heard += rig.heard()
    assert heard == expected


@SUITES
@pytest.mark.parametrize("room", [1 << 30, 0, 1, 10, 30, 100, 20_000])
def test_the_end_of_a_handshake_goes_with_the_first_data(suite: str, room: int) -> None:
    rig = Rig(suite)
    rig.wire.write(FD, b"tickets ")
    rig.stream.unsent, rig.kernel.sent, rig.kernel.calls = rig.kernel.sent, b"", 0
    rig.kernel.room = room
    waiting = data = random.Random(room).randbytes(100_000 if room == 20_000 else 50)
    sent = rig.wire.write(FD, waiting)
    assert rig.kernel.calls == 1
    waiting = waiting[max(sent, 0) :]
    rig.kernel.room = 1 << 30
    while waiting:
        waiting = waiting[rig.wire.write(FD, waiting) :]
    assert rig.heard() == b"tickets " + data


def test_a_key_update_before_the_first_data_is_answered_behind_it() -> None:
    rig = Rig(TLS13_SUITES[0])
    rig.wire.write(FD, b"tickets ")
    rig.stream.unsent, rig.kernel.sent = rig.kernel.sent, b""
    rig.stream.cells[ANSWER_DUE] = 1
    assert rig.wire.write(FD, b"data") == 4
    assert not rig.stream.cells[ANSWER_DUE]
    assert rig.wire.write(FD, b", and more") == 10
    assert rig.heard() == b"tickets data, and more"


def test_a_caller_that_gives_up_may_send_nothing_else() -> None:
    rig = Rig(TLS13_SUITES[0])
    rig.kernel.room = 10
    assert rig.wire.write(FD, b"a" * 100) == 0
    rig.kernel.room = 1 << 30
    assert rig.wire.write(FD, b"something else, which is not shorter than what was begun to be sent" * 2) == -EPIPE


def test_a_full_socket_gets_no_goodbye_in_the_middle_of_a_record() -> None:
    rig = Rig(TLS13_SUITES[0])
    rig.kernel.room = 10
    rig.wire.write(FD, b"a" * 100)
    rig.wire.end(FD)
    assert rig.kernel.is_shut
    assert len(rig.kernel.sent) == 10


@SUITES
@pytest.mark.parametrize("size", [1, 7, 1000, 64 * 1024])
def test_reading_in_pieces(suite: str, size: int) -> None:
    rig = Rig(suite)
    data = random.Random(1).randbytes(150_000)
    wire = rig.client.send(data[:100_000]) + rig.client.send(data[100_000:])
    wire = wire if size > 7 else wire[:40_000]
    heard = b""
    for at in range(0, len(wire), size):
        rig.kernel.incoming = wire[at : at + size]
        got = rig.wire.receive(FD, 1)
        assert isinstance(got, bytes) or got == EAGAIN
        if isinstance(got, bytes):
            heard += got
        assert rig.wire.is_full(0, 0) == (size == 64 * 1024 and len(wire) - at >= size)
    assert data.startswith(heard)
    assert len(heard) > len(wire) - 17_000
    assert not rig.poller.recalled


@SUITES
def test_an_end_behind_data_comes_with_the_next_read(suite: str) -> None:
    rig = Rig(suite)
    rig.kernel.incoming = rig.client.send(b"the last") + rig.client.close() + b"rubbish"
    assert rig.wire.receive(FD, 1) == b"the last"
    assert rig.poller.recalled == [FD]
    assert rig.wire.has_ended(FD)
    assert rig.wire.receive(FD, 1) == b""
    assert rig.wire.read(FD) == 0
    assert not rig.wire.is_truncated(FD)
    rig.wire.close(FD)
    rig.heard()
    assert rig.client.records.event == CLOSED


@SUITES
def test_fin_without_close_notify(suite: str) -> None:
    rig = Rig(suite)
    rig.kernel.incoming = rig.client.send(b"the last")
    rig.kernel.has_fin = True
    assert rig.wire.read(FD) == 8
    assert rig.wire.read(FD) == 0
    assert rig.wire.is_truncated(FD)


@SUITES
def test_a_record_that_is_not_the_clients(suite: str) -> None:
    rig = Rig(suite)
    good, bad = rig.client.send(b"good"), bytearray(rig.client.send(b"bad"))
    bad[-1] ^= 1
    rig.kernel.incoming = good + bad
    assert rig.wire.receive(FD, 1) == b"good"
    assert rig.wire.receive(FD, 1) == EPROTO
    assert rig.wire.read(FD) == -EPROTO
    rig.heard()
    assert (rig.client.records.event, rig.client.records.alert) == (FATAL_ALERT, BAD_RECORD_MAC)
    rig.wire.close(FD)
    assert rig.kernel.sent == b"", "something follows the alert"


def test_what_came_with_the_handshake() -> None:
    rig = Rig(TLS13_SUITES[0])
    data = random.Random(2).randbytes(200_000)
    wire = rig.client.send(data[:100_000]) + rig.client.send(data[100_000:])
    rig.stream.half = wire[:-5]
    early = rig.wire.early(FD)
    assert isinstance(early, bytes)
    rig.kernel.incoming = wire[-5:]
    rest = rig.wire.receive(FD, 1)
    assert isinstance(rest, bytes)
    assert early + rest == data
    assert Rig(TLS13_SUITES[0]).wire.early(FD) == EAGAIN


def test_key_updates_are_answered_once_while_the_socket_is_full() -> None:
    rig = Rig(TLS13_SUITES[0])
    data = b"d" * (SEAL_BYTES + 5)
    rig.kernel.room = 100
    assert rig.wire.write(FD, data) == 0
    for _ in range(20):
        rig.kernel.incoming = rig.client.update_keys(1)
        assert rig.wire.receive(FD, 1) == EAGAIN
    waiting = len(rig.stream.unsent)
    assert rig.stream.cells[ANSWER_DUE]
    rig.kernel.room = 1 << 30
    assert rig.wire.write(FD, data) == len(data)
    assert waiting < 70_000
    assert rig.heard() == data
    assert not rig.stream.cells[ANSWER_DUE]


def test_a_reset_connection_says_nothing() -> None:
    rig = Rig(TLS13_SUITES[0])
    rig.wire.reset(FD)
    rig.wire.close(FD)
    assert rig.kernel.is_reset
    assert rig.kernel.sent == b""


@pytest.mark.parametrize("how", ["close", "forget"])
def test_keys_are_wiped(how: str) -> None:
    rig = Rig(TLS13_SUITES[0])
    getattr(rig.wire, how)(FD)
    assert not any(rig.stream.cells)
    assert not rig.poller.wires
    assert len(rig.wire) == 0


def test_a_connection_that_goes_on_elsewhere() -> None:
    rig = Rig(TLS13_SUITES[0])
    rig.kernel.incoming = rig.client.send(b"first") + rig.client.send(b"second")[:10]
    assert rig.wire.receive(FD, 1) == b"first"
    stream = rig.wire.detach(FD)
    assert len(stream.half) == 10
    assert any(stream.cells)
    assert not rig.poller.wires
