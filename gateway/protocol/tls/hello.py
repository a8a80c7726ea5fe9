"""The name that a ClientHello asks for (RFC 8446 4.1.2, RFC 6066 section 3): which certificate to show depends on it.

Everything else in a ClientHello is OpenSSL's to read, and to refuse.
"""

from __future__ import annotations

SERVER_NAME = 0
HOST_NAME = 0
HEAD_BYTES = 4
"""Of a handshake message: type and length."""

_RANDOM_END = HEAD_BYTES + 2 + 32


def server_name_of(message: bytes) -> str | None:
    """The host name in a ClientHello, in lower case; None if there is none, or none that can be one.

    :param message: whole, with its head
    """
    try:
        at = _RANDOM_END
        at += 1 + message[at]  # session id
        at += 2 + int.from_bytes(message[at : at + 2], "big")  # suites
        at += 1 + message[at]  # compression
        end = at + 2 + int.from_bytes(message[at : at + 2], "big")
        at += 2
        while at + 4 <= min(end, len(message)):
            kind = int.from_bytes(message[at : at + 2], "big")
            size = int.from_bytes(message[at + 2 : at + 4], "big")
            at += 4
            if kind == SERVER_NAME:
                return _host_name(message[at : at + size])
            at += size
    except IndexError:
        pass
    return None


def _host_name(extension: bytes) -> str | None:
    """A list of names, of which there is one (RFC 6066 section 3): two bytes of length, a type, two bytes of length."""
    if len(extension) < 5 or extension[2] != HOST_NAME:
        return None
    name = extension[5:]
    if not name or len(name) != int.from_bytes(extension[3:5], "big") or len(name) > 255:
        return None
    if not name.isascii() or any(byte <= 0x20 or byte == 0x7F for byte in name):
        return None
    return name.decode("ascii").lower()
