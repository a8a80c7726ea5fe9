"""What a request's fields say, whatever its target: found out once for all requests with the same fields.

A client on a kept connection says the same over and over, but for the request line. So the block of fields is looked
up by its bytes; what differs in one byte is read. Rules, log and backend see what was read here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway.edge.forwarding import lines_to_backend

if TYPE_CHECKING:
    from gateway.protocol.heads import RequestHead
    from gateway.routing.changes import Changes

MAX_KNOWN = 1024
MAX_BYTES = 4096
_LINE = re.compile(rb"([A-Z]{1,20}) (/[A-Za-z0-9._~!$&'()*+,;=:@/?%-]*) HTTP/1\.1\Z")
"""A stricter form than a request line may have; whatever else is one is read."""

_BOUND_SCHEMES = (b"ntlm", b"negotiate", b"kerberos")


class Facts:
    """What is known of a block of fields."""

    __slots__ = ("changed", "keep_alive", "lines", "pins")

    def __init__(self, head: RequestHead, underscores: bool) -> None:
        """:param underscores: whether fields with ``_`` in their names go on"""
        tokens = head.tokens(b"connection") if b"connection" in head.first else []
        self.keep_alive = b"close" not in tokens if head.http11 else b"keep-alive" in tokens
        """whether the client means to ask for more on this connection"""
        self.lines = lines_to_backend(head, underscores)
        """the fields that a backend is sent as they came, with CRLF behind each"""
        self.changed: tuple[Changes, bytes] | None = None
        """the lines as a route changes them; of the route that has asked last"""
        self.pins = head.first.get(b"authorization", b"").lower().startswith(_BOUND_SCHEMES)
        """whether its credentials are good for the backend's connection that first sees them, and for that alone"""


class NoFacts(Facts):
    """Of a handshake: its connection serves no other request."""

    __slots__ = ()

    def __init__(self) -> None:
        self.keep_alive = False
        self.lines = b""
        self.changed = None
        self.pins = False


NO_FACTS = NoFacts()


class KnownFields:
    """Heads that were read, by all but their request line."""

    def __init__(self) -> None:
        self._known: dict[bytes, RequestHead] = {}

    def find(self, data: bytes) -> RequestHead | None:
        """The head at the beginning of ``data``, as :class:`RequestReader` would read it; None where that is to be
        asked."""
        end = data.find(b"\r\n\r\n") + 4
        at = data.find(b"\r\n")
        known = self._known.get(data[at:end])
        if known is None:
            return None
        line = _LINE.match(data, 0, at)
        if line is None:
            return None
        return known.with_line(data[:end], line[1], line[2])

    def remember(self, head: RequestHead) -> None:
        """Know a head's fields from now on. :param head: of a plain request of HTTP/1.1 that was let through"""
        data = head.raw
        at = data.find(b"\r\n")
        if len(data) - at <= MAX_BYTES and head.http11 and _LINE.match(data, 0, at):
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[data[at:]] = head

    def clear(self) -> None:
        """Forget all: what they were read by has changed."""
        self._known.clear()
