"""What to open: a ``ws`` or ``wss`` URL (RFC 6455 section 3), and further fields of the handshake."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from gateway.protocol.fields import request_bytes
from gateway.protocol.heads import Field
from gateway.protocol.websocket import VERSION, WEBSOCKET
from gateway.version import VERSION as GATEWAY_VERSION

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\U0010ffff]*\Z")
_UNSAFE = re.compile(r"[^!-~]")
_PORTS = {"ws": 80, "wss": 443}
_ALIASES = {"http": "ws", "https": "wss"}
_OURS = frozenset(("connection", "upgrade", "content-length", "transfer-encoding"))
_OURS_PREFIX = "sec-websocket-"


class BadTarget(ValueError):
    """A URL or a header field cannot be used. ``str()`` says which, why, and what would be right."""


@dataclass(frozen=True, slots=True)
class Target:
    """A checked target. ``url`` is for messages: it does not contain the user's password."""

    url: str
    tls: bool
    host: str
    port: int
    resource: str
    fields: tuple[Field, ...]

    def request(self, key: bytes) -> bytes:
        """Return the handshake's request head (RFC 6455 section 4.1). :param key: a fresh ``Sec-WebSocket-Key``"""
        fields = [
            *self.fields,
            (b"Upgrade", WEBSOCKET),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Key", key),
            (b"Sec-WebSocket-Version", VERSION),
        ]
        return request_bytes(b"GET", self.resource.encode("ascii"), fields)


def parse_target(
    url: str, headers: Sequence[str] = (), subprotocols: Sequence[str] = (), origin: str | None = None
) -> Target:
    """Check a user's input.

    :param url: ``ws://`` or ``wss://``; ``http`` and ``https`` are accepted as aliases
    :param headers: each ``NAME:VALUE``; one named ``Host`` replaces the URL's host in the handshake
    :param subprotocols: to offer, the preferred one first
    :raises BadTarget: one of them cannot be used
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadTarget(f"{url}: not a URL: {error}") from None
    scheme = _ALIASES.get(parts.scheme.lower(), parts.scheme.lower())
    if scheme not in _PORTS or not host:
        raise BadTarget(f"{url}: expected ws://host/path or wss://host/path")
    if parts.fragment:
        raise BadTarget(f"{url}: the URL of a WebSocket has no fragment (RFC 6455 section 3)")
    if port == 0:
        raise BadTarget(f"{url}: nothing listens on port 0")
    try:
        ascii_host = host if ":" in host else host.encode("idna").decode("ascii")
    except UnicodeError:
        raise BadTarget(f"{url}: {host} is not a host name") from None
    if _UNSAFE.search(ascii_host):
        raise BadTarget(f"{url}: {host} is not a host name")
    authority = f"[{ascii_host}]" if ":" in ascii_host else ascii_host
    if port is not None and port != _PORTS[scheme]:
        authority += f":{port}"
    resource = _UNSAFE.sub(_percent_encoded, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
    given = [_field(header) for header in headers]
    fields = [] if any(name.lower() == b"host" for name, _ in given) else [(b"Host", authority.encode("ascii"))]
    fields += given
    if parts.username is not None and not any(name.lower() == b"authorization" for name, _ in given):
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        fields.append((b"Authorization", b"Basic " + b64encode(login.encode())))
    if origin is not None:
        fields.append(_field(f"Origin:{origin}"))
    for subprotocol in subprotocols:
        if not _TOKEN.match(subprotocol):
            raise BadTarget(f"subprotocol {subprotocol!r}: expected a token, such as v12.stomp (RFC 6455 section 4.1)")
    if subprotocols:
        fields.append((b"Sec-WebSocket-Protocol", ", ".join(subprotocols).encode("ascii")))
    if not any(name.lower() == b"user-agent" for name, _ in given):
        fields.append((b"User-Agent", f"upgrade-gateway-probe/{GATEWAY_VERSION}".encode("ascii")))
    return Target(
        url=f"{scheme}://{authority}{resource}",
        tls=scheme == "wss",
        host=ascii_host,
        port=port or _PORTS[scheme],
        resource=resource,
        fields=tuple(fields),
    )


def _field(header: str) -> Field:
    name, colon, value = header.partition(":")
    value = value.strip(" \t")
    if not colon or not _TOKEN.match(name):
        raise BadTarget(f"header {header!r}: expected NAME:VALUE, such as 'Authorization: Bearer abc'")
    if not _VALUE.match(value):
        raise BadTarget(f"header {name}: its value contains control characters")
    if name.lower() in _OURS or name.lower().startswith(_OURS_PREFIX):
        hint = "; --subprotocol offers one" if name.lower() == "sec-websocket-protocol" else ""
        raise BadTarget(f"header {name}: the handshake sets this itself{hint}")
    return name.encode("ascii"), value.encode()


def _percent_encoded(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode(errors="surrogateescape"))
