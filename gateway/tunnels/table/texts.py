"""The texts of a row: packed one after another, each with two bytes of length before it (little-endian).

Compiled by Cython if a C compiler is available (types in ``texts.pxd``), run as it is otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.tunnels.table.layout import TEXTS

LENGTH_BYTES = 2
_PREFIX = LENGTH_BYTES
_NO_LENGTH = bytes(LENGTH_BYTES)
_MOST = tuple(TEXTS.values())
NAMES = ("client", "host", "path", "subprotocol", "request_id")
"""The names of the texts in the order in which functions take and return them. In a row they are in that of
``layout.TEXTS``."""

_PLACES = tuple(list(TEXTS).index(name) for name in NAMES)
_IN_ROW = tuple((NAMES.index(name), size) for name, size in TEXTS.items())
_LENGTHS = tuple(n.to_bytes(LENGTH_BYTES, "little") for n in range(max(TEXTS.values()) + 1))


def pack(texts: Iterable[tuple[bytes, int]]) -> bytes:
    """Pack texts. :param texts: each with the most bytes to keep of it"""
    return b"".join(len(text[:size]).to_bytes(LENGTH_BYTES, "little") + text[:size] for text, size in texts)


def unpack(data: bytes, sizes: tuple[int, ...]) -> list[bytes]:
    """The texts in ``data``, which may end early (zeros follow) or hold any lengths, as in a row that is being written.

    :param sizes: the most bytes that each may have; what is beyond is cut
    """
    data += _NO_LENGTH
    last = len(data) - _PREFIX
    found: list[bytes] = []
    end = 0
    for size in sizes:
        if end > last:
            end = last
        length = data[end] | data[end + 1] << 8
        start = end + _PREFIX
        end = start + (length if length < size else size)
        found.append(data[start : end if end < last else last])
    return found


def texts_of(data: bytes) -> list[str]:
    """Decode the texts of a row. :returns: in the order of ``NAMES``"""
    found = unpack(data, _MOST)
    texts: list[str] = []
    for place in _PLACES:
        text = found[place]
        texts.append(text.decode("utf-8", "replace"))
    return texts


def packed(client: bytes, host: bytes, path: bytes, subprotocol: bytes, request_id: bytes) -> bytes:
    """Pack the texts of a row."""
    texts = (client, host, path, subprotocol, request_id)
    parts: list[bytes] = []
    for at, size in _IN_ROW:
        text = texts[at]
        length = len(text)
        if length > size:
            text, length = text[:size], size
        parts.append(_LENGTHS[length])
        parts.append(text)
    return b"".join(parts)
