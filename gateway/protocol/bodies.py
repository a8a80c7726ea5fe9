"""Where the body of a message ends in a byte stream that is relayed, not parsed (RFC 9112 sections 6 and 7).

A framer looks at the bytes of one body as they go by, in pieces of any size, and finds its last one. Payload is
skipped, never copied. What frames it is read strictly: anything that two parsers could understand in two ways raises
:class:`BadBody`, from clients and backends alike. That includes a line of the chunked coding that ends with a bare LF:
nginx takes one, llhttp does not, and a parser that searches for CRLF reads on, into the payload.

Compiled by Cython if a C compiler is available (types in ``bodies.pxd``), run as it is otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Bytes = bytes | bytearray | memoryview

MAX_LINE = 4096
"""Bytes of a chunk's size and extensions."""

MAX_TRAILER = 16384
"""Bytes of all trailer fields of a message."""

REFUSED_TRAILERS = frozenset(
    (
        b"authorization",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"cookie",
        b"host",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-client-cert-fingerprint",
        b"x-client-cert-san",
        b"x-client-cert-subject",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-request-id",
    )
)
"""Fields that frame, route or vouch for a message and may not be in a trailer (RFC 9110 section 6.5.1).

Trailers are relayed as they came, and a recipient that merges them into the fields of the head would believe these.
"""

LARGEST = 2**63 - 1
"""The largest size of a body or chunk."""

_LARGEST_BEFORE_DIGIT = LARGEST >> 4

_SIZE, _MORE_SIZE, _PADDING, _EXTENSION, _SIZE_LF = 0, 1, 2, 3, 4
_DATA, _DATA_CR, _DATA_LF = 5, 6, 7
_TRAILER, _NAME, _VALUE, _TRAILER_LF, _END_LF = 8, 9, 10, 11, 12
_DONE, _BROKEN = 13, 14

_TAB, _LF, _CR, _SPACE, _COLON, _SEMICOLON, _DELETE = 0x09, 0x0A, 0x0D, 0x20, 0x3A, 0x3B, 0x7F


class BadBody(Exception):
    """The framing of a body is malformed. ``str()`` is the reason, in words of our own and no byte of the peer's."""


class Framer:
    """Finds the end of one body.

    ``complete``: its last byte has gone by. ``received``: bytes of content so far, without what frames them.
    ``remaining``: bytes of content that are sure to come next. ``until_close``: the connection's end is the body's.
    """

    __slots__ = ("complete", "received", "remaining", "until_close")
    complete: bool
    received: int
    remaining: int
    until_close: bool

    def scan(self, data: Bytes, start: int, end: int) -> int:
        """Look at ``data[start:end]``, the next bytes of the connection.

        :returns: index up to which they belong to this message: ``end``, unless the message was complete before
        :raises BadBody: its framing is malformed
        """
        raise NotImplementedError


class Length(Framer):
    """A body of a length that the head has given (RFC 9112 section 6.2)."""

    __slots__ = ()

    def __init__(self, length: int) -> None:
        """:param length: bytes, at most ``LARGEST``"""
        self.complete = length == 0
        self.received = 0
        self.remaining = length
        self.until_close = False

    def scan(self, data: Bytes, start: int, end: int) -> int:
        """See :meth:`Framer.scan`; raises nothing."""
        size = end - start
        if size >= self.remaining:
            size = self.remaining
            self.complete = True
        self.remaining -= size
        self.received += size
        return start + size


class UntilClose(Framer):
    """An answer's body that ends with its connection (RFC 9112 section 6.3). Never complete."""

    __slots__ = ()

    def __init__(self) -> None:
        self.complete = False
        self.received = 0
        self.remaining = 0
        self.until_close = True

    def scan(self, data: Bytes, start: int, end: int) -> int:
        """See :meth:`Framer.scan`; raises nothing."""
        self.received += end - start
        return end


