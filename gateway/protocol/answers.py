"""Reads the heads of a backend's answers (RFC 9112 sections 2 to 5).

Lines may end with LF alone, as RFC 9112 section 2.2 allows and nginx does; everything else is as strict as in requests.
What is wrong is said in words of our own, since clients are told.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.protocol.heads import MAX_FIELDS, MAX_HEAD_BYTES, BadResponse, ResponseHead
from gateway.protocol.wellformed import what_is_wrong

_HEAD_END: Final = b"\r\n\r\n"
_START: Final = b"HTTP/1."
_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")
_ANY_HEAD_END = re.compile(rb"\n\r?\n")
_LONE_LF = re.compile(rb"(?<!\r)\n")


_NONE: Final = ResponseHead()
"""What a reader has read before the first head."""


class ResponseReader:
    """Reads the heads of a backend's answer: interim ones (RFC 9110 section 15.2), then the final one."""

    __slots__ = ("_looked_at", "_max_fields", "_max_size", "head", "received")

    def __init__(self, max_size: int = 2 * MAX_HEAD_BYTES, max_fields: int = 2 * MAX_FIELDS) -> None:
        """
        :param max_size: bytes that a head may have
        :param max_fields: header fields that it may have
        """
        self._max_size = max_size
        self._max_fields = max_fields
        self._looked_at = 0
        self.received = b""
        self.head = _NONE

    def feed(self, data: bytes) -> ResponseHead | None:
        """Take the next bytes; return the next head if it is whole. Call with ``b""`` to go on behind an interim one.

        Bytes behind the head are in ``received``.

        :raises BadResponse: it is malformed or too large
        """
        received = self.received + data if self.received else data
        if not received.startswith(_START) and not _START.startswith(received[:7]):
            raise BadResponse("not an answer in HTTP/1")
        found = received.find(_HEAD_END, max(self._looked_at - 3, 0))
        end = found + 4
        raw = received if end == len(received) else received[:end]
        if found < 0 or raw.count(b"\n") != raw.count(b"\r\n"):
            ending = _ANY_HEAD_END.search(received, max(self._looked_at - 2, 0))
            if ending is None:
                if len(received) > self._max_size:
                    raise BadResponse(f"a head over {self._max_size} bytes")
                self.received = received
                self._looked_at = len(received)
                return None
            end = ending.end()
            raw = _LONE_LF.sub(b"\r\n", received[:end])
        if end > self._max_size:
            raise BadResponse(f"a head over {self._max_size} bytes")
        self.received = received[end:]
        self._looked_at = 0
        self.head = head = read_head(raw)
        head.size = end
        if head.count > self._max_fields:
            raise BadResponse(f"a head of more than {self._max_fields} fields")
        return head


def read_head(raw: bytes) -> ResponseHead:
    """Read a whole head whose lines end with CRLF. :raises BadResponse: it is malformed"""
    line = _LINE.match(raw)
    if line is None:
        raise BadResponse("malformed: no status line of HTTP/1.1 or HTTP/1.0")
    wrong = what_is_wrong(raw, line.end() - 2)
    if wrong is not None:
        raise BadResponse(f"malformed: {wrong}")
    head = ResponseHead()
    minor, status, reason = line.groups()
    head.http11 = minor == b"1"
    head.status = int(status)
    head.reason = reason or b""
    head.take_raw(raw)
    return head
