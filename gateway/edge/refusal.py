"""Answers of the gateway's own."""

from __future__ import annotations

from http import HTTPStatus

from gateway.protocol.fields import response_bytes
from gateway.protocol.heads import Field

RETRY_AFTER_SECONDS = 5
"""When to ask again, for those who get 503 (RFC 9110 section 10.2.3): another gateway may be asked sooner."""


def refusal_bytes(status: int, reason: str, keep: bool = False, bodyless: bool = False, http11: bool = True) -> bytes:
    """A short answer in plain text.

    :param keep: whether the connection stays open behind it
    :param bodyless: whether it answers a HEAD
    :param http11: the client's version
    """
    body = f"{status} {HTTPStatus(status).phrase}: {reason}\n".encode("utf-8", "replace")
    fields: list[Field] = []
    options = [] if keep else [b"close"]
    if keep and not http11:
        options.append(b"keep-alive")
    if status == HTTPStatus.UPGRADE_REQUIRED:
        fields += [(b"Sec-WebSocket-Version", b"13"), (b"Upgrade", b"websocket")]
        options.append(b"Upgrade")
    elif status == HTTPStatus.SERVICE_UNAVAILABLE:
        fields.append((b"Retry-After", b"%d" % RETRY_AFTER_SECONDS))
    fields += [(b"Content-Type", b"text/plain; charset=utf-8"), (b"Content-Length", b"%d" % len(body))]
    if options:
        fields.append((b"Connection", b", ".join(options)))
    head = response_bytes(status, HTTPStatus(status).phrase.encode(), fields)
    return head if bodyless else head + body
