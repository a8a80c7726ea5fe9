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
_BEFORE, _BEHIND = b"GET /", b" HTTP/1.1"
_IN_TARGET = _ALNUM + b"._~!$&'()*+,;=:@/?%-"
"""With these around and nothing else in between, a stricter form than a request line may have: what llhttp, too, takes
for one, and for just this target."""

_KEY_FIELD = b"\r\nSec-WebSocket-Key: "
_KEY_BYTES = 24
_IN_KEY = _ALNUM + b"+/"


def target_of(line: bytes) -> bytes:
    """The target in a request line of the form that is known; empty for any other line."""
    if not (line.startswith(_BEFORE) and line.endswith(_BEHIND)):
        return b""
    target = line[len(_BEFORE) - 1 : -len(_BEHIND)]
    return b"" if target.translate(None, _IN_TARGET) else target


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
        target = target_of(data[:end])
        if not target or key[22:] != b"==" or key[:22].translate(None, _IN_KEY):
            return None
        return known.like_this(data, target, key)

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
            or not target_of(data[:end])
        ):
            return
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()  # a client that varies its heads pays for each as if none were known
        self._known[data[end:at] + data[at + _KEY_BYTES :]] = head
