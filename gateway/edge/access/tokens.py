"""Where a request has its token, and the request without it.

A backend may look for the token itself, and read what was sent in its own way: names of any case or encoding, the first
or the last of several. So every copy counts that any reader could take for the token, and copies that differ are
refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

from gateway.edge.access.jws import BadToken
from gateway.protocol.heads import RequestHead

_NOTHING: Mapping[bytes, bytes] = MappingProxyType({})
_BEARER = re.compile(rb"(?i:bearer)(?:[ \t]+(.*))?\Z", re.DOTALL)
_SEPARATOR = re.compile(rb"([&;])")
"""Some servers split a query at semicolons, too."""

_WITHIN_PAIR = re.compile(rb"[, \t]+")
"""Where some servers split cookies, too: commas as in RFC 2965, spaces as Python's ``http.cookies``."""

_UNDERSCORES = bytes.maketrans(b". [", b"___")
"""What PHP makes of names."""


class Found(NamedTuple):
    """What was found in a request."""

    token: bytes
    """empty if there is none"""
    target: bytes | None = None
    """for the backend, in origin form; None for that of the request"""
    replaced: Mapping[bytes, bytes] = _NOTHING
    """values of fields for the backend, by name in lower case; empty ones are removed"""
    marker: bytes = b""
    """subprotocol that announced the token"""


class Edits:
    """What changes in a request on its way to the backend."""

    __slots__ = ("marker", "replaced", "target")

    def __init__(self, target: bytes) -> None:
        self.target = target
        self.replaced: dict[bytes, bytes] = {}
        self.marker = b""


class Place(Protocol):
    """Where a token may be."""

    def find(self, head: RequestHead, target: bytes) -> bytes:
        """The token; empty if there is none. :raises BadToken: there are several"""

    def take_out(self, head: RequestHead, edits: Edits) -> None:
        """Remove whatever could be taken for the token."""


class Places:
    """The places of a route, in order. The first that has a token decides."""

    def __init__(self, sources: Sequence[tuple[str, str]], remove: bool) -> None:
        """
        :param sources: places and names
        :param remove: whether backends get no token. Those among the subprotocols they never get: they would select one
        """
        self._places = [_place(place, name.encode()) for place, name in sources]
        self._emptied = [place for place in self._places if remove or isinstance(place, InSubprotocols)]

    def find(self, head: RequestHead, target: bytes) -> Found:
        """Find a request's token. :raises BadToken: one place has several"""
        token = b""
        places = iter(self._places)
        for place in places:
            token = place.find(head, target)
            if token:
                break
        # A backend may look elsewhere first, and would find there what nobody has checked.
        unchecked = [place for place in places if _has_another(place, head, target, token)]
        if not self._emptied and not unchecked:
            return Found(token)
        edits = Edits(target)
        for place in dict.fromkeys(self._emptied + unchecked):
            place.take_out(head, edits)
        changed = None if edits.target is target else edits.target
        return Found(token, changed, edits.replaced or _NOTHING, edits.marker)


class InAuthorization:
    """A bearer token (RFC 6750 section 2.1)."""

    def find(self, head: RequestHead, target: bytes) -> bytes:
        """As :meth:`Place.find`. Credentials of other schemes are somebody else's."""
        value = head.first.get(b"authorization")
        if value is None:
            return b""
        if b"authorization" in head.repeated:
            raise BadToken("there is more than one Authorization field")
        match = _BEARER.match(value)
        return (match[1] or b"") if match is not None else b""

    def take_out(self, head: RequestHead, edits: Edits) -> None:
        """As :meth:`Place.take_out`."""
        if any(_BEARER.match(value) for value in head.values(b"authorization")):
            edits.replaced[b"authorization"] = b""


class InCookie:
    """A cookie's value (RFC 6265 section 5.4)."""

    def __init__(self, name: bytes) -> None:
        self._name = _plain(name)

    def find(self, head: RequestHead, target: bytes) -> bytes:
        """As :meth:`Place.find`."""
        if b"cookie" not in head.first:
            return b""
        return _only({copy for pair in self._pairs(head) for copy in self._copies(pair)}, "cookie")

    def take_out(self, head: RequestHead, edits: Edits) -> None:
        """As :meth:`Place.take_out`."""
        if b"cookie" in head.first and any(map(self._copies, self._pairs(head))):
            rest = [pair for pair in self._pairs(edits.replaced.get(b"cookie", head)) if not self._copies(pair)]
            edits.replaced[b"cookie"] = b"; ".join(rest)

    def _copies(self, pair: bytes) -> list[bytes]:
        """Values of the token in a pair, and in what some servers read as pairs of their own."""
        pieces = [pair, *_WITHIN_PAIR.split(pair)] if _WITHIN_PAIR.search(pair) else [pair]
        copies = []
        for piece in pieces:
            name, equals, value = piece.partition(b"=")
            if equals and self._name in _readings(name):
                copies.append(value.strip(b" \t").removeprefix(b'"').removesuffix(b'"'))
        return copies

    @staticmethod
    def _pairs(cookies: RequestHead | bytes) -> Iterator[bytes]:
        """:param cookies: as the client sent them, or what is left of them"""
        for value in [cookies] if isinstance(cookies, bytes) else cookies.values(b"cookie"):
            for pair in value.split(b";"):
                if pair := pair.strip(b" \t"):
                    yield pair


