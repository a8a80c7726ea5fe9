"""What an auth server is asked about a request: the fields of the sub-request."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway.edge.forwarding import OURS, forwarded
from gateway.edge.refused import Refused
from gateway.edge.trust import host_of
from gateway.protocol.fields import hop_by_hop
from gateway.protocol.heads import plain_name

if TYPE_CHECKING:
    from gateway.edge.access.method import Entering
    from gateway.protocol.heads import Field

TextField = tuple[str, str]
"""A field as aiohttp takes it; it encodes names and values as UTF-8."""

_NOT_ASKED = OURS | frozenset(
    (
        b"host",  # the sub-request has the auth server's
        *(b"content-length", b"transfer-encoding", b"content-encoding", b"trailer", b"expect"),  # of a body
        # Conditions are on what the backend has. An auth server that applied them to its own page could answer 304.
        *(b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range", b"range"),
        # Sec-WebSocket-Protocol is asked: browsers can put credentials nowhere else.
        *(b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions", b"sec-websocket-accept"),
        *(b"forwarded", b"x-real-ip", b"x-rewrite-url"),
    )
)
_DESCRIBING = (b"x-forwarded-", b"x-original-")
"""Beginnings of names by which proxies tell auth servers what is asked. Only the gateway tells that here."""

_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""Characters of a value that aiohttp does not send."""


def asked_fields(request: Entering, loop_mark: bytes) -> list[TextField]:
    """The fields of the sub-request about a request, but for ``X-Request-Id``.

    They are those that the backend gets, less those of a body, of the protocol to upgrade to and of conditions, and
    those that say what is asked, in any spelling that CGI reads like that. Fields with ``_`` in their names are not
    among them, even where backends get them.

    :param loop_mark: names this gateway in ``CDN-Loop``
    :raises Refused: with status 400: a field cannot be sent on as it is
    """
    head = request.head
    dropped = _NOT_ASKED | hop_by_hop(head)
    # Fields of one name are put in one spelling: aiohttp takes those in two spellings for one that replaces the other.
    fields: list[Field] = [
        (lower.title(), value)
        for lower, (_, value) in zip(head.names, head.fields, strict=True)
        if lower not in dropped and b"_" not in lower and not _describes(plain_name(lower))
    ]
    _, proto, host = forwarded(request.peer, head)
    client = host_of(request.client).encode()
    fields += [
        (b"X-Forwarded-Method", head.method),
        (b"X-Forwarded-Uri", request.target),
        (b"X-Forwarded-Host", host),
        (b"X-Forwarded-Proto", proto),
        (b"X-Forwarded-For", client),
        (b"Cdn-Loop", loop_mark),
    ]
    for line in request.peer.certificate_fields.splitlines():
        name, _, value = line.partition(b":")
        fields.append((name.title(), value.strip()))
    return [_as_text(*field) for field in fields]


def _describes(name: bytes) -> bool:
    """Whether a field says what is asked, or is the gateway's own. :param name: as of :func:`plain_name`"""
    return name in _NOT_ASKED or name.startswith(_DESCRIBING)


def _as_text(name: bytes, value: bytes) -> TextField:
    """:raises Refused: it would not arrive as it is, and so something else would be checked than the backend gets"""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\0"
    if _UNSAFE.search(text):
        shown = name.decode("ascii", "replace")
        raise Refused(400, f"a request here may have only UTF-8 text in its target and in {shown}", "bad_request")
    return name.decode("ascii"), text
