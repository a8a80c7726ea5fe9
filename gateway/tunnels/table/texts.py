"""The texts of a row, at its end: two bytes of length before each, cut to the size in ``layout.TEXTS``."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from gateway.tunnels.table.layout import TEXTS

TEXT_BYTES = sum(TEXTS.values()) + 2 * len(TEXTS)
_SIZES = tuple(TEXTS.items())
_FORMAT = struct.Struct("<" + "".join(f"H{size}s" for size in TEXTS.values()))  # which cuts and pads


def texts_of(data: bytes) -> list[str]:
    """Decode the texts of a row, in the order of ``layout.TEXTS``."""
    found = iter(_FORMAT.unpack_from(data))
    # A length beyond the field, as in a row that is being written, is cut by the slice.
    return [text[:length].decode("utf-8", "replace") for length, text in zip(found, found, strict=True)]


def write_texts(buffer: memoryview, at: int, texts: Mapping[str, bytes]) -> None:
    """Encode the texts of a row; those that are not given are empty. :param at: position in ``buffer``, in bytes"""
    parts: list[int | bytes] = []
    for name, size in _SIZES:
        text = texts.get(name, b"")
        length = len(text)
        parts.append(length if length < size else size)
        parts.append(text)
    _FORMAT.pack_into(buffer, at, *parts)
