"""Answers of the gateway's own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from http import HTTPStatus

from gateway.protocol.dates import http_date
from gateway.protocol.fields import response_bytes
from gateway.protocol.heads import Field

RETRY_AFTER_SECONDS = 5
"""When to ask again, for those who get 503 (RFC 9110 section 10.2.3): another gateway may be asked sooner."""


def refusal_bytes(
    status: int,
    reason: str,
    keep: bool = False,
    bodyless: bool = False,
    http11: bool = True,
    further: Sequence[Field] = (),
    body: bytes | None = None,
) -> bytes:
    """A short answer in plain text.

    :param keep: whether the connection stays open behind it
    :param bodyless: whether it answers a HEAD
    :param http11: the client's version
    :param further: fields
    :param body: in place of the text; ``further`` says of which type it is
    """
    phrase = _PHRASES.get(status, "")
    fields: list[Field] = []
    if not any(name.lower() == b"date" for name, _ in further):
        fields.append((b"Date", _date()))
    options = [] if keep else [b"close"]
    if keep and not http11:
        options.append(b"keep-alive")
    if body is not None:
        pass  # it is an answer that has all fields that it needs: an auth server's, or the configuration's
    elif status == HTTPStatus.UPGRADE_REQUIRED:
        fields += [(b"Sec-WebSocket-Version", b"13"), (b"Upgrade", b"websocket")]
        options.append(b"Upgrade")
    elif status == HTTPStatus.SERVICE_UNAVAILABLE:
        fields.append((b"Retry-After", b"%d" % RETRY_AFTER_SECONDS))
    fields += further
    if body is None:
        body = f"{status} {phrase}: {reason}\n".encode("utf-8", "replace")
        fields.append((b"Content-Type", b"text/plain; charset=utf-8"))
    if status in _WITHOUT_BODY:
        body = b""
    else:
        fields.append((b"Content-Length", b"%d" % len(body)))
    if options:
        fields.append((b"Connection", b", ".join(options)))
    head = response_bytes(status, phrase.encode(), fields)
    return head if bodyless else head + body


class _Latest:
    """The date that was written last, which is good for all answers of its second."""

    seconds = -1
    date = b""


def _date() -> bytes:
    """When an answer is made (RFC 9110 section 6.6.1)."""
    now = int(time.time())
    if now != _Latest.seconds:
        _Latest.seconds, _Latest.date = now, http_date(now)
    return _Latest.date


_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_WITHOUT_BODY = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
"""RFC 9110 section 6.4.1."""
