"""Key sets (RFC 7517), and which of their keys may have signed a token."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jwt.algorithms import get_default_algorithms

from gateway.config.credentials import parse_key_set
from gateway.config.errors import BadValue

if TYPE_CHECKING:
    from jwt.algorithms import Algorithm

    from gateway.edge.access.credentials import Credentials

MAX_TRIED = 16
"""Keys that a signature is tried with: those of one name, or all that fit a token that names none."""

MIN_RSA_BITS = 2048
"""RFC 7518 section 3.3."""

ASK_EVERY_SECONDS = 5.0
"""A key set is asked for again at most so often, whatever tokens name: anyone can make up names."""

ANSWER_SECONDS = 3.0
"""How long a request waits for a key set that was asked for."""

ALGORITHMS: dict[str, Algorithm] = get_default_algorithms()
_CURVES = {"ES256": ("P-256",), "ES384": ("P-384",), "ES512": ("P-521",), "EdDSA": ("Ed25519", "Ed448")}
_PUBLIC = ("kty", "n", "e", "crv", "x", "y")


class Key:
    """A public key of a set."""

    __slots__ = ("_jwk", "_public")

    def __init__(self, jwk: dict[str, Any]) -> None:
        self._jwk = jwk
        self._public: Any = None

    def fits(self, algorithm: str) -> bool:
        """Whether the key is of the algorithm's type and meant for it (RFC 7517 section 4, RFC 7518 section 6)."""
        jwk = self._jwk
        curves = _CURVES.get(algorithm)
        kind = "RSA" if curves is None else "OKP" if algorithm == "EdDSA" else "EC"
        if jwk["kty"] != kind or (curves is not None and jwk.get("crv") not in curves):
            return False
        operations = jwk.get("key_ops", ["verify"])
        return (
            jwk.get("use", "sig") == "sig"
            and isinstance(operations, list)
            and "verify" in operations
            # RFC 9864 has names for EdDSA with one curve.
            and (jwk.get("alg", algorithm) == algorithm or (kind == "OKP" and jwk["alg"] == jwk.get("crv")))
        )

    def public(self, algorithm: str) -> Any:
        """What PyJWT verifies with; None if the key cannot be used. :param algorithm: that it fits"""
        if self._public is None:
            # Of a private key, the public half is enough.
            public = {name: self._jwk[name] for name in _PUBLIC if name in self._jwk}
            try:
                found: Any = ALGORITHMS[algorithm].from_jwk(public)
                usable = public["kty"] != "RSA" or found.key_size >= MIN_RSA_BITS
            except Exception:  # PyJWT and cryptography have many words for a key that is none
                usable = False
            self._public = found if usable else False
        return self._public or None


class KeySet:
    """The keys of a set. Each is made when it is first used: a set may have thousands."""

    def __init__(self, text: str) -> None:
        """:raises BadValue: it is no key set"""
        self._all: list[Key] = []
        self._by_name: dict[str, list[Key]] = {}
        for jwk in parse_key_set(text):
            key = Key(jwk)
            self._all.append(key)
            name = jwk.get("kid")
            if isinstance(name, str):
                self._by_name.setdefault(name, []).append(key)

    def candidates(self, name: str | None, algorithm: str) -> list[Any]:
        """Keys that may have signed a token, for PyJWT.

        :param name: the token's ``kid``; keys of different types may share one (RFC 7517 section 4.5). None for any key
        """
        found = []
        for key in self._all if name is None else self._by_name.get(name, ()):
            if key.fits(algorithm):
                public = key.public(algorithm)
                if public is not None:
                    found.append(public)
                    if len(found) == MAX_TRIED:
                        break
        return found


class KeySource:
    """A key set's file or URL."""

    def __init__(self, source: str, credentials: Credentials, clock: Callable[[], float] = time.monotonic) -> None:
        """:param clock: monotonic, in seconds"""
        self._source = source
        self._credentials = credentials
        self._clock = clock
        self._is_url = source.startswith(("http://", "https://"))
        self._text: str | None = None
        self._keys: KeySet | None = None
        self._asked = self._answered = -ASK_EVERY_SECONDS
        self._asking: Callable[[], None] | None = None
        self._waiting: list[Callable[[], None]] = []

    @property
    def text(self) -> str | None:
        """What the source says: the same object until it changes. None as long as it could not be fetched."""
        return self._credentials.text(self._source)

    def keys(self) -> KeySet | None:
        """The keys now. None as long as they could not be fetched."""
        text = self.text
        if text is not self._text:
            self._text = text
            try:
                self._keys = None if text is None else KeySet(text)
            except BadValue:  # the supervisor sends none such
                self._keys = None
        return self._keys

    def may_ask(self) -> bool:
        """Whether it is worth waiting for other keys."""
        return self._is_url and (self._asking is not None or self._clock() - self._answered >= ASK_EVERY_SECONDS)

    def ask(self, answered: Callable[[], None]) -> Callable[[], None]:
        """Have the key set fetched; once for all that ask meanwhile.

        :param answered: called once when there is an answer
        :returns: what takes that back
        """
        self._waiting.append(answered)
        now = self._clock()
        if self._asking is not None and now - self._asked >= ANSWER_SECONDS:
            self._asking()  # nobody waits for that answer any more
            self._asking = None
        if self._asking is None:
            self._asked = now
            self._asking = self._credentials.ask_again(self._source, self._has_answered)

        def forget() -> None:
            if answered in self._waiting:
                self._waiting.remove(answered)

        return forget

    def _has_answered(self) -> None:
        self._asking = None
        self._answered = self._clock()
        waiting, self._waiting = self._waiting, []
        for answered in waiting:
            answered()
