"""The chunked coding read slowly, byte by byte and by the grammar's own rules; independent of the gateway's code."""

from __future__ import annotations

import re
import string
from collections.abc import Generator

TOKEN = set(b"!#$%&'*+-.^_`|~" + (string.ascii_letters + string.digits).encode())
TEXT = {0x09, *range(0x20, 0x7F), *range(0x80, 0x100)}
HEXADECIMAL = set(string.hexdigits.encode())


class Malformed(Exception):
    """The byte that came last can be in no body of this kind."""


Reader = Generator[None, int, bytes]


def reader(padded: bool, refused: frozenset[bytes]) -> Reader:
    """Takes one byte at a time by ``send``; returns the content behind the body's last byte.

    :raises Malformed: at the first byte that may not be there
    """
    content = bytearray()
    while True:
        digits = bytearray()
        byte = yield
        while byte in HEXADECIMAL:
            digits.append(byte)
            if int(digits, 16) > 2**63 - 1:
                raise Malformed
            byte = yield
        if not digits:
            raise Malformed
        spaces = 0
        while byte in b" \t":
            spaces += 1
            byte = yield
        if byte == ord(";"):
            byte = yield
            while byte in TEXT:
                byte = yield
        elif spaces and not padded:
            raise Malformed
        if byte != ord("\r"):
            raise Malformed
        expect(b"\n", (yield))
        size = int(digits, 16)
        if size == 0:
            break
        for _ in range(size):
            content.append((yield))
        expect(b"\r", (yield))
        expect(b"\n", (yield))
    while (byte := (yield)) != ord("\r"):
        name = bytearray()
        while byte in TOKEN:
            name.append(byte)
            byte = yield
        if not name or byte != ord(":") or re.sub(rb"[^a-z0-9]", b"-", bytes(name).lower()) in refused:
            raise Malformed
        while (byte := (yield)) != ord("\r"):
            if byte not in TEXT:
                raise Malformed
        expect(b"\n", (yield))
    expect(b"\n", (yield))
    return bytes(content)


def expect(wanted: bytes, byte: int) -> None:
    if byte != wanted[0]:
        raise Malformed


def read(data: bytes, padded: bool, refused: frozenset[bytes]) -> tuple[str, int, bytes]:
    """What becomes of ``data``: "whole" with the index behind its end and its content, or "malformed" or "partial"."""
    reading = reader(padded, refused)
    next(reading)
    for at, byte in enumerate(data):
        try:
            reading.send(byte)
        except StopIteration as done:
            return "whole", at + 1, done.value
        except Malformed:
            return "malformed", 0, b""
    return "partial", len(data), b""
