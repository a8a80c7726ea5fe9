"""One end of a connection of our making, with buffers: for tests of records."""

from __future__ import annotations

from array import array

from gateway.protocol.tls import state
from gateway.protocol.tls.content import HANDSHAKE, KEY_UPDATE
from gateway.protocol.tls.protection import Protection
from gateway.protocol.tls.records import Records
from gateway.protocol.tls.schedule import next_keys
from tests.protocol.tls.openssl import Pair

WIRE_BYTES = 200 * 1024
AT = 2


class End:
    """A session and what is on its way."""

    def __init__(self, session: array[int]) -> None:
        self.cells = memoryview(array("q", [7, 7, *session]))  # not at the start: offsets count
        self.wire = bytearray(WIRE_BYTES)
        self.records = Records(self.wire)
        self.half = b""
        self.now = 5_000_000_000

    def __getitem__(self, cell: int) -> int:
        return self.cells[AT + cell]

    def __setitem__(self, cell: int, value: int) -> None:
        self.cells[AT + cell] = value

    def send(self, data: bytes) -> bytes:
        return bytes(self.wire[: self.records.seal(self.cells, AT, bytearray(data), 0, len(data), self.now)])

    def send_large(self, data: bytes) -> bytes:
        """Send in records as large as may be, as OpenSSL does it."""
        self[state.BURST_BYTES] = 1 << 30
        self[state.SENT_NS] = self.now
        return self.send(data)

    def close(self) -> bytes:
        return bytes(self.wire[: self.records.close(self.cells, AT)])

    def refuse(self, description: int) -> bytes:
        return bytes(self.wire[: self.records.refuse(self.cells, AT, description)])

    def answer(self) -> bytes:
        return bytes(self.wire[: self.records.answer(self.cells, AT)])

    def record(self, kind: int, data: bytes) -> bytes:
        """A record of any type, which the gateway itself would not send."""
        size = Protection().seal(self.cells, AT, kind, bytearray(data), 0, len(data), self.wire, 0)
        self[state.OUT_SEQ] += 1
        return bytes(self.wire[:size])

    def update_keys(self, wanted: int) -> bytes:
        """Announce new keys. :param wanted: whether the peer is asked for its own (RFC 8446 4.6.3)"""
        wire = self.record(HANDSHAKE, bytes((KEY_UPDATE, 0, 0, 1, wanted)))
        next_keys(self.cells, AT, state.OUT)
        return wire

    def read(self, wire: bytes) -> bytes:
        """What comes of bytes from the network; half a record is kept."""
        data = self.half + wire
        self.wire[: len(data)] = data
        sink = bytearray(len(data) + 16)
        got = self.records.open(self.cells, AT, 0, len(data), sink, 16)
        self.half = data[self.records.used :]
        return bytes(sink[16 : 16 + got])


class Ends:
    """Both ends of one connection, of OpenSSL's making and of ours."""

    def __init__(self, suite: str) -> None:
        self.openssl = Pair(suite)
        self.server = End(self.openssl.accepted)
        self.client = End(self.openssl.dialled)
