"""The name that a ClientHello asks for (RFC 8446 4.1.2, RFC 6066 section 3): which certificate to show depends on it.

Everything else in a ClientHello is OpenSSL's to read, and to refuse.
"""

from __future__ import annotations

SERVER_NAME = 0
HOST_NAME = 0
HEAD_BYTES = 4
"""Of a handshake message: type and length."""

_RANDOM_END = HEAD_BYTES + 2 + 32
_PRINTED = bytes(range(0x21, 0x7F))


def server_name_of(message: bytes) -> str | None:
    """The host name in a ClientHello, in lower case; None if there is none, or none that can be one.

    :param message: whole, with its head
    """
    size = len(message)
    at = _RANDOM_END
    if at >= size:
        return None
    at += 1 + message[at]  # session id
    if at + 2 > size:
        return None
    at += 2 + (message[at] << 8 | message[at + 1])  # suites
    if at >= size:
        return None
    at += 1 + message[at]  # compression
    if at + 2 > size:
        return None
    end = min(at + 2 + (message[at] << 8 | message[at + 1]), size)
    at += 2
    while at + 4 <= end:
        kind = message[at] << 8 | message[at + 1]
        stop = at + 4 + (message[at + 2] << 8 | message[at + 3])
        if kind == SERVER_NAME:
            return _host_name(message[at + 4 : stop])
        at = stop
    return None


def _host_name(extension: bytes) -> str | None:
    """A list of names, of which there is one (RFC 6066 section 3): two bytes of length, a type, two bytes of length."""
    if len(extension) < 5 or extension[2] != HOST_NAME:
        return None
    name = extension[5:]
    if not name or len(name) != (extension[3] << 8 | extension[4]) or len(name) > 255 or name.translate(None, _PRINTED):
        return None
    return name.decode("ascii").lower()