class Chunked(Framer):
    """A body in chunks, with extensions and trailers (RFC 9112 section 7.1)."""

    __slots__ = (
        "_forbidden",
        "_line",
        "_max_line",
        "_max_trailer",
        "_name",
        "_padded",
        "_size",
        "_slices",
        "_state",
        "trailer",
    )

    def __init__(
        self,
        max_line: int = MAX_LINE,
        max_trailer: int = MAX_TRAILER,
        padded: bool = False,
        forbidden: frozenset[bytes] = REFUSED_TRAILERS,
    ) -> None:
        """
        :param max_line: bytes that a chunk's size and extensions may have
        :param max_trailer: bytes that all trailer fields may have
        :param forbidden: names that no trailer field may have, as of :func:`gateway.protocol.heads.plain_name`
        :param padded: take white space between a size and the end of its line. Some servers write sizes of a fixed
            width; nginx and HAProxy take that, and no parser reads another size
        """
        self.complete = False
        self.received = 0
        self.remaining = 0
        self.until_close = False
        self.trailer = -1  # where trailers begin in what was scanned last, the empty line behind them included
        self._state = _SIZE
        self._size = 0
        self._line = 0
        self._max_line = max_line
        self._max_trailer = max_trailer
        self._padded = padded
        self._forbidden = forbidden
        self._name: bytearray | None = None
        self._slices: list[tuple[int, int]] | None = None

    def scan(self, data: Bytes, start: int, end: int) -> int:
        """See :meth:`Framer.scan`."""
        pos = start
        state = self._state
        self.trailer = start if state >= _TRAILER else -1
        if self._slices is not None:
            self._slices = []
        while pos < end:
            if state == _DATA:
                size = end - pos
                if size >= self.remaining:
                    size = self.remaining
                    state = _DATA_CR
                if self._slices is not None:
                    self._slices.append((pos, pos + size))
                self.remaining -= size
                self.received += size
                pos += size
                continue
            byte = data[pos]
            pos += 1
            if state in (_SIZE, _MORE_SIZE):
                digit = _hex_digit(byte)
                if digit >= 0:
                    if state == _SIZE:
                        state = _MORE_SIZE
                        self._size = 0
                        self._line = 0
                    if self._size > _LARGEST_BEFORE_DIGIT:
                        self._refuse("a chunk size beyond 63 bits")
                    self._size = (self._size << 4) | digit
                elif state == _SIZE:
                    self._refuse("a chunk without a size")
                elif byte == _CR:
                    state = _SIZE_LF
                elif byte == _SEMICOLON:
                    state = _EXTENSION
                elif byte in (_SPACE, _TAB):
                    state = _PADDING
                else:
                    self._refuse("a malformed chunk size")
                self._line += 1
                if self._line > self._max_line:
                    self._refuse("too long a line before a chunk")
            elif state == _DATA_CR:
                if byte != _CR:
                    self._refuse("a chunk that is longer than its size")
                state = _DATA_LF
            elif state == _DATA_LF:
                if byte != _LF:
                    self._refuse("a chunk that is longer than its size")
                state = _SIZE
            elif state == _SIZE_LF:
                if byte != _LF:
                    self._refuse("a bare CR before a chunk")
                if self._size:
                    self.remaining = self._size
                    state = _DATA
                else:
                    self._line = 0
                    self.trailer = pos
                    state = _TRAILER
            elif state == _PADDING:
                # White space before an extension is to be taken (section 7.1.1).
                if byte == _SEMICOLON:
                    state = _EXTENSION
                elif byte == _CR and self._padded:
                    state = _SIZE_LF
                elif byte not in (_SPACE, _TAB):
                    self._refuse("a malformed chunk size")
                self._line += 1
                if self._line > self._max_line:
                    self._refuse("too long a line before a chunk")
            elif state == _EXTENSION:
                if byte == _CR:
                    state = _SIZE_LF
                elif _is_control(byte):
                    self._refuse("a control character in a chunk extension")
                self._line += 1
                if self._line > self._max_line:
                    self._refuse("too long a line before a chunk")
            elif state == _DONE:
                pos -= 1
                break
            elif state == _BROKEN:
                raise BadBody("it was malformed before")
            else:
                state = self._read_trailer(state, byte)
                if state == _DONE:
                    self.complete = True
                    break
        self._state = state
        return pos

    def _read_trailer(self, state: int, byte: int) -> int:
        """Take one byte of the trailer section; return the next state."""
        self._line += 1
        if self._line > self._max_trailer + 2:
            self._refuse("too long a trailer")
        if state == _TRAILER:
            if byte == _CR:
                return _END_LF
            if not _is_token(byte):
                self._refuse("a malformed trailer field")
            self._name = bytearray((_plain(byte),))
            return _NAME
        if state == _NAME:
            if byte == _COLON:
                if bytes(self._name or b"") in self._forbidden:
                    self._refuse("a trailer field that belongs in the head")
                self._name = None
                return _VALUE
            if not _is_token(byte) or self._name is None:
                self._refuse("a malformed trailer field")
            else:
                self._name.append(_plain(byte))
            return _NAME
        if state == _VALUE:
            if byte == _CR:
                return _TRAILER_LF
            if _is_control(byte):
                self._refuse("a control character in a trailer field")
            return _VALUE
        if byte != _LF:
            self._refuse("a bare CR in a trailer")
        return _TRAILER if state == _TRAILER_LF else _DONE

    def _refuse(self, reason: str) -> None:
        """:raises BadBody: always, and when more is scanned"""
        self._state = _BROKEN
        raise BadBody(reason)


class Dechunker(Chunked):
    """A body in chunks, for a recipient of HTTP/1.0 that gets only what they hold."""

    __slots__ = ()

    def __init__(self, max_line: int = MAX_LINE, max_trailer: int = MAX_TRAILER, padded: bool = False) -> None:
        """Arguments as of :class:`Chunked`."""
        super().__init__(max_line, max_trailer, padded)
        self._slices = []

    @property
    def slices(self) -> list[tuple[int, int]]:
        """Start and end of each run of content in what was scanned last."""
        return self._slices or []


def _hex_digit(byte: int) -> int:
    """The value of a hexadecimal digit, -1 for another byte."""
    if 0x30 <= byte <= 0x39:
        return byte - 0x30
    byte |= 0x20
    if 0x61 <= byte <= 0x66:
        return byte - 0x57
    return -1


def _is_control(byte: int) -> bool:
    """Whether a byte may not be in a field's value (RFC 9110 section 5.5)."""
    return (byte < _SPACE and byte != _TAB) or byte == _DELETE


def _is_token(byte: int) -> bool:
    """Whether a byte may be in a token (RFC 9110 section 5.6.2)."""
    if 0x5E <= byte <= 0x7A or 0x41 <= byte <= 0x5A or 0x30 <= byte <= 0x39:  # ^_` and letters, digits
        return True
    return byte == 0x21 or 0x23 <= byte <= 0x27 or byte in (0x2A, 0x2B, 0x2D, 0x2E, 0x7C, 0x7E)


def _plain(byte: int) -> int:
    """A byte of a name as of :func:`gateway.protocol.heads.plain_name`."""
    if 0x41 <= byte <= 0x5A:
        return byte | 0x20
    return byte if 0x61 <= byte <= 0x7A or 0x30 <= byte <= 0x39 else 0x2D
