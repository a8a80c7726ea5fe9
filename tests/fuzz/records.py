"""A stream of TLS records as an attacker with the keys would send it, made from any bytes.

For hypothesis (``test_records.py``) and for atheris, which is guided by what the code has not done yet::

    GATEWAY_RELAY=pure python -m tests.fuzz.records -max_total_time=300
"""

from __future__ import annotations

import sys
from array import array

from gateway.protocol.tls.content import (
    ALERT,
    APPLICATION_DATA,
    BROKEN,
    HANDSHAKE,
    MAX_EMPTY_RECORDS,
    MAX_PLAIN_BYTES,
    NOTHING,
)
from gateway.protocol.tls.records import Records
from gateway.protocol.tls.schedule import SUITES, session_of_tls12, session_of_tls13
from gateway.protocol.tls.state import (
    ACCEPTED,
    ANSWER_DUE,
    DIALLED,
    EMPTY_RECORDS,
    HANDSHAKE_HAVE,
    HANDSHAKE_LEFT,
    IN_SEQ,
)
from gateway.protocol.tls.traffic import HASH_BYTES
from tests.protocol.tls.ends import End

_WIRE_BYTES = 64 * 1024
_CASES = [
    *(("TLS_AES_128_GCM_SHA256", 13), ("TLS_AES_256_GCM_SHA384", 13), ("TLS_CHACHA20_POLY1305_SHA256", 13)),
    *(("ECDHE-RSA-AES128-GCM-SHA256", 12), ("ECDHE-RSA-CHACHA20-POLY1305", 12)),
]


class _Script:
    """Bytes as choices; zeros when they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def bytes(self) -> bytes:
        size = self.number()
        piece = self._data[self._at : self._at + size]
        self._at += size
        return piece


def _session(role: int, suite: str, version: int) -> array[int]:
    if version == 13:
        size = HASH_BYTES[SUITES[suite].hash]
        return session_of_tls13(SUITES[suite], role, b"c" * size, b"s" * size)
    return session_of_tls12(SUITES[suite], role, b"m" * 48, b"c" * 32, b"s" * 32, bytes(8))


def play(data: bytes) -> None:
    """Send what ``data`` describes, in pieces that it describes, and check what every stream of records keeps to.

    :raises AssertionError: it did not
    """
    script = _Script(data)
    suite, version = _CASES[script.number() % len(_CASES)]
    peer_role = script.number() % 2
    peer = End(_session(DIALLED if peer_role else ACCEPTED, suite, version))
    cells = memoryview(array("q", _session(ACCEPTED if peer_role else DIALLED, suite, version)))
    wire = bytearray(_WIRE_BYTES)
    records = Records(wire)
    sent = received = half = b""
    while script and not records.event:
        piece, is_data = _next(script, peer, version)
        if is_data is not None:
            sent += is_data
        step = 1 + script.number() if script.number() % 4 else len(piece) or 1
        for start in range(0, len(piece), step):
            half += piece[start : start + step]
            if len(half) > _WIRE_BYTES:
                return
            wire[: len(half)] = half
            sink = bytearray(len(half))
            got = records.open(cells, 0, 0, len(half), sink, 0)
            assert 0 <= got <= len(half)
            assert len(sink) == len(half), "it wrote beyond the room that it was given"
            assert 0 <= records.used <= len(half)
            received += sink[:got]
            half = half[records.used :]
            assert cells[EMPTY_RECORDS] <= MAX_EMPTY_RECORDS + 1
            assert 0 <= cells[HANDSHAKE_HAVE] <= 4
            assert 0 <= cells[HANDSHAKE_LEFT] < 1 << 24
            assert cells[IN_SEQ] >= 0
            if records.event:
                assert records.event != BROKEN or records.alert
                break
            records.answer(cells, 0)
            assert not cells[ANSWER_DUE]
    assert sent.startswith(received), "what was received is not what was sent"
    if records.event == NOTHING and not half:
        assert sent == received


def _next(script: _Script, peer: End, version: int) -> tuple[bytes, bytes | None]:
    """The next bytes on the wire, and the data in them, if any."""
    choice = script.number() % 8
    if choice <= 2:
        data = script.bytes() * (1 + script.number() % 100)
        if choice == 2:
            data = data[:MAX_PLAIN_BYTES]
            return peer.record(APPLICATION_DATA, data), data
        return peer.send(data[:MAX_PLAIN_BYTES]), data[:MAX_PLAIN_BYTES]
    if choice == 3 and version == 13:
        return peer.update_keys(script.number() % 3), None
    if choice == 4:
        return peer.record(HANDSHAKE, script.bytes()), None
    if choice == 5:
        kind = script.number()  # 0 is padding: what is before it would be the type
        return peer.record(kind if kind not in (0, APPLICATION_DATA) else ALERT, script.bytes()), None
    if choice == 6:  # changed on its way
        record = bytearray(peer.send(script.bytes() or b"x"))
        record[script.number() % len(record)] ^= 1 << script.number() % 8
        return bytes(record), None
    return script.bytes(), None


if __name__ == "__main__":
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, play)
    atheris.Fuzz()
