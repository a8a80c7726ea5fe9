"""The opening handshake: what makes a request an upgrade, and an answer its acceptance (RFC 6455 section 4)."""

from __future__ import annotations

import re
from binascii import b2a_base64
from hashlib import sha1

from gateway.protocol.heads import BadHead, RequestHead, ResponseHead

WEBSOCKET = b"websocket"
VERSION = b"13"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_SHA1 = sha1(usedforsecurity=False)
# 16 bytes are 22 characters of base64 and two of padding.
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==\Z")


class StrippedUpgrade(BadHead):
    """A handshake whose Upgrade or Connection field was lost on the way to the gateway."""


def accept_of(key: bytes) -> bytes:
    """The ``Sec-WebSocket-Accept`` that answers a ``Sec-WebSocket-Key`` (section 4.2.2)."""
    digest = _SHA1.copy()  # quicker than having OpenSSL look for it again
    digest.update(key + _GUID)
    return b2a_base64(digest.digest(), newline=False)


def requested_upgrades(head: RequestHead) -> list[bytes]:
    """Protocols that a request asks to be upgraded to, in lower case, the preferred one first.

    Empty where it does not ask, or asks in a way that RFC 9110 section 7.8 has a recipient ignore.
    """
    if head.upgrades is None:
        asks = b"upgrade" in head.first and head.http11 and b"upgrade" in head.tokens(b"connection")
        head.upgrades = head.tokens(b"upgrade") if asks else []
    return head.upgrades


def has_body(head: RequestHead) -> bool:
    """Whether a request announces a body (RFC 9112 section 6)."""
    return b"transfer-encoding" in head.first or head.first.get(b"content-length", b"0").strip(b"0") != b""


def check_not_stripped(head: RequestHead) -> None:
    """Tell an ordinary request from a handshake that lost its Upgrade on the way.

    :raises StrippedUpgrade: with status 426; it names what is missing and what the request went through
    """
    if b"sec-websocket-key" not in head.first:
        return
    missing = []
    if WEBSOCKET not in head.tokens(b"upgrade"):
        missing.append("Upgrade: websocket")
    if b"upgrade" not in head.tokens(b"connection"):
        missing.append("Connection: Upgrade")
    if not head.http11:
        missing.append("HTTP/1.1")
    if not missing:
        return
    passed = [
        f"{name.decode('latin-1')}: {value.decode('latin-1')[:200]}"
        for name, value in head.fields
        if name.lower() in (b"via", b"forwarded") or name.lower().startswith(b"x-forwarded-")
    ]
    raise StrippedUpgrade(
        426,
        f"a WebSocket handshake (it has Sec-WebSocket-Key) arrived without {' and '.join(missing)}: a proxy in front "
        f"of this gateway does not pass that on. It came with {'; '.join(passed) or 'no Via and no X-Forwarded-*'}",
    )


def check_handshake(head: RequestHead) -> bytes:
    """Check an upgrade to ``websocket``; return its key.

    :raises BadHead: with status 426 for a version other than 13, else 400
    """
    if head.is_handshake:
        return head.first[b"sec-websocket-key"]
    if head.method != b"GET":
        raise BadHead(400, "a WebSocket handshake is a GET")
    if has_body(head):
        raise BadHead(400, "a WebSocket handshake has no body")
    if head.values(b"sec-websocket-version") != [VERSION]:
        raise BadHead(426, "this gateway speaks version 13 of WebSocket only")
    keys = head.values(b"sec-websocket-key")
    if len(keys) != 1 or not _KEY.match(keys[0]):
        raise BadHead(400, "Sec-WebSocket-Key is not one value of 16 bytes in base64")
    head.is_handshake = True
    return keys[0]


def refusal_of_101(head: ResponseHead, upgrade: bytes, key: bytes | None) -> str | None:
    """Why a 101 does not make a tunnel; None if it does (section 4.1).

    :param upgrade: the protocol that was asked for, in lower case
    :param key: the ``Sec-WebSocket-Key`` that went to the backend; None for another protocol
    """
    if head.tokens(b"upgrade") != [upgrade]:
        return "it upgrades to another protocol than was asked for"
    if b"upgrade" not in head.tokens(b"connection"):
        return "it has no Connection: Upgrade"
    if key is not None and head.values(b"sec-websocket-accept") != [accept_of(key)]:
        return "its Sec-WebSocket-Accept is wrong"
    return None
