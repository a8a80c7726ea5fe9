"""Heads of HTTP/1.1 messages, read by llhttp (RFC 9110, RFC 9112).

A head is read strictly: what two parsers could understand in two ways is refused here, and never reaches a backend.
Header fields keep their order, case and repetitions, since a backend is to see them as the client sent them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import repeat
from typing import Any, Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser

MAX_HEAD_BYTES: Final = 16 * 1024
"""Beyond it a request gets 431. The figure that most servers use."""

MAX_FIELDS: Final = 128

Field = tuple[bytes, bytes]

_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?\Z")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_CRLF: Final = b"\r\n"
_SPACE: Final = b" \t"
"""Around a value; no part of it (RFC 9112 section 5.1)."""

_LINE_END: Final = (b"\r", b"\n")
_HEAD_END: Final = b"\r\n\r\n"


class BadHead(Exception):
    """A request head that is refused. ``status`` is what its sender is told, ``str()`` the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Head:
    """What request and response heads have in common: a version and fields.

    ``first`` has the first value of each field by its name in lower case, ``repeated`` the names that occur more than
    once, ``count`` is their number. ``raw`` is the whole head as it came, where it was read here.
    """

    __slots__ = ("_given", "count", "first", "http11", "one_hop", "raw", "repeated", "size")

    def __init__(self, fields: Iterable[Field] = ()) -> None:
        self.raw = b""
        self.http11 = True
        self.size = 0
        self.one_hop: bool | None = None  # what only_upgrade_is_hop_by_hop() has found
        self._given = list(fields)
        self.count = len(self._given)
        self._take((name, b":", value) for name, value in self._given)

    def take_raw(self, raw: bytes) -> bool:
        """Have the fields of a head that llhttp has let through; False if it took anything but CRLF for a line's end.

        llhttp could tell of each field, too, with a call from C to Python for each: that takes twice as long.
        """
        lines = raw[:-4].split(_CRLF)
        if raw.count(b"\n") != len(lines) + 1:
            return False
        self.raw = raw
        del lines[0]
        self.count = len(lines)
        self._take(map(bytes.partition, lines, repeat(b":")))
        return True

    def _take(self, fields: Iterable[tuple[bytes, bytes, bytes]]) -> None:
        self.first: dict[bytes, bytes] = {}
        self.repeated: set[bytes] = set()
        first = self.first
        for name, _, value in fields:
            name = name.lower()
            if name in first:
                self.repeated.add(name)
            else:
                first[name] = value.strip(_SPACE)

    @property
    def fields(self) -> list[Field]:
        """(name, value) as received: order, case and repetitions. Few look at them all."""
        if not self.raw:
            return [(name, value.strip(_SPACE)) for name, value in self._given]
        parts = [line.partition(b":") for line in self.raw[:-4].split(_CRLF)[1:]]
        return [(name, value.strip(_SPACE)) for name, _, value in parts]

    @property
    def names(self) -> list[bytes]:
        """The names of ``fields`` in lower case."""
        return [name.lower() for name, _ in self.fields]

    def values(self, name: bytes) -> list[bytes]:
        """All values of a field, by lower-case name, in order."""
        if name not in self.first:
            return []
        if name not in self.repeated:
            return [self.first[name]]
        return [value for key, (_, value) in zip(self.names, self.fields, strict=True) if key == name]

    def tokens(self, name: bytes) -> list[bytes]:
        """A field as a list of tokens in lower case, over all of its lines (RFC 9110 section 5.6.1)."""
        value = self.first.get(name)
        if value and b"," not in value and name not in self.repeated:
            return [value.lower()]  # as most are
        return [token.lower() for token in self.items(name)]

    def items(self, name: bytes) -> list[bytes]:
        """A field as a list of members as they are, over all of its lines."""
        if name not in self.first:
            return []
        found = []
        for value in self.values(name):
            found += [item for part in value.split(b",") if (item := part.strip(b" \t"))]
        return found


