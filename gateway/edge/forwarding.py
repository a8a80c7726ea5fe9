"""The fields that a backend is sent, and those that a client is sent back (RFC 9110 section 7.6)."""

from __future__ import annotations

from gateway.edge.request import Request
from gateway.protocol.http import (
    Field,
    Head,
    ResponseHead,
    hop_by_hop,
    only_upgrade_is_hop_by_hop,
    request_bytes,
    response_bytes,
)
from gateway.protocol.target import origin_form

_OURS = frozenset((b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id"))


def fields_to_backend(request: Request) -> list[Field]:
    """A request's fields without those of one connection only, and with X-Forwarded-* and X-Request-Id.

    Order, case and repetitions stay. What a peer that is not trusted says in our fields is dropped.
    """
    head = request.head
    dropped = hop_by_hop(head) | _OURS
    fields = [field for name, field in zip(head.names, head.fields, strict=True) if name not in dropped]
    fields += _forwarded(request)
    return fields


def upgrade_to_backend(request: Request) -> bytes:
    """The head of a handshake as the backend is sent it."""
    head = request.head
    if (
        only_upgrade_is_hop_by_hop(head)
        and head.first[b"upgrade"].lower() == request.upgrade
        and _OURS.isdisjoint(head.first)
        and head.target.startswith(b"/")
        and head.raw.startswith(b"%b %b HTTP/1.1\r\n" % (head.method, head.target))
    ):
        # Most handshakes are such, and need not be put together anew.
        return b"%b%b\r\n" % (head.raw[:-2], _FORWARDED % _values_forwarded(request))
    dropped = hop_by_hop(head) | _OURS
    fields: list[Field] = []
    written = set()
    for lower, field in zip(head.names, head.fields, strict=True):
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
    fields += _forwarded(request)
    return request_bytes(head.method, origin_form(head.target, head.method), fields)


def answer_to_client(head: ResponseHead) -> bytes:
    """The head of a 101 or of an interim answer as the client is sent it."""
    if head.raw.startswith(b"HTTP/1.1 ") and only_upgrade_is_hop_by_hop(head):
        return head.raw
    return response_bytes(head.status, head.reason, _end_to_end(head, keep=(b"connection", b"upgrade")))


def last_answer_to_client(head: ResponseHead) -> bytes:
    """The head of an answer behind which the connection is closed. Its body is relayed framed as it came."""
    fields = _end_to_end(head, keep=(b"transfer-encoding",))
    fields.append((b"Connection", b"close"))
    return response_bytes(head.status, head.reason, fields)


def fields_to_client(head: Head) -> list[Field]:
    """An ordinary answer's fields without those of one connection only."""
    return _end_to_end(head, keep=())


def _end_to_end(head: Head, keep: tuple[bytes, ...]) -> list[Field]:
    dropped = hop_by_hop(head)
    return [field for name, field in zip(head.names, head.fields, strict=True) if name not in dropped or name in keep]


_FORWARDED_NAMES = (b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host", b"X-Request-Id")
_FORWARDED = b"".join(b"%b: %%b\r\n" % name for name in _FORWARDED_NAMES)


def _forwarded(request: Request) -> list[Field]:
    return list(zip(_FORWARDED_NAMES, _values_forwarded(request), strict=True))


def _values_forwarded(request: Request) -> tuple[bytes, bytes, bytes, bytes]:
    """Values of the fields in ``_FORWARDED_NAMES``."""
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
    return host, proto, name, request.request_id.encode("latin-1")
