"""The texts of a row: packed one after another, each with two bytes of length before it (little-endian)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.tunnels.table.layout import TEXTS

LENGTH_BYTES = 2
_SIZES = tuple(TEXTS.items())


def pack(texts: Iterable[tuple[bytes, int]]) -> bytes:
    """Pack texts. :param texts: each with the most bytes to keep of it"""
    parts: list[bytes] = []
    for text, size in texts:
        if len(text) > size:
            text = text[:size]
        parts.append(len(text).to_bytes(LENGTH_BYTES, "little"))
        parts.append(text)
    return b"".join(parts)


def unpack(data: bytes, sizes: Iterable[int]) -> list[bytes]:
    """The texts in ``data``, which may end early or hold any lengths, as in a row that is being written.

    :param sizes: the most bytes that each may have; what is beyond is cut
    """
    found: list[bytes] = []
    end = 0
    for size in sizes:
        start = end + LENGTH_BYTES
        length = int.from_bytes(data[end:start], "little")
        end = start + (length if length < size else size)
        found.append(data[start:end])
    return found


def texts_of(data: bytes) -> list[str]:
    """Decode the texts of a row, in the order of ``layout.TEXTS``."""
    return [text.decode("utf-8", "replace") for text in unpack(data, TEXTS.values())]


def packed(texts: Mapping[str, bytes]) -> bytes:
    """Pack the texts of a row, named as in ``layout.TEXTS``; those that are not given are empty."""
    return pack([(texts.get(name, b""), size) for name, size in _SIZES])
