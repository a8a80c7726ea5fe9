"""User names and passwords (RFC 7617)."""

from __future__ import annotations

import binascii
from base64 import b64decode
from hashlib import blake2b
from typing import TYPE_CHECKING

from gateway.config.credentials import users_in
from gateway.edge.access.attempts import source_of
from gateway.edge.refused import Refused
from gateway.edge.trust import Trust

if TYPE_CHECKING:
    from gateway.config import settings
    from gateway.edge.access.credentials import Credentials
    from gateway.edge.access.granted import Granted
    from gateway.edge.access.method import Entering, Waiting
    from gateway.edge.access.passwords import Passwords
    from gateway.protocol.heads import RequestHead


class Basic:
    """Users of a file."""

    name = "basic"

    def __init__(self, rules: settings.Basic, credentials: Credentials, passwords: Passwords) -> None:
        """:param passwords: shared by all routes"""
        self._source = rules.users
        challenge = f'Basic realm="{rules.realm}", charset="UTF-8"'
        self._challenge = ((b"WWW-Authenticate", challenge.encode()),)
        self._credentials = credentials
        self._passwords = passwords
        self._addresses = Trust(())  # it reads addresses; no peer's word counts here
        self._text: str | None = None
        self._users = _Users("")

    def check(self, request: Entering) -> Granted | Waiting:
        """Let a request in if it has the name and the password of a user. :raises Refused: it has not"""
        name, password = self._read(request.head)
        text = self._credentials.text(self._source)
        if text is not self._text or text is None:
            if text is None:  # every configuration comes with its files
                raise Refused(503, "the users are not known", "unavailable")
            self._users = _Users(text)
            self._text = text
        stored = self._users.hashes.get(name)
        instead = self._users.instead_of(name)
        if instead is None:
            raise self._denied("wrong user name or password")
        # Behind a PROXY header without an address, the address is the proxy's.
        address = self._addresses.address_of(request.client) if request.peer.is_known else None
        return self._passwords.check(
            name, password, stored, instead, source_of(address), self._denied("wrong user name or password")
        )

    def close(self) -> None:
        """Nothing is kept open."""

    def _read(self, head: RequestHead) -> tuple[str, bytes]:
        """The user and the password that a request has. :raises Refused: it has none"""
        value = head.first.get(b"authorization")
        if value is None:
            raise self._denied("a user name and a password are required")
        if b"authorization" in head.repeated:
            raise Refused(400, "there are several Authorization fields", "bad_request")
        scheme, _, encoded = value.partition(b" ")
        if scheme.lower() != b"basic":
            raise self._denied("a user name and a password are required")
        try:
            decoded = b64decode(encoded.strip(b" "), validate=True)
            user, colon, password = decoded.partition(b":")
            name = user.decode()
        except (binascii.Error, UnicodeDecodeError):
            raise self._denied("the Authorization field is malformed") from None
        # RFC 7617 section 2: neither has control characters.
        if not colon or any(byte < 0x20 or byte == 0x7F for byte in decoded):
            raise self._denied("the Authorization field is malformed")
        return name, password

    def _denied(self, reason: str) -> Refused:
        return Refused(401, reason, "forbidden", fields=self._challenge)


class _Users:
    """What is in a file."""

    def __init__(self, text: str) -> None:
        self.hashes = users_in(text)
        self._all = list(self.hashes.values())
        self._salt = blake2b(text.encode()).digest()

    def instead_of(self, name: str) -> str | None:
        """A user's hash for a name that need not exist, always the same one for it in any worker. None without users.

        Comparing with it takes as long as for that user, so time does not say which names exist.
        """
        if not self._all:
            return None
        number = int.from_bytes(blake2b(name.encode(), key=self._salt, digest_size=8).digest(), "big")
        return self._all[number % len(self._all)]
