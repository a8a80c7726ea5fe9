"""Heads as a backend is sent them: of plain requests and of handshakes, with the fields that the gateway adds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.edge.forwarding import OURS, forwarded, lines_to_backend, unclear_names
from gateway.protocol.fields import hop_by_hop, only_upgrade_is_hop_by_hop, request_bytes
from gateway.protocol.heads import plain_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.edge.access.granted import Granted
    from gateway.edge.in_force import InForce
    from gateway.edge.request import Request
    from gateway.protocol.heads import Field, RequestHead
    from gateway.routing.changes import Changes


def request_to_backend(request: Request, config: InForce) -> bytes:
    """The head of a plain request as the backend is sent it."""
    head = request.head
    granted = request.granted
    changes = request.route.changes
    if changes is not None:
        lines = _changed_lines(request, changes, config)
    elif granted is None or not _changes(granted, head):
        lines = request.facts.lines
    else:
        changed = _changed_by(granted, head)
        lines = lines_to_backend(head, config.underscores, changed)
        lines += b"".join([b"%b: %b\r\n" % (name.title(), value) for name, value in granted.replaced.items() if value])
    if b"host" not in head.first and (changes is None or not changes.host):
        # One of HTTP/1.0; nginx sends its upstream's name, too.
        lines = b"Host: %b\r\n%b" % (request.upstream.name.encode(), lines)
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (
        head.method,
        _target(request),
        lines,
        _ours(request, config),
    )


def upgrade_to_backend(request: Request, config: InForce) -> bytes:
    """The head of a handshake as the backend is sent it."""
    head = request.head
    ours = _ours(request, config)
    granted = request.granted
    target = _target(request)
    is_changed = granted is not None and _changes(granted, head)
    changes = request.route.changes
    if (
        not is_changed
        and changes is None
        and (head.names_go_on if head.names_go_on is not None else _names_go_on(head))
        and head.first[b"upgrade"].lower() == request.upgrade
        and (
            (head.like is not None and target is head.target)  # as known_heads.py has seen to
            or head.raw.startswith(b"%b %b HTTP/1.1\r\n" % (head.method, target))
        )
    ):
        # Most handshakes are such, and need not be put together anew.
        return b"".join((head.raw[:-2], ours, b"\r\n"))
    dropped = hop_by_hop(head) | OURS
    replaced: Mapping[bytes, bytes] = {}
    if granted is not None and is_changed:
        dropped |= _changed_by(granted, head)
        replaced = granted.replaced
    if changes is not None:
        dropped |= changes.dropped_from(head)
    unclear = unclear_names(head, config.underscores)
    fields: list[Field] = [(b"Host", changes.host)] if changes is not None and changes.host else []
    written = set()
    for lower, field in zip(head.names, head.fields, strict=True):
        if lower in unclear:
            continue
        if lower in replaced and (changes is None or lower not in changes.names):
            if lower not in written and replaced[lower]:
                written.add(lower)
                fields.append((field[0], replaced[lower]))
        elif lower not in dropped:
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
    if changes is not None:
        fields += changes.fields
    return b"%b%b\r\n" % (request_bytes(head.method, target, fields)[:-2], ours)


def names_kept_out(request: Request) -> frozenset[bytes]:
    """Names, in lower case, of fields that the backend gets from the gateway or not at all: what the route changes, and
    what credentials have shown. The client's own must not come in a trailer either."""
    granted, changes = request.granted, request.route.changes
    names: frozenset[bytes] = frozenset() if changes is None else changes.names
    return names if granted is None else names | granted.without | granted.replaced.keys()


def _names_go_on(head: RequestHead) -> bool:
    """Whether a backend may be sent all fields of a handshake, by their names."""
    head.names_go_on = only_upgrade_is_hop_by_hop(head) and OURS.isdisjoint(head.first) and not head.has_unclear_name
    return head.names_go_on


def _target(request: Request) -> bytes:
    granted = request.granted
    target = request.target if granted is None or granted.target is None else granted.target
    return target if request.rewritten is None else request.rewritten.of(target)


def _changed_lines(request: Request, changes: Changes, config: InForce) -> bytes:
    """The fields of a plain request whose route changes some. What credentials have changed is changed, too."""
    head = request.head
    granted = request.granted
    is_changed = granted is not None and _changes(granted, head)
    known = request.facts.changed
    if known is not None and known[0] is changes and not is_changed:
        return known[1]
    dropped = changes.dropped_from(head)
    replaced: list[bytes] = []
    if granted is not None and is_changed:
        dropped |= _changed_by(granted, head)
        replaced = [
            b"%b: %b\r\n" % (name.title(), value)
            for name, value in granted.replaced.items()
            if value and name not in changes.names
        ]
    host = b"Host: %b\r\n" % changes.host if changes.host else b""
    lines = b"".join((host, lines_to_backend(head, config.underscores, dropped), *replaced, changes.lines))
    if not is_changed:
        request.facts.changed = (changes, lines)
    return lines


def _changes(granted: Granted, head: RequestHead) -> bool:
    """Whether a request's own fields change by what its credentials have shown."""
    return (
        bool(granted.replaced)
        or not granted.without.isdisjoint(head.first)
        or (bool(granted.without) and head.has_unclear_name)
    )


def _changed_by(granted: Granted, head: RequestHead) -> frozenset[bytes]:
    """Names of a request's fields that do not go on as they are, by what its credentials have shown.

    CGI and its kind read ``X_User`` and ``X.User`` as ``X-User``, so a client's own of such a spelling counts, too.
    """
    names = granted.without | granted.replaced.keys()
    return names | {name for name in head.first if plain_name(name) in names}


_FOR, _PROTO = b"X-Forwarded-For: ", b"\r\nX-Forwarded-Proto: "
_HOST, _ID = b"\r\nX-Forwarded-Host: ", b"X-Request-Id: "


def _ours(request: Request, config: InForce) -> bytes:
    """The fields that the gateway adds."""
    request_id = request.request_id.encode("latin-1")
    peer = request.peer
    host, proto, name = forwarded(peer, request.head)
    ours = b"".join((_FOR, host, _PROTO, proto, _HOST, name, b"\r\n", config.loop_field, _ID, request_id, b"\r\n"))
    fields = peer.certificate_fields
    if request.granted is not None:
        fields += request.granted.fields
    return ours + fields if fields else ours
