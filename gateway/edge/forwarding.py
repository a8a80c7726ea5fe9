"""Which fields of a head go on: to the backend, and back to the client (RFC 9110 section 7.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.protocol.fields import (
    HOP_BY_HOP,
    answer_lines,
    head_bytes,
    hop_by_hop,
    only_upgrade_is_hop_by_hop,
    request_lines,
)
from gateway.protocol.heads import plain_name

if TYPE_CHECKING:
    from gateway.edge.trust import Peer
    from gateway.protocol.heads import RequestHead, ResponseHead
    from gateway.routing.changes import Changes

OURS = frozenset(
    (
        *(b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id"),
        *(b"x-client-cert-subject", b"x-client-cert-san", b"x-client-cert-fingerprint"),
    )
)
"""Fields that the gateway writes itself. What a peer that is not trusted says in them is dropped, and what anybody else
says of certificates."""

_NONE: frozenset[bytes] = frozenset()


# --- to the backend ---------------------------------------------------------------------------------------------------


def lines_to_backend(head: RequestHead, underscores: bool, further: frozenset[bytes] = _NONE) -> bytes:
    """A plain request's fields as a backend is sent them, with CRLF behind each, without those of one connection only
    and those that the gateway adds. Order, case and repetitions stay.

    :param underscores: whether fields with ``_`` in their names go on
    :param further: fields that do not, by name in lower case
    """
    without = OURS | further | unclear_names(head, underscores)
    if not head.http11:
        without |= {b"expect"}  # a client of HTTP/1.0 does not wait, and knows no 100 (RFC 9110 section 10.1.1)
    return b"".join([b"%b\r\n" % line for line in request_lines(head, without)])


def unclear_names(head: RequestHead, underscores: bool) -> frozenset[bytes]:
    """Names of fields that do not go on, as CGI and its kind cannot tell their ``_`` or ``.`` from ``-``.

    :param underscores: whether fields with ``_`` go on in general, as those with ``.`` and the like do. Those that read
        like the gateway's own, or like fields that it and the backend go by, never do
    """
    if not head.has_unclear_name:
        return _NONE
    return frozenset(
        name
        for name in head.first
        if (b"_" in name and not underscores) or ((plain := plain_name(name)) != name and _is_meant(plain))
    )


def _is_meant(name: bytes) -> bool:
    """Whether a field has a meaning for this gateway, which another spelling of it has not."""
    return name in OURS or name in HOP_BY_HOP or name == b"content-length" or name.startswith(b"sec-")


def forwarded(peer: Peer, head: RequestHead) -> tuple[bytes, bytes, bytes]:
    """Values of X-Forwarded-For, -Proto and -Host for a backend.

    :param head: of a request, whose own ones count if the peer is trusted
    """
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


def loop_mark(gateway_id: int) -> bytes:
    """What names a gateway in ``CDN-Loop`` (RFC 8586). :param gateway_id: the same in all processes of a gateway"""
    return b"gateway-%x" % gateway_id


# --- to the client ----------------------------------------------------------------------------------------------------


def switch_to_client(head: ResponseHead, changes: Changes | None = None) -> bytes:
    """The head of a 101 as the client is sent it. Length fields have no business there (RFC 9110 section 8.6).

    :param changes: of its fields, by the configuration
    """
    if (
        changes is None
        and head.raw.startswith(b"HTTP/1.1 ")
        and only_upgrade_is_hop_by_hop(head)
        and b"content-length" not in head.first
    ):
        return head.raw
    dropped = hop_by_hop(head) - {b"connection", b"upgrade"} | {b"content-length", b"transfer-encoding"}
    if changes is None:
        return head_bytes(_status_line(head), head.lines(dropped))
    return head_bytes(_status_line(head), head.lines(dropped | changes.dropped_from(head)) + _set_lines(changes))


def interim_to_client(head: ResponseHead) -> bytes:
    """The head of an interim answer as the client is sent it."""
    return head_bytes(_status_line(head), answer_lines(head, b"GET", True))


def answer_to_client(
    head: ResponseHead, method: bytes, http11: bool, option: bytes = b"", changes: Changes | None = None
) -> bytes:
    """The head of a final answer as the client is sent it.

    :param method: that of the request
    :param http11: whether the client speaks HTTP/1.1
    :param option: for its connection: ``close``, ``keep-alive`` or nothing
    :param changes: of its fields, by the configuration
    """
    if changes is None:
        return head_bytes(_status_line(head), answer_lines(head, method, http11, option))
    lines = answer_lines(head, method, http11, option, changes.dropped_from(head))
    return head_bytes(_status_line(head), lines + _set_lines(changes))


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
    # A status is followed by a space, with a reason phrase behind it or not (RFC 9112 section 4).
    return _OF_ONE_HOP.isdisjoint(first) and head.raw.startswith(b"HTTP/1.1 ") and head.raw[12:13] == b" "


def _set_lines(changes: Changes) -> list[bytes]:
    return [b"%b: %b" % field for field in changes.fields]


def _status_line(head: ResponseHead) -> bytes:
    return b"HTTP/1.1 %d %b" % (head.status, head.reason)
