"""The fields that a backend is sent, and those that a client is sent back (RFC 9110 section 7.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.protocol.http import (
    Field,
    Head,
    RequestHead,
    ResponseHead,
    hop_by_hop,
    only_upgrade_is_hop_by_hop,
    request_bytes,
    response_bytes,
)

if TYPE_CHECKING:
    from gateway.edge.in_force import InForce
    from gateway.edge.request import Request

_OURS = frozenset((b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id"))
"""Fields that the gateway writes itself. What a peer that is not trusted says in them is dropped."""

_OF_THE_BODY = frozenset((b"transfer-encoding", b"trailer"))
"""Fields of one connection that go on all the same, since the body is relayed in its framing."""


# --- to the backend ---------------------------------------------------------------------------------------------------


def lines_to_backend(head: RequestHead, underscores: bool) -> bytes:
    """A plain request's fields as a backend is sent them, with CRLF behind each, without those of one connection only
    and those that the gateway adds. Order, case and repetitions stay.

    :param underscores: whether fields with ``_`` in their names go on; a CGI or WSGI backend cannot tell them from ours
    """
    dropped = (hop_by_hop(head) | _OURS) - _OF_THE_BODY
    if not head.http11:
        dropped |= {b"expect"}  # a client of HTTP/1.0 does not wait, and knows no 100 (RFC 9110 section 10.1.1)
    lines = []
    for name, field in zip(head.names, head.fields, strict=True):
        if name not in dropped and (underscores or b"_" not in name):
            lines.append(b"%b: %b\r\n" % field)
    if b"host" not in head.first:
        lines.insert(0, b"Host: \r\n")  # RFC 9112 section 3.2: one of HTTP/1.1 has it, be it empty
    return b"".join(lines)


def request_to_backend(request: Request, config: InForce) -> bytes:
    """The head of a plain request as the backend is sent it."""
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (
        request.head.method,
        request.target,
        request.facts.lines,
        _FORWARDED % (*_forwarded(request), config.loop_field, request.request_id.encode("latin-1")),
    )


def upgrade_to_backend(request: Request, config: InForce) -> bytes:
    """The head of a handshake as the backend is sent it."""
    head = request.head
    ours = _FORWARDED % (*_forwarded(request), config.loop_field, request.request_id.encode("latin-1"))
    if (
        only_upgrade_is_hop_by_hop(head)
        and head.first[b"upgrade"].lower() == request.upgrade
        and _OURS.isdisjoint(head.first)
        and (config.underscores or not head.has_underscore)
        and head.raw.startswith(b"%b %b HTTP/1.1\r\n" % (head.method, request.target))
    ):
        # Most handshakes are such, and need not be put together anew.
        return b"%b%b\r\n" % (head.raw[:-2], ours)
    dropped = hop_by_hop(head) | _OURS
    fields: list[Field] = []
    written = set()
    for lower, field in zip(head.names, head.fields, strict=True):
        if b"_" in lower and not config.underscores:
            continue
        if lower not in dropped:
            fields.append(field)
        elif (lower == b"connection" or lower == b"upgrade") and lower not in written:
            written.add(lower)
            name, value = field
            # Of several protocols the backend is asked for the one that the route allows.
            if lower == b"connection":
                value = b"Upgrade"
            elif value.lower() != request.upgrade:
                value = request.upgrade or b""
            fields.append((name, value))
    return b"%b%b\r\n" % (request_bytes(head.method, request.target, fields)[:-2], ours)


_FORWARDED = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\n%bX-Request-Id: %b\r\n"


def _forwarded(request: Request) -> tuple[bytes, bytes, bytes]:
    """Values of X-Forwarded-For, -Proto and -Host."""
    head = request.head
    peer = request.peer
    host = peer.host.encode() or b"unix:"
    proto = b"http"
    name = head.first.get(b"host", b"")
    if peer.trusted:
        before = b", ".join(head.values(b"x-forwarded-for"))
        if before:
            host = before + b", " + host if peer.host else before
        proto = head.first.get(b"x-forwarded-proto", proto)
        name = head.first.get(b"x-forwarded-host", name)
    return host, proto, name


# --- to the client ----------------------------------------------------------------------------------------------------


def answer_to_client(head: ResponseHead) -> bytes:
    """The head of a 101 as the client is sent it. Length fields have no business there (RFC 9110 section 8.6)."""
    if head.raw.startswith(b"HTTP/1.1 ") and only_upgrade_is_hop_by_hop(head) and b"content-length" not in head.first:
        return head.raw
    fields = _end_to_end(head, keep=(b"connection", b"upgrade"), drop=(b"content-length", b"transfer-encoding"))
    return response_bytes(head.status, head.reason, fields)


def interim_to_client(head: ResponseHead) -> bytes:
    """The head of an interim answer as the client is sent it."""
    return response_bytes(head.status, head.reason, _end_to_end(head, drop=(b"content-length", b"transfer-encoding")))


def fields_to_client(head: ResponseHead, keep_chunked: bool) -> list[Field]:
    """A final answer's fields without those of one connection only.

    An ``Upgrade`` stays: a 426 needs it, and any other answer may offer it (RFC 9110 sections 7.8 and 15.5.22).

    :param keep_chunked: whether the body is relayed in its chunks
    """
    keep: tuple[bytes, ...] = (b"transfer-encoding", b"trailer") if keep_chunked else (b"trailer",)
    drop: tuple[bytes, ...] = ()
    if head.status == 204:
        drop = (b"content-length", b"transfer-encoding")  # RFC 9110 section 8.6
    elif head.status == 304 and not keep_chunked:
        drop = (b"transfer-encoding",)
    offered = b"upgrade" in head.first and b"upgrade" in head.tokens(b"connection")
    if not offered:
        return _end_to_end(head, keep, drop)
    return [*_end_to_end(head, (*keep, b"upgrade"), drop), (b"Connection", b"Upgrade")]


def goes_as_it_came(head: ResponseHead) -> bool:
    """Whether no field of an answer concerns one connection only, so that its bytes can go on as they are."""
    return head.raw.startswith(b"HTTP/1.1 ") and b"connection" not in head.first


def _end_to_end(head: Head, keep: tuple[bytes, ...] = (), drop: tuple[bytes, ...] = ()) -> list[Field]:
    dropped = hop_by_hop(head)
    return [
        field
        for name, field in zip(head.names, head.fields, strict=True)
        if (name not in dropped or name in keep) and name not in drop
    ]
