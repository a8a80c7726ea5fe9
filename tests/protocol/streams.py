"""Streams of WebSocket frames for the scanner, and what is to be seen in them; independent of the gateway's code."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import strategies as st

from gateway.protocol.scanner import FrameScanner
from gateway.protocol.scanner_state import FRAMES

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
KEY = bytes.fromhex("37fa213d")
BIG = bytes(range(256)) * 4096


def header(opcode, size, masked, fin=True, rsv=0, form=None):
    """A frame's first bytes. :param form: 7, 16 or 64 bits of length, whatever the size needs"""
    if form is None:
        form = 7 if size < 126 else 16 if size < 65536 else 64
    first = fin << 7 | rsv << 4 | opcode
    mask = masked << 7
    if form == 7:
        data = struct.pack("!BB", first, mask | size)
    elif form == 16:
        data = struct.pack("!BBH", first, mask | 126, size)
    else:
        data = struct.pack("!BBQ", first, mask | 127, size)
    return data + KEY if masked else data


def frame(opcode, payload, masked, fin=True, rsv=0):
    """A whole frame."""
    if masked and len(payload) <= 125:
        payload = bytes(byte ^ KEY[i % 4] for i, byte in enumerate(payload))
    # A long payload may as well be what it looks like when masked.
    return header(opcode, len(payload), masked, fin, rsv) + payload


@dataclass
class Stream:
    """Bytes of one direction, and what is in them."""

    masked: bool
    data: bytearray = field(default_factory=bytearray)
    boundaries: list[int] = field(default_factory=lambda: [0])
    opcodes: list[int] = field(default_factory=list)
    close_code: int | None = None

    def add(self, opcode, payload, fin=True, rsv=0):
        """Append a frame."""
        self.data += frame(opcode, payload, self.masked, fin, rsv)
        self.boundaries.append(len(self.data))
        self.opcodes.append(opcode)
        if opcode == CLOSE:
            self.close_code = int.from_bytes(payload[:2], "big") if payload else 1005

    def frames(self, upto=None):
        """Frames by opcode, in all or as far as their headers are in the first ``upto`` bytes."""
        if upto is None:
            return dict(Counter(self.opcodes))
        sizes = [self.header_size(at) for at in self.boundaries[:-1]]
        whole = [at + size <= upto for at, size in zip(self.boundaries, sizes, strict=False)]
        return dict(Counter(op for op, seen in zip(self.opcodes, whole, strict=True) if seen))

    def header_size(self, at):
        """Bytes of the header that begins at ``at``."""
        return 2 + {126: 2, 127: 8}.get(self.data[at + 1] & 0x7F, 0) + 4 * self.masked


SIZES = st.sampled_from([0, 1, 2, 7, 13, 14, 15, 124, 125, 126, 127, 128]) | st.integers(0, 300)
BIG_SIZES = st.sampled_from([65535, 65536, 65537, 1 << 20])
RSV = st.integers(0, 7)
CONTROL = st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125))
CLOSES = (
    st.none()
    | st.just(b"")
    | st.tuples(st.integers(0, 65535), st.binary(max_size=123)).map(
        lambda close: close[0].to_bytes(2, "big") + close[1]
    )
)


@st.composite
def streams(draw, masked=None, sizes=SIZES, closes=CLOSES):
    """Messages, whole or in fragments, control frames anywhere between, perhaps a Close at the end."""
    stream = Stream(draw(st.booleans()) if masked is None else masked)
    for opcode in draw(st.lists(st.sampled_from([TEXT, BINARY]), max_size=5)):
        fragments = draw(st.lists(sizes, min_size=1, max_size=3))
        for i, size in enumerate(fragments):
            last = i == len(fragments) - 1
            stream.add(CONTINUATION if i else opcode, BIG[:size], last, draw(RSV))
            if draw(st.booleans()):
                control, payload = draw(CONTROL)
                stream.add(control, payload)
    if (close := draw(closes)) is not None:
        stream.add(CLOSE, close)
    return stream


@st.composite
def chunkings(draw, data, most=8):
    """``data`` in pieces."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=most)))
    return [bytes(data[start:end]) for start, end in pairwise([0, *cuts, len(data)])]


def one_by_one(data):
    """``data`` in single bytes."""
    return [bytes(data[at : at + 1]) for at in range(len(data))]


def scanned(chunks, masked, now=5):
    """A scanner that was fed these chunks."""
    scanner = FrameScanner(masked=masked)
    for chunk in chunks:
        scanner.feed(chunk, now)
    return scanner


def seen(scanner):
    """All that a scanner tells."""
    return {
        "frames": scanner.frames,
        "count": scanner.export_state()[FRAMES],
        "at_boundary": scanner.at_boundary,
        "broken": scanner.broken,
        "closed": scanner.closed,
        "close_code": scanner.close_code,
        "data_at": scanner.data_at,
    }