class RequestHead(Head):
    """Method, target and fields of a request.

    ``upgrades`` and ``is_handshake`` are notes of what :mod:`gateway.protocol.websocket` has found in it; None and
    False before.
    """

    __slots__ = ("facts", "is_handshake", "method", "target", "upgrades")

    def __init__(self, fields: Iterable[Field] = ()) -> None:
        super().__init__(fields)
        self.method = b""
        self.target = b""
        self.upgrades: list[bytes] | None = None
        self.is_handshake = False
        self.facts: Any = None

    def like_this(self, raw: bytes, target: bytes, key: bytes) -> RequestHead:
        """Another head, different in target and ``Sec-WebSocket-Key`` only: what was found holds for it, too."""
        head = RequestHead.__new__(RequestHead)
        head.raw = raw
        head.size = len(raw)
        head.http11 = self.http11
        head.count = self.count
        head.first = self.first.copy()
        head.first[b"sec-websocket-key"] = key
        head.repeated = self.repeated
        head.one_hop = self.one_hop
        head.method = self.method
        head.target = target
        head.upgrades = self.upgrades
        head.is_handshake = self.is_handshake
        head.facts = None
        return head

    def with_line(self, raw: bytes, method: bytes, target: bytes) -> RequestHead:
        """Another head of HTTP/1.1, different in its request line only: what was found of its fields holds, too."""
        head = RequestHead.__new__(RequestHead)
        head.raw = raw
        head.size = len(raw)
        head.http11 = True
        head.count = self.count
        head.first = self.first
        head.repeated = self.repeated
        head.one_hop = self.one_hop
        head.method = method
        head.target = target
        head.upgrades = self.upgrades
        head.is_handshake = False
        head.facts = self.facts
        return head

    @property
    def has_underscore(self) -> bool:
        """Whether the name of a field has an underscore."""
        return any(b"_" in name for name in self.first)

    def on_url(self, url: bytes) -> None:
        """Called by the parser with the target, in one piece or several."""
        self.target += url


class ResponseHead(Head):
    """Status line and fields of a response."""

    __slots__ = ("reason", "status")

    def __init__(self, fields: Iterable[Field] = ()) -> None:
        super().__init__(fields)
        self.status = 0
        self.reason = b""

    def on_status(self, reason: bytes) -> None:
        """Called by the parser with the reason phrase, in one piece or several."""
        self.reason += reason


class RequestReader:
    """Reads one request head out of bytes that come in any chunking."""

    __slots__ = ("_fed", "_head", "_max_fields", "_max_size", "_parser", "received")

    def __init__(self, max_size: int = MAX_HEAD_BYTES, max_fields: int = MAX_FIELDS) -> None:
        self._max_size = max_size
        self._max_fields = max_fields
        self._head = RequestHead()
        self._parser = HttpRequestParser(self._head)
        self._fed = 0
        self.received = b""

    def feed(self, data: bytes) -> RequestHead | None:
        """Take the next bytes of the connection; return the head once it is whole.

        Bytes behind the head stay in ``received``, from ``head.size`` on.

        :raises BadHead: it is malformed (400), too large (431), or not of HTTP/1 (505)
        """
        received = self.received + data if self.received else data
        if received.startswith(_LINE_END):
            received = received.lstrip(_CRLF)  # RFC 9112 section 2.2: empty lines before a request
        self.received = received
        found = received.find(_HEAD_END, max(self._fed - 3, 0))
        end = len(received) if found < 0 else found + 4
        if end > self._max_size:
            raise BadHead(431, f"request head over {self._max_size} bytes")
        head = self._head
        try:
            self._parser.feed_data(received[self._fed : end] if self._fed or end < len(received) else received)
        except HttpParserUpgrade:
            pass
        except HttpParserError as error:
            if self._parser.get_method() == b"PRI":
                raise BadHead(505, "HTTP/2 without TLS is not spoken here") from None
            raise BadHead(400, f"malformed request head: {error}") from None
        self._fed = end
        if found < 0:
            return None
        head.size = end
        if not head.take_raw(received if end == len(received) else received[:end]):
            raise BadHead(400, "malformed request head: a line that does not end with CRLF")
        head.method = self._parser.get_method()
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            if version == "0.9":
                raise BadHead(400, "malformed request line: it names no version of HTTP")
            raise BadHead(505, f"HTTP/{version} is not spoken here")
        head.http11 = version == "1.1"
        line_end = received.find(_CRLF)
        if received[line_end - 9 : line_end - 3] != b" HTTP/":
            raise BadHead(400, "malformed request head: not HTTP")  # llhttp reads RTSP and ICE too
        check_request(head)
        return head


def check_request(head: RequestHead) -> None:
    """Refuse what llhttp lets through, but two servers could understand in two ways.

    :raises BadHead: with status 400, or 431 for too many fields
    """
    if head.count > MAX_FIELDS:
        raise BadHead(431, f"more than {MAX_FIELDS} header fields")
    first = head.first
    host = first.get(b"host")
    if b"host" in head.repeated:
        raise BadHead(400, "more than one Host")
    if host is None:
        if head.http11:
            raise BadHead(400, "no Host")
    elif not _HOST.match(host):
        raise BadHead(400, "malformed Host")
    if b"transfer-encoding" in first:
        if b"content-length" in first:
            raise BadHead(400, "both Content-Length and Transfer-Encoding")
        if not head.http11:
            raise BadHead(400, "Transfer-Encoding in HTTP/1.0")
    if b"content-length" in head.repeated and len(set(head.values(b"content-length"))) > 1:
        raise BadHead(400, "more than one Content-Length")


