"""Which fields of a head go on, and heads as bytes (RFC 9110 sections 7.6 and 7.8).

Transfer codings belong to one connection, too, but a body is relayed as it came, and so its Transfer-Encoding stays;
trailers go with it, and so Trailer stays.
"""

from __future__ import annotations

from typing import Final

from gateway.protocol.heads import Field, Head, RequestHead, ResponseHead

_CRLF: Final = b"\r\n"
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""Fields that concern one connection only, whether Connection names them or not."""

_OTHER_HOP_BY_HOP = HOP_BY_HOP - {b"connection", b"upgrade"}
# Fields that a sender may not have removed by naming them in Connection.
_KEPT = frozenset((b"host", b"content-length", b"cookie", b"authorization", b"origin", b"expect", b"trailer"))
_FRAMING = frozenset((b"content-length", b"transfer-encoding"))


def hop_by_hop(head: Head) -> frozenset[bytes]:
    """Lower-case names of the fields that concern one connection only (RFC 9110 section 7.6.1)."""
    named = head.tokens(b"connection")
    if not named or named == [b"upgrade"] or named == [b"keep-alive"] or named == [b"close"]:
        return HOP_BY_HOP
    return HOP_BY_HOP | {name for name in named if name not in _KEPT and not name.startswith(b"sec-")}


def only_upgrade_is_hop_by_hop(head: Head) -> bool:
    """Whether Connection and Upgrade, each once and naming nothing else, are all that concerns one connection only.

    A head that was read as it is here can then go on as it is.
    """
    if head.one_hop is None:
        head.one_hop = (
            head.first.get(b"connection", b"").lower() == b"upgrade"
            and _OTHER_HOP_BY_HOP.isdisjoint(head.first)
            and (not head.repeated or not (b"connection" in head.repeated or b"upgrade" in head.repeated))
        )
    return head.one_hop


def request_lines(head: RequestHead, without: frozenset[bytes] = frozenset()) -> list[bytes]:
    """The lines of fields with which a request that is no upgrade goes on to a backend.

    :param without: lower-case names of further fields to leave out
    """
    return head.lines((hop_by_hop(head) - {b"transfer-encoding"}) | without)


def answer_lines(
    head: ResponseHead, method: bytes, http11: bool, connection: bytes = b"", further: frozenset[bytes] = frozenset()
) -> list[bytes]:
    """The lines of fields with which an answer goes on to a client.

    Content-Length and Transfer-Encoding go out of a 1xx and a 204 (RFC 9110 section 8.6, RFC 9112 section 6.1). Where
    an answer to HEAD or a 304 says how long a body would be, that stays. Upgrade stays, with the Connection that
    belongs to it: a 426 says with it what to upgrade to, and any answer may (RFC 9110 sections 7.8 and 15.5.22).

    :param method: that of the request
    :param http11: whether the client speaks HTTP/1.1. To one of HTTP/1.0 a body goes without chunks
    :param connection: an option for the client's connection, ``close`` or ``keep-alive``
    :param further: lower-case names of further fields to leave out
    """
    status = head.status
    first = head.first
    dropped = hop_by_hop(head)
    upgrade = http11 and b"upgrade" in first
    if upgrade:
        dropped -= {b"upgrade"}
    if status < 200 or status == 204:
        dropped |= _FRAMING
    elif http11 and method != b"HEAD" and status != 304:
        dropped -= {b"transfer-encoding"}
    lines = head.lines(dropped | further if further else dropped)
    if upgrade:
        connection = connection + b", Upgrade" if connection else b"Upgrade"
    if connection:
        lines.append(b"Connection: " + connection)
    return lines


def head_bytes(first_line: bytes, lines: list[bytes]) -> bytes:
    """A head of this first line and these lines of fields, all without their line ends."""
    return _CRLF.join((first_line, *lines, b"", b""))


def request_bytes(method: bytes, target: bytes, fields: list[Field]) -> bytes:
    """Encode a request head of HTTP/1.1."""
    lines = [b"%b %b HTTP/1.1\r\n" % (method, target)]
    lines += [b"%b: %b\r\n" % field for field in fields]
    lines.append(_CRLF)
    return b"".join(lines)


def response_bytes(status: int, reason: bytes, fields: list[Field]) -> bytes:
    """Encode a response head of HTTP/1.1."""
    lines = [b"HTTP/1.1 %d %b\r\n" % (status, reason)]
    lines += [b"%b: %b\r\n" % field for field in fields]
    lines.append(_CRLF)
    return b"".join(lines)
