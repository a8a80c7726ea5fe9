"""Heads of HTTP/1.1 messages: what is known of one once it has been read (RFC 9110, RFC 9112).

Header fields keep their order, case and repetitions, since a backend is to see them as the client sent them.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any, Final

MAX_HEAD_BYTES: Final = 32 * 1024
"""Beyond it a request gets 431, unless ``heads.max_size`` says otherwise. Answers may have twice that."""

MAX_FIELDS: Final = 200
"""The same for ``heads.max_fields``."""

Field = tuple[bytes, bytes]

_CRLF: Final = b"\r\n"
_SPACE: Final = b" \t"
"""Around a value; no part of it (RFC 9112 section 5.1)."""


_PLAIN: Final = b"abcdefghijklmnopqrstuvwxyz0123456789-"
_AS_PLAIN: Final = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%&'*+.^_`|~", _PLAIN[:26] + 14 * b"-")


def plain_name(name: bytes) -> bytes:
    """A field's name in lower case, with ``-`` for each character that is no letter or digit.

    CGI and its kind give an application ``X-User``, ``X_User`` and ``X.User`` all as ``HTTP_X_USER``: names that such
    servers cannot tell apart are the same here.
    """
    return name.translate(_AS_PLAIN)


class BadHead(Exception):
    """A request head that is refused. ``status`` is what its sender is told, ``str()`` the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class BadResponse(Exception):
    """A backend's answer that cannot be understood. ``str()`` has no byte of it: clients are told the reason."""


class Head:
    """What request and response heads have in common: a version and fields.

    ``first`` has the first value of each field by its name in lower case, ``repeated`` the names that occur more than
    once, ``count`` is their number. ``raw`` is the whole head where it was read here: as it came, but for bare LFs of
    an answer, which are CRLFs in it. ``size`` is how many bytes it had on the wire.
    """

    __slots__ = ("_given", "count", "first", "http11", "one_hop", "raw", "repeated", "size")

    def __init__(self, fields: Iterable[Field] = ()) -> None:
        self.raw = b""
        self.http11 = True
        self.size = 0
        self.one_hop: bool | None = None  # what only_upgrade_is_hop_by_hop() has found
        self._given = list(fields)
        self.count = len(self._given)
        self.first: dict[bytes, bytes] = {}
        self.repeated: set[bytes] = set()
        if self._given:
            self._take([(name.lower(), value) for name, value in self._given])

    def take_raw(self, raw: bytes) -> None:
        """Have the fields of a head that was found to be well-formed.

        The parser could call for each field, too, which takes twice as long.
        """
        self.raw = raw
        lines = raw[:-4].split(_CRLF)
        del lines[0]
        count = self.count = len(lines)
        self.first = {(parts := line.partition(b":"))[0].lower(): parts[2].strip() for line in lines}
        if len(self.first) != count:
            self._take([((parts := line.partition(b":"))[0].lower(), parts[2]) for line in lines])

    def _take(self, fields: list[Field]) -> None:
        """:param fields: with names in lower case"""
        first = self.first = {}
        self.repeated = set()
        for name, value in fields:
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
        if not self.repeated:
            return list(self.first)
        return [name.lower() for name, _ in self.fields]

    @property
    def has_underscore(self) -> bool:
        """Whether the name of any field has ``_`` in it: CGI and its kind cannot tell that from ``-``."""
        return b"_" in b"".join(self.first)

    @property
    def has_unclear_name(self) -> bool:
        """Whether the name of any field has a character that is no letter, digit or ``-`` (:func:`plain_name`)."""
        return bool(b"".join(self.first).translate(None, _PLAIN))

    def lines(self, without: Container[bytes]) -> list[bytes]:
        """The lines of fields as received, without their line ends.

        :param without: lower-case names of the fields to leave out
        """
        if self.raw:
            lines = self.raw[:-4].split(_CRLF)
            del lines[0]
        else:
            lines = [b"%b: %b" % field for field in self.fields]
        return [line for name, line in zip(self.names, lines, strict=True) if name not in without]

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

    __slots__ = ("facts", "is_handshake", "like", "method", "names_go_on", "target", "upgrades")

    def __init__(self, fields: Iterable[Field] = ()) -> None:
        super().__init__(fields)
        self.method = b""
        self.target = b""
        self.upgrades: list[bytes] | None = None
        self.is_handshake = False
        self.facts: Any = None
        """what the edge has found in the fields; for it to note"""
        self.names_go_on: bool | None = None
        """likewise: whether a backend may be sent all of them"""
        self.like: RequestHead | None = None
        """the head that this one is like, see :meth:`like_this`"""

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
        head.names_go_on = self.names_go_on
        head.like = self
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
        head.names_go_on = self.names_go_on
        head.like = None
        return head


class ResponseHead(Head):
    """Status line and fields of a response."""

    __slots__ = ("reason", "status")

    def __init__(self, fields: Iterable[Field] = ()) -> None:
        super().__init__(fields)
        self.status = 0
        self.reason = b""
