"""WebSocket frames as bytes (RFC 6455 section 5), the odd ones included."""

from __future__ import annotations

import os
import random
import struct

from websockets.frames import apply_mask

from tests.support.raw import Connection

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(opcode: int, payload: bytes = b"", mask: bytes | None = None, fin: bool = True, rsv: int = 0) -> bytes:
    """One frame. :param mask: four bytes from a client, None from a server"""
    size = len(payload)
    masked = 0x80 if mask is not None else 0
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    if size < 126:
        head = struct.pack("!BB", first, masked | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, masked | 126, size)
    else:
        head = struct.pack("!BBQ", first, masked | 127, size)
    if mask is None:
        return head + payload
    return head + mask + (apply_mask(payload, mask) if payload else b"")


def from_client(opcode: int, payload: bytes = b"", fin: bool = True, rsv: int = 0) -> bytes:
    """A frame as a client sends it."""
    return frame(opcode, payload, os.urandom(4), fin, rsv)


def close(code: int, reason: str = "") -> bytes:
    """The payload of a Close frame."""
    return struct.pack("!H", code) + reason.encode()


async def read_frame(connection: Connection) -> tuple[int, bytes]:
    """The next frame of a connection: opcode and payload, unmasked."""
    first, second = await connection.read(2)
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack("!H", await connection.read(2))
    elif size == 127:
        (size,) = struct.unpack("!Q", await connection.read(8))
    mask = await connection.read(4) if second & 0x80 else b""
    payload = await connection.read(size)
    return first & 0x0F, apply_mask(payload, mask) if mask and payload else payload


def random_stream(seed: int, masked: bool, sizes: list[int]) -> bytes:
    """Frames of every kind: data of ``sizes``, whole and in fragments, control frames between, RSV bits."""
    rng = random.Random(seed)
    pieces = []

    def add(opcode: int, payload: bytes, fin: bool = True) -> None:
        pieces.append(frame(opcode, payload, rng.randbytes(4) if masked else None, fin, rng.choice((0, 0, 4, 2, 7))))

    for size in sizes:
        payload = rng.randbytes(size)
        cuts = sorted(rng.randint(0, size) for _ in range(rng.choice((0, 0, 1, 3))))
        bounds = list(zip([0, *cuts], [*cuts, size], strict=True))
        for at, (start, end) in enumerate(bounds):
            opcode = rng.choice((TEXT, BINARY)) if at == 0 else CONTINUATION
            add(opcode, payload[start:end], fin=at == len(bounds) - 1)
            if rng.random() < 0.5:
                add(rng.choice((PING, PONG)), rng.randbytes(rng.randint(0, 125)))
    return b"".join(pieces)
