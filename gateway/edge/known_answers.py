"""What is known of an answer's head: how its body ends, what the client is sent of it, what becomes of the connections.

Backends answer alike: heads that were read once are found again by their bytes. Whatever differs in one byte is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.edge.forwarding import answer_to_client, goes_as_it_came
from gateway.protocol.bodies import Chunked, Framer, Length, UntilClose
from gateway.protocol.framing import answer_body

if TYPE_CHECKING:
    from gateway.protocol.heads import ResponseHead
    from gateway.routing.changes import Changes

MAX_KNOWN = 512
MAX_BYTES = 2048
MAX_MADE = 32
KEEP_ALIVE_MARGIN_NS = 1_000_000_000
"""By which a connection is given up before its backend would close it (``Keep-Alive: timeout``)."""

NEVER_NS = 2**62
SECOND = 1_000_000_000
_BOUND_SCHEMES = (b"ntlm", b"negotiate", b"kerberos")
NO_BODY, LENGTH, CHUNKED, UNTIL_CLOSE = range(4)


class KnownAnswer:
    """A final answer's head."""

    __slots__ = (
        "_framing",
        "_length",
        "_made",
        "_method",
        "_source",
        "idle_ns",
        "is_chunked",
        "is_framed",
        "is_plain",
        "keeps_backend",
        "pins",
        "status",
    )

    def __init__(self, head: ResponseHead, method: bytes) -> None:
        """:raises BadResponse: two clients could see different ends of its body"""
        self.status = head.status
        body = answer_body(head, method)
        self._length = body.remaining if isinstance(body, Length) else 0
        if body is None:
            self._framing = NO_BODY
        elif isinstance(body, Length):
            self._framing = LENGTH
        else:
            self._framing = CHUNKED if isinstance(body, Chunked) else UNTIL_CLOSE
        self.is_chunked = self._framing == CHUNKED
        self.is_framed = self._framing != UNTIL_CLOSE
        """whether the client can see where it ends"""
        self._source = head
        self._method = method
        self._made: dict[tuple[bool, bool, Changes | None], bytes] = {}
        self.is_plain = goes_as_it_came(head, method)
        """whether a client of HTTP/1.1 that stays is sent the head as it came"""
        tokens = head.tokens(b"connection") if b"connection" in head.first else []
        self.keeps_backend = self.is_framed and (b"close" not in tokens if head.http11 else b"keep-alive" in tokens)
        """whether the backend leaves the connection open for another request"""
        self.idle_ns = _idle_ns(head.first.get(b"keep-alive", b""))
        """for how long at most, in nanoseconds"""
        self.pins = b"www-authenticate" in head.first and any(
            value.lower().startswith(_BOUND_SCHEMES) for value in head.items(b"www-authenticate")
        )
        """whether credentials are being tied to the connection"""

    @classmethod
    def of(cls, head: ResponseHead, method: bytes) -> KnownAnswer:
        """What there is to know of a head. :raises BadResponse: as above"""
        return cls(head, method)

    def framer(self) -> Framer | None:
        """A new one, for the body of an answer with this head; None where there is none."""
        if self._framing == LENGTH:
            return Length(self._length)
        if self._framing == CHUNKED:
            return Chunked(padded=True)
        return UntilClose() if self._framing == UNTIL_CLOSE else None

    def head_for(self, http11: bool, keeps: bool, changes: Changes | None = None) -> bytes:
        """The head as a client is sent it.

        :param http11: whether the client speaks HTTP/1.1
        :param keeps: whether its connection stays open
        :param changes: of its fields, by the configuration
        """
        if self.is_plain and http11 and keeps and changes is None:
            return self._source.raw
        made = self._made.get((http11, keeps, changes))
        if made is None:
            if len(self._made) >= MAX_MADE:
                self._made.clear()  # of configurations that were in force before
            option = b"close" if not keeps else b"" if http11 else b"keep-alive"
            made = answer_to_client(self._source, self._method, http11, option, changes)
            self._made[http11, keeps, changes] = made
        return made


class KnownAnswers:
    """Heads that were read, by their bytes. Those of answers to HEAD are not among them."""

    def __init__(self) -> None:
        self._known: dict[bytes, KnownAnswer] = {}
        self.find = self._known.get

    def remember(self, head: ResponseHead, known: KnownAnswer) -> None:
        """Know a head from now on."""
        if len(head.raw) <= MAX_BYTES:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[head.raw] = known


def _idle_ns(keep_alive: bytes) -> int:
    """What ``Keep-Alive: timeout=5, max=100`` says, less a margin."""
    for item in keep_alive.lower().split(b","):
        name, _, value = item.strip().partition(b"=")
        if name == b"timeout" and value.isdigit():
            seconds = int(value[:9])
            return max(seconds * SECOND - min(KEEP_ALIVE_MARGIN_NS, seconds * SECOND // 2), 0)
    return NEVER_NS
