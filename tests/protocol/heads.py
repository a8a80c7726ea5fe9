"""Heads as bytes, and what the readers make of them."""

from gateway.protocol.answers import ResponseReader
from gateway.protocol.heads import BadHead, RequestHead, ResponseHead
from gateway.protocol.requests import RequestReader

HANDSHAKE = (
    b"GET /ws HTTP/1.1",
    b"Host: chat.example.com",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Key: Uc9l9TMkWGbHFD2qnFHltg==",
    b"Sec-WebSocket-Version: 13",
)
ACCEPT = b"1qVdfYHU9hPOl4JYYNXF623Gzn0="


def head_bytes(*lines: bytes) -> bytes:
    """A head of these lines."""
    return b"\r\n".join((*lines, b"", b""))


def request_head(*lines: bytes) -> RequestHead:
    """What is read of a request. :raises BadHead: it is refused"""
    head = RequestReader().feed(head_bytes(*lines))
    assert head is not None
    return head


def handshake(
    *, without: bytes = b"", method: bytes = b"GET", version: bytes = b"1.1", more: tuple = ()
) -> RequestHead:
    """The handshake of the issue, without the fields whose names begin with ``without``, and with some ``more``."""
    fields = [line for line in HANDSHAKE[1:] if not without or not line.startswith(without)]
    return request_head(b"%b /ws HTTP/%b" % (method, version), *fields, *more)


def response_head(*lines: bytes) -> ResponseHead:
    """What is read of an answer. :raises BadResponse: it is refused"""
    head = ResponseReader().feed(head_bytes(*lines))
    assert head is not None
    return head


def outcome(*chunks: bytes) -> object:
    """What comes of a request in these chunks: the head and what is behind it, a refusal, or None for more to come."""
    reader = RequestReader()
    for i, chunk in enumerate(chunks):
        try:
            head = reader.feed(chunk)
        except BadHead as error:
            return error.status, str(error)
        if head is not None:
            behind = reader.received[head.size :] + b"".join(chunks[i + 1 :])
            return head.method, head.target, head.http11, head.fields, behind
    return None
