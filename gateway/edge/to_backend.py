"""Heads as a backend is sent them: of plain requests and of handshakes, with the fields that the gateway adds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.edge.forwarding import OURS, unclear_names
from gateway.protocol.fields import hop_by_hop, only_upgrade_is_hop_by_hop, request_bytes

if TYPE_CHECKING:
    from gateway.edge.in_force import InForce
    from gateway.edge.request import Request
    from gateway.protocol.heads import Field


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
        _ours(request, config),
    )


def upgrade_to_backend(request: Request, config: InForce) -> bytes:
    """The head of a handshake as the backend is sent it."""
    head = request.head
    ours = _ours(request, config)
    if (
        only_upgrade_is_hop_by_hop(head)
        and head.first[b"upgrade"].lower() == request.upgrade
        and OURS.isdisjoint(head.first)
        and not head.has_underscore
        and head.raw.startswith(b"%b %b HTTP/1.1\r\n" % (head.method, request.target))
    ):
        # Most handshakes are such, and need not be put together anew.
        return b"%b%b\r\n" % (head.raw[:-2], ours)
    dropped = hop_by_hop(head) | OURS
    unclear = unclear_names(head, config.underscores)
    fields: list[Field] = []
    written = set()
    for lower, field in zip(head.names, head.fields, strict=True):
        if lower in unclear:
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


def _ours(request: Request, config: InForce) -> bytes:
    """The fields that the gateway adds."""
    ours = _FORWARDED % (*_forwarded(request), config.loop_field, request.request_id.encode("latin-1"))
    fields = request.peer.certificate_fields
    return ours + fields if fields else ours


def _forwarded(request: Request) -> tuple[bytes, bytes, bytes]:
    """Values of X-Forwarded-For, -Proto and -Host."""
    head = request.head
    peer = request.peer
    host = peer.host.encode() or b"unix:"
    proto = b"https" if peer.is_tls else b"http"
    name = head.first.get(b"host", b"")
    if peer.trusted:
        before = b", ".join(head.values(b"x-forwarded-for"))
        if before:
            host = before + b", " + host if peer.host else before
        proto = head.first.get(b"x-forwarded-proto", proto)
        name = head.first.get(b"x-forwarded-host", name)
    return host, proto, name
