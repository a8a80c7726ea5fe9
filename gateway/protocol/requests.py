"""Reads the heads of requests (RFC 9112 sections 2 to 5).

A head is read strictly: what two parsers could understand in two ways is refused here, and never reaches a backend.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.protocol.framing import request_body
from gateway.protocol.heads import MAX_FIELDS, MAX_HEAD_BYTES, BadHead, RequestHead
from gateway.protocol.wellformed import what_is_wrong

MAX_METHOD: Final = 64
"""Bytes of a method. The longest that is registered has 17."""

_HEAD_END: Final = b"\r\n\r\n"
_CRLF: Final = b"\r\n"
_LINE_END: Final = (b"\r", b"\n")

_METHOD: Final = rb"[!#$%%&'*+\-.^_`|~0-9A-Za-z]{1,%d}" % MAX_METHOD
_TARGET: Final = rb"[\x21-\x7e]+"
_LINE = re.compile(rb"(%b) +(%b) +HTTP/1\.([01])\r\n" % (_METHOD, _TARGET))


def _beginning_of(parts: list[bytes]) -> bytes:
    """An expression that matches as many of these parts, one behind another, as there are."""
    made = b""
    for part in reversed(parts):
        made = b"(?:%b%b)?" % (part, made)
    return made


_LINE_SO_FAR = re.compile(
    _beginning_of(
        [_METHOD, b" +", _TARGET, *(b" +", b"H", b"T", b"T", b"P", b"/", b"[0-9]", rb"\.", b"[0-9]", b"\r", b"\n")]
    )
)
_MORE_TARGET = re.compile(_TARGET)
_NEVER = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?=[^\n])")
"""What is nowhere in a head: control characters, and line ends other than CRLF."""

_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?\Z")


class RequestReader:
    """Reads one request head out of bytes that come in any chunking."""

    __slots__ = ("_looked_at", "_max_fields", "_max_size", "received")

    def __init__(self, max_size: int = MAX_HEAD_BYTES, max_fields: int = MAX_FIELDS) -> None:
        """
        :param max_size: bytes that a head may have
        :param max_fields: header fields that it may have
        """
        self._max_size = max_size
        self._max_fields = max_fields
        self._looked_at = 0
        self.received = b""

    def feed(self, data: bytes) -> RequestHead | None:
        """Take the next bytes of the connection; return the head once it is whole.

        Bytes behind the head stay in ``received``, from ``head.size`` on.

        :raises BadHead: it is malformed (400), too large (431), or not of HTTP/1 (505); or it never can be a head
        """
        received = self.received + data if self.received else data
        if received.startswith(_LINE_END):
            received = received.lstrip(_CRLF)  # RFC 9112 section 2.2: empty lines before a request
        self.received = received
        found = received.find(_HEAD_END, max(self._looked_at - 3, 0))
        if found < 0:
            if len(received) > self._max_size:
                raise BadHead(431, f"request head over {self._max_size} bytes")
            check_beginning(received, self._looked_at)
            self._looked_at = len(received)
            return None
        end = found + 4
        if end > self._max_size:
            raise BadHead(431, f"request head over {self._max_size} bytes")
        raw = received if end == len(received) else received[:end]
        line = _LINE.match(raw)
        wrong = "" if line is None else what_is_wrong(raw, line.end() - 2)
        if wrong is not None or line is None:
            check_beginning(raw, self._looked_at)  # which says the same when it sees less
            raise BadHead(400, f"malformed request head: {wrong}")
        head = RequestHead()
        head.size = end
        method, head.target, minor = line.groups()
        head.method = method
        head.http11 = minor == b"1"
        head.take_raw(raw)
        check_request(head, self._max_fields)
        return head


def check_request(head: RequestHead, max_fields: int = MAX_FIELDS) -> None:
    """Refuse a well-formed head that two servers could understand in two ways.

    :raises BadHead: with status 400, 431 for too many fields, or 501 for a transfer coding other than chunked
    """
    if head.count > max_fields:
        raise BadHead(431, f"more than {max_fields} header fields")
    first = head.first
    host = first.get(b"host")
    if head.repeated and b"host" in head.repeated:
        raise BadHead(400, "more than one Host")
    if host is None:
        if head.http11:
            raise BadHead(400, "no Host")
    elif not _HOST.match(host):
        raise BadHead(400, "malformed Host")
    if b"transfer-encoding" in first or b"content-length" in first:
        request_body(head)


def check_beginning(received: bytes, looked_at: int = 0) -> None:
    """Refuse bytes that can become no head, whatever comes behind them.

    What is wrong first is the reason: it does not depend on how many of the bytes are there.

    :param received: the first bytes of a request
    :param looked_at: how many of them have passed here before
    :raises BadHead: with status 400, or 505 for another version
    """
    if received.find(_CRLF, 0, looked_at) < 0:
        _check_first_line(received, looked_at)
    never = _NEVER.search(received, max(looked_at - 1, 0))
    if never is not None:
        if never[0] in _LINE_END:
            raise BadHead(400, "malformed request head: a line that does not end with CRLF")
        raise BadHead(400, "malformed request head: a control character")


def _check_first_line(received: bytes, looked_at: int) -> None:
    """Arguments and errors as of :func:`check_beginning`, for a first line that had not ended."""
    space = received.rfind(b" ", 0, looked_at)
    in_target = space >= 0 and not received[received.find(b" ") : space].strip(b" ")
    if in_target and _MORE_TARGET.fullmatch(received, looked_at):
        return  # a long target that comes in many pieces is looked at once
    line = _LINE_SO_FAR.match(received)
    assert line is not None  # it may be empty
    at = line.end()
    if line[0].endswith(b"\n"):
        major, minor = received[at - 5 : at - 4].decode(), received[at - 3 : at - 2].decode()
        if received.startswith(b"PRI ") and major == "2":
            raise BadHead(505, "HTTP/2 without TLS is not spoken here")
        if major not in "01":
            raise BadHead(505, f"HTTP/{major}.{minor} is not spoken here")
        if major == "0" or minor not in "01":
            raise BadHead(400, f"malformed request line: there is no HTTP/{major}.{minor}")
    elif at < len(received):
        byte = received[at : at + 1]
        if byte == b"\x16" and at == 0:
            raise BadHead(400, "malformed request head: TLS, where plain HTTP is spoken")
        if received.startswith(b"PROXY ") and at >= 6:
            raise BadHead(400, "malformed request head: a PROXY header, which is not accepted from this address")
        if byte == b"\0" and at == 0:  # version 2, whose empty lines were skipped
            raise BadHead(400, "malformed request head: a NUL (no PROXY header is accepted from this address)")
        if byte == b"\n":
            raise BadHead(400, "malformed request head: a line that does not end with CRLF")
        if byte == b"\r" and len(line[0].split()) == 2:
            raise BadHead(400, "malformed request line: it names no version of HTTP")
        raise BadHead(400, "malformed request line")
