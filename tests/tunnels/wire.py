"""Frames as bytes, put together, taken apart and cut to pieces."""

from __future__ import annotations

import random
from collections.abc import Iterator

from gateway.tunnels.relay.poller import RECEIVE_BUFFER_BYTES
from tests.support import frames
from tests.support.frames import CLOSE

KEY = b"\x5a\x00\xff\x01"


def frame(opcode: int, payload: bytes = b"", *, masked: bool = False, fin: bool = True, rsv: int = 0) -> bytes:
    """A frame as a client sends it (masked) or a server."""
    return frames.frame(opcode, payload, KEY if masked else None, fin, rsv)


def closing(code: int, *, masked: bool) -> bytes:
    """A Close frame as an endpoint sends it."""
    return frame(CLOSE, frames.close(code), masked=masked)


def close_frames(data: bytes) -> list[tuple[int, bool]]:
    """Code and whether it was masked, of each Close frame in ``data``, which holds nothing else."""
    found = []
    while data:
        assert data[0] == 0x80 | CLOSE, f"not a Close frame: {data[:20]!r}"
        size = data[1] & 0x7F
        masked = bool(data[1] & 0x80)
        key = data[2:6] if masked else bytes(4)
        at = 6 if masked else 2
        payload = bytes(byte ^ key[i % 4] for i, byte in enumerate(data[at : at + size]))
        assert len(payload) == size == 2, f"a Close frame with something other than a code: {data[:20]!r}"
        found.append((int.from_bytes(payload, "big"), masked))
        data = data[at + size :]
    return found


def split(data: bytes) -> list[bytes]:
    """The frames in ``data``, none of them longer than 64 KiB."""
    found = []
    at = 0
    while at < len(data):
        size = data[at + 1] & 0x7F
        head = 2
        if size == 126:
            size = int.from_bytes(data[at + 2 : at + 4], "big")
            head = 4
        end = at + head + (4 if data[at + 1] & 0x80 else 0) + size
        found.append(data[at:end])
        at = end
    return found


def ends_of(frames: list[bytes]) -> list[int]:
    """Where each of ``frames`` ends when they follow each other."""
    found = []
    at = 0
    for one in frames:
        at += len(one)
        found.append(at)
    return found


def cut(data: bytes, style: str, seed: int) -> Iterator[memoryview]:
    """``data`` in pieces as TCP may cut it. :param style: ``bytes``, ``small``, ``mixed`` or ``whole``"""
    rng = random.Random(seed)
    view = memoryview(data)
    pieces = 0
    while view:
        if style == "bytes" and pieces < 500:
            size = 1
        elif style == "small" and pieces < 500:
            size = rng.randint(1, 20)
        elif style == "mixed":
            size = rng.choice((1, 2, 13, 14, 15, 1000, RECEIVE_BUFFER_BYTES, rng.randint(1, 1 << 18)))
        else:
            size = len(view)
        yield view[:size]
        view = view[size:]
        pieces += 1
