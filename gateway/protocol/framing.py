"""Which body a message has, judged by its head (RFC 9112 section 6.3).

Ambiguity is refused in both directions: a request gets a 400 and never reaches a backend, an answer becomes a 502.
"""

from __future__ import annotations

import re

from gateway.protocol.bodies import LARGEST, REFUSED_TRAILERS, Chunked, Framer, Length, UntilClose
from gateway.protocol.heads import BadHead, BadResponse, Head, RequestHead, ResponseHead, plain_name

_LENGTH = re.compile(rb"[0-9]{1,40}\Z")
_CODING = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")


def request_body(head: RequestHead, kept_out: frozenset[bytes] = frozenset()) -> Framer | None:
    """What finds the end of a request's body; None where there is no body.

    :param kept_out: further names that trailer fields may not have, in lower case: of fields that the backend gets from
        the gateway, or not at all
    :raises BadHead: 400 where two servers could see different ends, 501 for a transfer coding other than chunked
    """
    first = head.first
    if b"transfer-encoding" in first:
        if b"content-length" in first:
            raise BadHead(400, "both Content-Length and Transfer-Encoding")
        if not head.http11:
            raise BadHead(400, "Transfer-Encoding in HTTP/1.0")
        codings = _codings(head)
        if codings != [b"chunked"]:
            _refuse_codings(codings)
        if kept_out:
            return Chunked(forbidden=REFUSED_TRAILERS.union(map(plain_name, kept_out)))
        return Chunked()
    if b"content-length" in first:
        length = _content_length(head)
        if length < 0:
            raise BadHead(400, "malformed or repeated Content-Length")
        return Length(length) if length else None
    return None


def answer_body(head: ResponseHead, method: bytes) -> Framer | None:
    """What finds the end of an answer's body; None where there is no body.

    The answer to a CONNECT is not provided for: a reverse proxy passes none on.

    :param method: that of the request
    :raises BadResponse: two clients could see different ends
    """
    status = head.status
    if method == b"HEAD" or status == 204 or status == 304 or status < 200:
        return None
    first = head.first
    if b"transfer-encoding" in first:
        if b"content-length" in first:
            raise BadResponse("both Content-Length and Transfer-Encoding in the answer")
        if not head.http11:
            raise BadResponse("Transfer-Encoding in an answer of HTTP/1.0")
        if _codings(head) != [b"chunked"]:
            raise BadResponse("a transfer coding other than chunked in the answer")
        return Chunked(padded=True)
    if b"content-length" in first:
        length = _content_length(head)
        if length < 0:
            raise BadResponse("malformed or repeated Content-Length in the answer")
        return Length(length) if length else None
    return UntilClose()


def _content_length(head: Head) -> int:
    """The value of Content-Length, -1 where it is not one decimal number that fits 63 bits.

    RFC 9110 section 8.6 lets a recipient take repetitions of one value for one field. HAProxy does, also for the list
    ``1, 1``; nginx and llhttp refuse both, from clients and backends, and so does the gateway.
    """
    value = head.first[b"content-length"]
    if b"content-length" in head.repeated or not _LENGTH.match(value):
        return -1
    length = int(value)
    return length if length <= LARGEST else -1


def _codings(head: Head) -> list[bytes]:
    """Members of Transfer-Encoding in lower case, empty ones too: some servers skip those, others do not."""
    if b"transfer-encoding" not in head.repeated:
        value = head.first[b"transfer-encoding"].lower()
        if value == b"chunked":
            return [value]
    return [part.strip(b" \t").lower() for value in head.values(b"transfer-encoding") for part in value.split(b",")]


def _refuse_codings(codings: list[bytes]) -> None:
    """:raises BadHead: always"""
    names = [coding.partition(b";")[0].rstrip(b" \t") for coding in codings]
    if not all(map(_CODING.match, names)):
        raise BadHead(400, "malformed Transfer-Encoding")
    if names.count(b"chunked") > 1:
        raise BadHead(400, "chunked twice in Transfer-Encoding")
    if b"chunked" in names[:-1]:
        raise BadHead(400, "chunked is not the last of Transfer-Encoding")
    if names == [b"chunked"]:
        raise BadHead(400, "chunked with a parameter in Transfer-Encoding")
    raise BadHead(501, "a transfer coding other than chunked")
