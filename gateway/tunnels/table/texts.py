"""The texts of a row: packed one after another, each with two bytes of length before it (little-endian)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from gateway.tunnels.table.layout import TEXTS

LENGTH_BYTES = 2
_SIZES = tuple(TEXTS.items())
_LENGTHS = tuple(n.to_bytes(LENGTH_BYTES, "little") for n in range(max(TEXTS.values()) + 1))


def pack(texts: Iterable[tuple[bytes, int]]) -> bytes:
    """Pack texts. :param texts: each with the most bytes to keep of it"""
    return b"".join(len(text[:size]).to_bytes(LENGTH_BYTES, "little") + text[:size] for text, size in texts)


def unpack(data: bytes, sizes: Collection[int]) -> list[bytes]:
    """The texts in ``data``, which may end early (zeros follow) or hold any lengths, as in a row that is being written.

    :param sizes: the most bytes that each may have; what is beyond is cut
    """
    data = data.ljust(sum(sizes) + LENGTH_BYTES * len(sizes), b"\0")
    found: list[bytes] = []
    end = 0
    for size in sizes:
        length = data[end] | data[end + 1] << 8
        start = end + LENGTH_BYTES
        end = start + (length if length < size else size)
        found.append(data[start:end])
    return found


def texts_of(data: bytes) -> list[str]:
    """Decode the texts of a row, in the order of ``layout.TEXTS``."""
    return [text.decode("utf-8", "replace") for text in unpack(data, TEXTS.values())]


def packed(texts: Mapping[str, bytes]) -> bytes:
    """Pack the texts of a row, named as in ``layout.TEXTS``; those that are not given are empty."""
    parts: list[bytes] = []
    for name, size in _SIZES:
        text = texts.get(name, b"")
        length = len(text)
        if length > size:
            text, length = text[:size], size
        parts.append(_LENGTHS[length])
        parts.append(text)
    return b"".join(parts)
