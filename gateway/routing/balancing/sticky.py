"""``sticky``: a cookie of the gateway's own names the backend that a client has.

This policy has an answer only for clients with a valid cookie; another one follows for the rest. The cookie's value is
the backend's id, when the value expires, and a MAC (HMAC-SHA256, RFC 2104) over both. Ids are MACs, too, so that
addresses of backends cannot be read or guessed from them.
"""

from __future__ import annotations

import hmac
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from gateway.routing.balancing.keys import cookies
from gateway.routing.balancing.target import Target

if TYPE_CHECKING:
    from gateway.config.settings import Sticky as StickySettings
    from gateway.protocol.heads import RequestHead

ID_BYTES, EXPIRY_BYTES, MAC_BYTES = 8, 4, 12
VALUE_LENGTH = 32
"""Characters of a value; RFC 4648 section 5."""

MAX_VERIFIED = 4096
"""Values that are known to be right, and need not be verified again."""


class Sticky:
    """The backend that a client's cookie names."""

    __slots__ = ("_by_id", "_candidates", "_clock", "_ids", "_key", "_lasting", "_settings", "_verified", "cookie")

    def __init__(
        self,
        upstream: str,
        targets: Sequence[Target],
        settings: StickySettings,
        secret: bytes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        :param upstream: its name: a cookie of one upstream is worth nothing in another one
        :param targets: all that cookies may name
        :param secret: of this gateway, used unless the settings have one
        :param clock: seconds since 1970
        """
        secret = settings.secret.encode() if settings.secret is not None else secret
        self._key = _mac(secret, b"sticky:" + upstream.encode())
        self._settings = settings
        self._clock = clock
        self.cookie = settings.cookie.encode()
        """its name"""
        self._ids = {target: _mac(self._key, b"backend:" + target.label.encode())[:ID_BYTES] for target in targets}
        self._by_id = {found: target for target, found in self._ids.items()}
        self._candidates: frozenset[Target] = frozenset()
        self._verified: dict[bytes, tuple[Target, int]] = {}
        self._lasting = {target: self._value(found, 0) for target, found in self._ids.items()}

    def cookie_of(self, head: RequestHead, target: bytes = b"") -> bytes:
        """The value of a request's cookie: the first that is right. If none is, any; empty if there is none.

        A page or another server of the same site may have set one of the same name for a narrower path, which browsers
        send first.
        """
        if b"cookie" not in head.first:
            return b""
        found = b""
        for value in cookies(self.cookie, head):
            if self._read(value) is not None:
                return value
            found = found or value
        return found

    def use(self, candidates: Sequence[Target]) -> None:
        """As :meth:`gateway.routing.balancing.policy.Policy.use`."""
        self._candidates = frozenset(candidates)

    def pick(
        self, key: bytes | str | None = None, tried: Collection[Target] = (), *, brief: bool = False
    ) -> Target | None:
        """The backend that a cookie names, None if it names none that can be had.

        :param key: the cookie's value
        """
        if not key:
            return None
        found = self._read(key if isinstance(key, bytes) else key.encode())
        if found is None or found[0] not in self._candidates or found[0] in tried:
            return None
        return found[0]

    def set_cookie(self, value: bytes, target: Target, secure: bool) -> bytes:
        """The ``Set-Cookie`` line, with its CRLF, for a client whose request went to a backend (RFC 6265 section 4.1).

        :param value: of the cookie that it has sent; empty for none
        :param secure: whether it speaks TLS
        :returns: nothing if its cookie is right. One that expires is renewed when half of its time is over
        """
        ttl = self._settings.ttl
        now = int(self._clock())
        if value:
            found = self._read(value)
            if found is not None and found[0] is target and (ttl is None or found[1] - now > ttl / 2):
                return b""
        if ttl is None:
            new = self._lasting.get(target)
        else:
            new = self._value(self._ids[target], now + int(ttl)) if target in self._ids else None
        if new is None:
            return b""  # a backend that a reload has removed while it was answering
        attributes = b"; Path=/; HttpOnly; SameSite=Lax"
        if secure:
            attributes += b"; Secure"
        if ttl is not None:
            attributes += b"; Max-Age=%d" % int(ttl)
        return b"Set-Cookie: %b=%b%b\r\n" % (self.cookie, new, attributes)

    def _value(self, found: bytes, expiry: int) -> bytes:
        content = found + expiry.to_bytes(EXPIRY_BYTES, "big")
        return urlsafe_b64encode(content + _mac(self._key, content)[:MAC_BYTES])

    def _read(self, value: bytes) -> tuple[Target, int] | None:
        """The backend and the time in a value; None if it is not one of this gateway's, or has expired."""
        known = self._verified.get(value)
        if known is not None and (known[1] == 0 or known[1] > self._clock()):
            return known
        if len(value) != VALUE_LENGTH:
            return None
        try:
            raw = urlsafe_b64decode(value)
        except ValueError:
            return None
        content, mac = raw[:-MAC_BYTES], raw[-MAC_BYTES:]
        if not hmac.compare_digest(mac, _mac(self._key, content)[:MAC_BYTES]):
            return None
        expiry = int.from_bytes(content[ID_BYTES:], "big")
        if (expiry == 0) != (self._settings.ttl is None) or (expiry and expiry <= self._clock()):
            return None
        target = self._by_id.get(content[:ID_BYTES])
        if target is None:
            return None
        if len(self._verified) >= MAX_VERIFIED:
            self._verified.clear()
        found = self._verified[value] = (target, expiry)
        return found


def _mac(key: bytes, content: bytes) -> bytes:
    return hmac.digest(key, content, "sha256")
