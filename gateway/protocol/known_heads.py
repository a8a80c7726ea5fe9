"""Heads of handshakes that are like one that was read before, and need not be read again.

Clients of one kind say the same over and over, but for the target and ``Sec-WebSocket-Key``; and one that comes back
says what it said the last time. A head that is known in all else is found to be so in a quarter of the time that it
takes to read it (``make bench``, scenario ``handshake``). Whatever is in doubt is read.

Compiled by Cython if a C compiler is available (types in ``known_heads.pxd``), run as it is otherwise.
"""

from __future__ import annotations

import string

from gateway.protocol.heads import RequestHead

MAX_KNOWN = 512
MAX_BYTES = 2048

_ALNUM = (string.ascii_letters + string.digits).encode()
_BEFORE, _BEHIND = b"GET /", b" HTTP/1.1\r\n"
"""Around a target with nothing in it but what is known as ``IN_TARGET``, they are a stricter form than a request line
may have: what llhttp, too, takes for one, and for just this target."""

_KEY_FIELD = b"\r\nSec-WebSocket-Key: "
_KEY_BYTES = 24
IN_TARGET, IN_KEY = 1, 2
_OF_TARGET, _OF_KEY = _ALNUM + b"._~!$&'()*+,;=:@/?%-", _ALNUM + b"+/"
_KINDS = bytes((IN_TARGET if byte in _OF_TARGET else 0) | (IN_KEY if byte in _OF_KEY else 0) for byte in range(256))


def consists_of(kind: int, data: bytes, start: int, end: int) -> bool:
    """Whether each of these bytes, which are there, is of a kind: ``IN_TARGET`` or ``IN_KEY``."""
    for at in range(start, end):  # noqa: SIM110  # all() would make a generator, also in the compiled build
        if not _KINDS[data[at]] & kind:
            return False
    return True


def target_of(data: bytes, end: int) -> bytes:
    """The target in a request line of the form that is known; empty for any other line. :param end: where it ends"""
    last = end + 2 - len(_BEHIND)
    if last < len(_BEFORE) or not data.startswith(_BEFORE) or data[last : end + 2] != _BEHIND:
        return b""
    if not consists_of(IN_TARGET, data, len(_BEFORE), last):
        return b""
    return data[len(_BEFORE) - 1 : last]


class KnownHeads:
    """Heads that were read, by all but their request line and key."""

    def __init__(self) -> None:
        self._known: dict[bytes, RequestHead] = {}

    def find(self, data: bytes) -> RequestHead | None:
        """What :class:`gateway.protocol.http.RequestReader` would read; None where that is to be asked.

        :param data: the first bytes of a connection: the head, and nothing behind it
        """
        end = data.find(b"\r\n")
        at = data.find(_KEY_FIELD, end)
        if at < 0:
            return None
        at += len(_KEY_FIELD)
        known = self._known.get(data[end:at] + data[at + _KEY_BYTES :])
        if known is None:
            return None
        key = data[at : at + _KEY_BYTES]
        if not key.endswith(b"==") or len(key) < _KEY_BYTES or not consists_of(IN_KEY, key, 0, _KEY_BYTES - 2):
            return None
        target = target_of(data, end)
        return known.like_this(data, target, key) if target else None

    def remember(self, head: RequestHead) -> None:
        """Know a head from now on, if it is of the kind that is found: of a handshake, found to be right."""
        data = head.raw
        end = data.find(b"\r\n")
        at = data.find(_KEY_FIELD, end) + len(_KEY_FIELD)
        key = data[at : at + _KEY_BYTES]
        if (
            len(data) > MAX_BYTES
            or at < len(_KEY_FIELD)
            or head.first.get(b"sec-websocket-key") != key
            or b"sec-websocket-key" in head.repeated
            or not head.is_handshake
            or not target_of(data, end)
        ):
            return
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()  # a client that varies its heads pays for each as if none were known
        self._known[data[end:at] + data[at + _KEY_BYTES :]] = head