class BadResponse(Exception):
    """A backend's answer that cannot be understood."""


class ResponseReader:
    """Reads the heads of a backend's answer: interim ones (RFC 9110 section 15.2), then the final one."""

    __slots__ = ("_parser", "_started", "complete", "head", "received")

    def __init__(self, max_size: int = MAX_HEAD_BYTES, max_fields: int = MAX_FIELDS) -> None:
        self.received = b""
        self.head = ResponseHead()
        self.complete = False

    def feed(self, data: bytes) -> ResponseHead | None:
        """Take the next bytes; return the next head if it is whole. Call with ``b""`` to go on behind an interim one.

        Bytes behind the head are in ``received``.

        :raises BadResponse: it is malformed or too large
        """
        self.received += data
        if not b"HTTP/1.".startswith(self.received[:7]):
            raise BadResponse("not an answer in HTTP/1")
        found = self.received.find(_HEAD_END)
        if found < 0:
            if len(self.received) > MAX_HEAD_BYTES:
                raise BadResponse(f"response head over {MAX_HEAD_BYTES} bytes")
            return None
        end = found + 4
        if end > MAX_HEAD_BYTES:
            raise BadResponse(f"response head over {MAX_HEAD_BYTES} bytes")
        self.head = head = ResponseHead()
        raw = self.received[:end]
        self.complete = False
        self._parser = HttpResponseParser(_BodyEnd(self, head))
        try:
            self._parser.feed_data(raw)
        except HttpParserUpgrade:
            pass
        except HttpParserError as error:
            # A 101 that names no protocol stops the parser like any other, but is an error to httptools.
            if not self.complete:
                raise BadResponse(f"malformed response head: {error}") from None
        if not head.take_raw(raw):
            raise BadResponse("malformed response head: a line that does not end with CRLF")
        head.status = self._parser.get_status_code()
        if head.status < 100 or _CONTROL.search(head.reason):
            raise BadResponse("malformed response head: Invalid status line")
        head.http11 = self._parser.get_http_version() == "1.1"
        head.size = end
        self.received = self.received[end:]
        return head

    def release(self) -> None:
        """Let go of the parser, which refers back to this reader. Nothing can be fed any more."""
        del self._parser

    def feed_body(self, data: bytes) -> None:
        """Look at bytes of the final answer's body; ``complete`` tells whether they were its last.

        :raises BadResponse: its framing is malformed
        """
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            raise BadResponse(f"malformed response body: {error}") from None


class _BodyEnd:
    """What the response parser calls: the head for its reason, the reader when the message is complete."""

    __slots__ = ("_reader", "on_status")

    def __init__(self, reader: ResponseReader, head: ResponseHead) -> None:
        self._reader = reader
        self.on_status = head.on_status

    def on_message_complete(self) -> None:
        self._reader.complete = True


# --- writing heads ------------------------------------------------------------------------------------------------

_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_OTHER_HOP_BY_HOP = _HOP_BY_HOP - {b"connection", b"upgrade"}
# Fields that a sender may not have removed by naming them in Connection.
_KEPT = frozenset((b"host", b"content-length", b"cookie", b"authorization", b"origin"))


def hop_by_hop(head: Head) -> frozenset[bytes]:
    """Lower-case names of the fields that concern one connection only (RFC 9110 section 7.6.1)."""
    named = head.tokens(b"connection")
    if not named or named == [b"upgrade"] or named == [b"keep-alive"] or named == [b"close"]:
        return _HOP_BY_HOP
    return _HOP_BY_HOP | {name for name in named if name not in _KEPT and not name.startswith(b"sec-")}


def only_upgrade_is_hop_by_hop(head: Head) -> bool:
    """Whether Connection and Upgrade, each once and naming nothing else, are all that concerns one connection only.

    A head that was read as it is here can then go on as it is.
    """
    if head.one_hop is None:
        head.one_hop = (
            head.first.get(b"connection", b"").lower() == b"upgrade"
            and _OTHER_HOP_BY_HOP.isdisjoint(head.first)
            and (not head.repeated or not (b"connection" in head.repeated or b"upgrade" in head.repeated))
        )
    return head.one_hop


def request_bytes(method: bytes, target: bytes, fields: list[Field]) -> bytes:
    """Encode a request head of HTTP/1.1."""
    lines = [b"%b %b HTTP/1.1\r\n" % (method, target)]
    lines += [b"%b: %b\r\n" % field for field in fields]
    lines.append(_CRLF)
    return b"".join(lines)


def response_bytes(status: int, reason: bytes, fields: list[Field]) -> bytes:
    """Encode a response head of HTTP/1.1."""
    lines = [b"HTTP/1.1 %d %b\r\n" % (status, reason)]
    lines += [b"%b: %b\r\n" % field for field in fields]
    lines.append(_CRLF)
    return b"".join(lines)
