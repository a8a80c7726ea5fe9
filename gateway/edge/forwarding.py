"""The fields that a backend is sent, and those that a client is sent back (RFC 9110 section 7.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.protocol.fields import (
    answer_lines,
    head_bytes,
    hop_by_hop,
    only_upgrade_is_hop_by_hop,
    request_bytes,
    request_lines,
)

if TYPE_CHECKING:
    from gateway.edge.in_force import InForce
    from gateway.edge.request import Request
    from gateway.protocol.heads import Field, RequestHead, ResponseHead

_OURS = frozenset((b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id"))
"""Fields that the gateway writes itself. What a peer that is not trusted says in them is dropped."""


# --- to the backend ---------------------------------------------------------------------------------------------------


def lines_to_backend(head: RequestHead, underscores: bool) -> bytes:
    """A plain request's fields as a backend is sent them, with CRLF behind each, without those of one connection only
    and those that the gateway adds. Order, case and repetitions stay.

    :param underscores: whether fields with ``_`` in their names go on; a CGI or WSGI backend cannot tell them from ours
    """
    without = _OURS
    if not underscores and head.has_underscore:
        without |= {name for name in head.first if b"_" in name}
    if not head.http11:
        without |= {b"expect"}  # a client of HTTP/1.0 does not wait, and knows no 100 (RFC 9110 section 10.1.1)
    return b"".join([b"%b\r\n" % line for line in request_lines(head, without)])


def request_to_backend(request: Request, config: InForce) -> bytes:
    """The head of a plain request as the backend is sent it."""
    head = request.head
    lines = request.facts.lines
    if b"host" not in head.first:  # one of HTTP/1.0; nginx sends its upstream's name, too
        lines = b"Host: %b\r\n%b" % (request.route.upstream.name.encode(), lines)
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (
        head.method,
        request.target,
        lines,
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


def switch_to_client(head: ResponseHead) -> bytes:
    """The head of a 101 as the client is sent it. Length fields have no business there (RFC 9110 section 8.6)."""
    if head.raw.startswith(b"HTTP/1.1 ") and only_upgrade_is_hop_by_hop(head) and b"content-length" not in head.first:
        return head.raw
    dropped = hop_by_hop(head) - {b"connection", b"upgrade"} | {b"content-length", b"transfer-encoding"}
    return head_bytes(_status_line(head), head.lines(dropped))


def interim_to_client(head: ResponseHead) -> bytes:
    """The head of an interim answer as the client is sent it."""
    return head_bytes(_status_line(head), answer_lines(head, b"GET", True))


def answer_to_client(head: ResponseHead, method: bytes, http11: bool, option: bytes = b"") -> bytes:
    """The head of a final answer as the client is sent it.

    :param method: that of the request
    :param http11: whether the client speaks HTTP/1.1
    :param option: for its connection: ``close``, ``keep-alive`` or nothing
    """
    return head_bytes(_status_line(head), answer_lines(head, method, http11, option))


_OF_ONE_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"upgrade",
    )
)


def goes_as_it_came(head: ResponseHead, method: bytes) -> bool:
    """Whether a final answer's head needs no change for a client of HTTP/1.1 whose connection stays."""
    first = head.first
    if head.status == 204 or (b"transfer-encoding" in first and (method == b"HEAD" or head.status == 304)):
        return False
    return _OF_ONE_HOP.isdisjoint(first) and head.raw.startswith(b"HTTP/1.1 ")


def _status_line(head: ResponseHead) -> bytes:
    return b"HTTP/1.1 %d %b" % (head.status, head.reason)
