"""A text in a ``memfd`` that is replaced atomically: it stays readable if the writer is killed at any moment.

The new text is written beside the current one. Then the 32 bytes at the beginning are overwritten, which hold the
text's offset, length and checksum. A killed process has written those completely or not at all: they are within one
page, and the kernel does not kill a process in the middle of copying to it.
"""

from __future__ import annotations

import os
import struct
import zlib

MAGIC = 0x6774_7761_7972_6531  # "gtwayre1"
_HEAD = struct.Struct("=QQQQ")  # magic, where the text begins, its length and checksum
FIRST_BYTE = 4096


def create() -> int:
    """Create an empty record; return its descriptor. :raises OSError: no descriptor is left"""
    fd = os.memfd_create("gateway-record")
    write(fd, b"")
    return fd


def write(fd: int, text: bytes) -> None:
    """Replace the text. :raises OSError: there is no room; the text is unchanged"""
    size = os.fstat(fd).st_size
    start = FIRST_BYTE
    if size >= _HEAD.size:
        _, at, length, _ = _HEAD.unpack(os.pread(fd, _HEAD.size, 0))
        if at < FIRST_BYTE + len(text):
            start = at + length
    written = 0
    while written < len(text):
        written += os.pwrite(fd, text[written:], start + written)
    os.pwrite(fd, _HEAD.pack(MAGIC, start, len(text), zlib.crc32(text)), 0)
    os.ftruncate(fd, max(start + len(text), FIRST_BYTE))


def read(fd: int) -> bytes:
    """Read the text. :raises ValueError: there is none, or it is damaged. :raises OSError: it cannot be read"""
    head = os.pread(fd, _HEAD.size, 0)
    if len(head) < _HEAD.size:
        raise ValueError("not a record of the gateway")
    magic, start, length, checksum = _HEAD.unpack(head)
    if magic != MAGIC or start + length > max(os.fstat(fd).st_size, FIRST_BYTE):
        raise ValueError("not a record of the gateway")
    text = b""
    while len(text) < length and (piece := os.pread(fd, length - len(text), start + len(text))):
        text += piece
    if len(text) < length or zlib.crc32(text) != checksum:
        raise ValueError("the gateway's record is damaged")
    return text
