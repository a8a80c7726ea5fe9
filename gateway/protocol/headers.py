"""Frame headers in a buffer that no scanner has seen yet: how long their frames are (RFC 6455 5.2).

Compiled by Cython if a C compiler is available (types in ``headers.pxd``), run as it is otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Bytes = bytes | bytearray | memoryview

LONGEST_HEADER = 14
SHORTEST_FRAME = 6
"""Bytes of the shortest frame that a client may send: masked, without payload."""

PARTIAL = -1
_LARGEST = 2**63 - 1


def header_bytes(second: int) -> int:
    """Bytes of a header. :param second: its second byte"""
    size = 6 if second & 0x80 else 2
    if second & 0x7F == 126:
        return size + 2
    if second & 0x7F == 127:
        return size + 8
    return size


def announced(data: Bytes, start: int, end: int) -> int:
    """The payload bytes that the header at ``data[start]`` announces.

    :returns: ``PARTIAL`` if ``data[start:end]`` is not the whole header. A length of more than 63 bits, which no frame
        may have, counts as the largest one
    """
    if end - start < 2 or end - start < header_bytes(data[start + 1]):
        return PARTIAL
    size = data[start + 1] & 0x7F
    if size == 126:
        return data[start + 2] << 8 | data[start + 3]
    if size == 127:
        if data[start + 2] & 0x80:
            return _LARGEST
        size = 0
        for i in range(2, 10):
            size = size << 8 | data[start + i]
    return size


def end_of_messages(data: Bytes, start: int, end: int, most: int) -> int:
    """Where to stop in ``data[:end]`` so that it begins ``most`` messages and control frames at most.

    :param start: of the first frame; it may be beyond ``end``
    :returns: ``end``, or where the next message or control frame begins. Continuations go with their message (5.4)
    """
    pos = start
    while pos < end:
        size = announced(data, pos, end)
        if data[pos] & 0x0F:
            if most == 0:
                return pos
            most -= 1
        if size < 0 or size >= end - pos:
            return end
        pos += header_bytes(data[pos + 1]) + size
    return end