class InQuery:
    """A parameter of the query (RFC 6750 section 2.3)."""

    def __init__(self, name: bytes) -> None:
        self._name = _plain(name)

    def find(self, head: RequestHead, target: bytes) -> bytes:
        """As :meth:`Place.find`."""
        _, mark, query = target.partition(b"?")
        if not mark:
            return b""
        return _only({_unquoted(part.partition(b"=")[2]) for part in self._copies(query)}, "parameter of the query")

    def take_out(self, head: RequestHead, edits: Edits) -> None:
        """As :meth:`Place.take_out`. The rest stays as it is, byte for byte."""
        path, mark, query = edits.target.partition(b"?")
        if not mark or not self._copies(query):
            return
        pieces = _SEPARATOR.split(query)
        rest = b""
        for at in range(0, len(pieces), 2):
            if not self._is_token(pieces[at]):
                rest += b"".join(pieces[max(at - 1, 0) : at + 1])
        if self._is_token(pieces[0]):
            rest = rest[1:]  # the separator that was behind it
        edits.target = path + mark + rest if rest else path

    def _copies(self, query: bytes) -> list[bytes]:
        return [part for part in _SEPARATOR.split(query)[::2] if self._is_token(part)]

    def _is_token(self, part: bytes) -> bool:
        return self._name in _readings(part.partition(b"=")[0])


class InSubprotocols:
    """Items of ``Sec-WebSocket-Protocol``, the one field that a browser lets a page choose: ``NAME, TOKEN`` or
    ``NAME.TOKEN``."""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self._prefix = name + b"."

    def find(self, head: RequestHead, target: bytes) -> bytes:
        """As :meth:`Place.find`."""
        if b"sec-websocket-protocol" not in head.first:
            return b""
        return _only(set(self._split(head)[0]), "subprotocol")

    def take_out(self, head: RequestHead, edits: Edits) -> None:
        """As :meth:`Place.take_out`, and note whether a browser has to be answered NAME."""
        if b"sec-websocket-protocol" not in head.first:
            return
        tokens, rest, announced = self._split(edits.replaced.get(b"sec-websocket-protocol", head))
        if tokens:
            edits.replaced[b"sec-websocket-protocol"] = b", ".join(rest)
        if announced:
            edits.marker = self._name

    def _split(self, offered: RequestHead | bytes) -> tuple[list[bytes], list[bytes], bool]:
        """:returns: tokens, other items, and whether NAME is one by itself"""
        if isinstance(offered, bytes):
            items = [item for part in offered.split(b",") if (item := part.strip())]
        else:
            items = offered.items(b"sec-websocket-protocol")
        tokens, rest, announced = [], [], False
        left = iter(items)
        for item in left:
            if item == self._name:
                announced = True
                tokens.append(next(left, b""))
            elif item.startswith(self._prefix):
                tokens.append(item[len(self._prefix) :])
            else:
                rest.append(item)
        return tokens, rest, announced


def _place(place: str, name: bytes) -> Place:
    if place == "header":
        return InAuthorization()
    if place == "cookie":
        return InCookie(name)
    return InQuery(name) if place == "query" else InSubprotocols(name)


def _only(values: set[bytes], what: str) -> bytes:
    if len(values) > 1:
        raise BadToken(f"there are different tokens: more than one {what} of the name")
    return values.pop() if values else b""


def _unquoted(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


def _readings(name: bytes) -> tuple[bytes, bytes]:
    """What readers could take a name for. They differ on case, encoding, spaces, and on brackets: ``a[b`` is ``a[b``,
    ``a`` or ``a_b``."""
    name = _unquoted(name).strip().partition(b"\0")[0]
    return _plain(name), _plain(name.partition(b"[")[0])


def _plain(name: bytes) -> bytes:
    return name.lower().strip().translate(_UNDERSCORES)


def _has_another(place: Place, head: RequestHead, target: bytes, token: bytes) -> bool:
    """Whether a place has a token that differs from one."""
    try:
        return place.find(head, target) not in (b"", token)
    except BadToken:
        return True
