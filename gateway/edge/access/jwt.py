"""Signed tokens (RFC 7519) as credentials: found, verified, checked; answers as RFC 6750 has them.

``tokens.py`` finds them in requests, ``jws.py`` takes them apart, ``keys.py`` has the keys, ``claims.py`` the rules,
``verified.py`` those that were right before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.edge.access.claims import Claims, Insufficient, field_lines, time_of
from gateway.edge.access.granted import Expiry, Granted, names_without
from gateway.edge.access.jws import BadToken, json_object, parse
from gateway.edge.access.keys import ALGORITHMS, ANSWER_SECONDS, KeySource
from gateway.edge.access.tokens import Places
from gateway.edge.access.verified import Verified, VerifiedTokens
from gateway.edge.refused import Refused

if TYPE_CHECKING:
    from typing import Any

    from gateway.config.settings_access import Jwt as Settings
    from gateway.edge.access.credentials import Credentials
    from gateway.edge.access.jws import Token
    from gateway.edge.access.method import Cancel, Entering, Verdict, Waiting
    from gateway.edge.access.tokens import Found

MAX_USER = 200
"""Characters of a subject in the log."""

_CHALLENGE = b'Bearer realm="gateway"'
_UNKNOWN_KEY = "the token is signed with a key that is not known here"


class _UnknownKey(BadToken):
    """No key may have signed a token; perhaps there is one when the key set is fetched again."""


class _NoKeys(Exception):
    """The key set could not be fetched yet."""


class Jwt:
    """Bearer tokens of a route."""

    name = "jwt"

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        :param credentials: has the key set
        :param clock: in seconds since 1970
        """
        self._clock = clock
        self._places = Places(settings.sources, settings.remove_token)
        self._algorithms = frozenset(settings.algorithms)
        self._secret = None if settings.secret is None else settings.secret.encode("utf-8", "surrogateescape")
        self._source = None if settings.keys is None else KeySource(settings.keys, credentials)
        self._claims = Claims(settings.issuer, settings.audience, settings.require, settings.leeway)
        self._leeway = settings.leeway
        self._forward = settings.forward
        self._without = names_without(field.encode() for _, field in settings.forward)
        self._expiry_code = settings.expiry_code
        self._expiry_spread = settings.expiry_spread
        self._verified = VerifiedTokens()

    def check(self, request: Entering) -> Granted | Waiting:
        """As :meth:`Method.check`."""
        try:
            found = self._places.find(request.head, request.target)
            if not found.token:
                raise Refused(401, "no token was sent", "forbidden", fields=[(b"WWW-Authenticate", _CHALLENGE)])
            return self._granted(found)
        except _UnknownKey as error:
            if self._source is not None and self._source.may_ask():
                return self._other_keys(self._source, found)
            raise _refused(error) from None
        except BadToken as error:
            raise _refused(error) from None
        except _NoKeys:
            raise Refused(503, "the keys that tokens are signed with are not there yet", "unavailable") from None

    def close(self) -> None:
        """As :meth:`Method.close`. Requests that wait for keys give up by themselves."""

    # --- a token ------------------------------------------------------------------------------------------------------

    def _granted(self, found: Found) -> Granted:
        """What a token grants. :raises BadToken: it is not accepted. :raises _NoKeys: there are no keys to verify it"""
        verified, token = self._verified, found.token
        digest = verified.digest(token)
        known = verified.find(digest, None if self._source is None else self._source.text)
        now = self._clock()
        if known is None:
            known = self._verify(token, now)
            verified.keep(digest, known)
        else:
            try:
                self._claims.check_times(known.not_before, known.expires, now)
            except BadToken:
                verified.forget(digest)
                raise
        granted = known.granted
        if granted.expiry is not None and granted.expiry.at_unix <= now:
            # It was let in as clocks may differ: the tunnel gets that time, too.
            granted = granted._replace(expiry=granted.expiry._replace(at_unix=granted.expiry.at_unix + self._leeway))
        if found.target is None and not found.replaced:
            return granted
        return granted._replace(target=found.target, replaced=found.replaced, marker=found.marker)

    def _verify(self, text: bytes, now: float) -> Verified:
        token = parse(text)
        self._check_signature(token)
        claims = json_object(token.payload)
        not_before, expires = time_of(claims, "nbf"), time_of(claims, "exp")
        self._claims.check_times(not_before, expires, now)
        self._claims.check(claims)
        subject = claims.get("sub")
        expiry = None
        if expires is not None and self._expiry_code is not None:
            expiry = Expiry(expires, self._expiry_code, self._expiry_spread)
        granted = Granted(
            user=subject[:MAX_USER] if isinstance(subject, str) else None,
            fields=field_lines(claims, self._forward),
            without=self._without,
            expiry=expiry,
        )
        return Verified(granted, not_before, expires)

    def _check_signature(self, token: Token) -> None:
        """Verify a signature. Which algorithms there are is said by the configuration alone, and which key may be one
        of them by the key: what a token says of itself only chooses among these (RFC 8725 section 3.1)."""
        if token.algorithm not in self._algorithms:
            raise BadToken("the token is signed with an algorithm that is not accepted here")
        algorithm = ALGORITHMS[token.algorithm]
        for key in self._keys_for(token):
            if algorithm.verify(token.signed, key, token.signature):
                return
        raise BadToken("the token's signature is wrong")

    def _keys_for(self, token: Token) -> list[Any]:
        if token.algorithm.startswith("HS"):
            return [self._secret] if self._secret is not None else []
        keys = None if self._source is None else self._source.keys()
        if keys is None:
            raise _NoKeys
        candidates = keys.candidates(token.kid, token.algorithm)
        if not candidates:
            raise _UnknownKey(_UNKNOWN_KEY)
        return candidates

    # --- keys that are not known yet ----------------------------------------------------------------------------------

    def _other_keys(self, source: KeySource, found: Found) -> Waiting:
        """Wait until the key set was fetched again, and decide then; or a few seconds."""

        def start(verdict: Verdict) -> Cancel:
            def decide() -> None:
                cancel()
                try:
                    answer: Granted | Refused = self._granted(found)
                except BadToken as error:
                    answer = _refused(error)
                except _NoKeys:
                    answer = _refused(BadToken(_UNKNOWN_KEY))
                verdict(answer)

            def cancel() -> None:
                forget()
                timer.cancel()

            forget = source.ask(decide)
            timer = asyncio.get_running_loop().call_later(ANSWER_SECONDS, decide)
            return cancel

        return start


def _refused(error: BadToken) -> Refused:
    """The answer to a token that is not accepted (RFC 6750 section 3.1)."""
    reason = str(error)
    status, code = (403, b"insufficient_scope") if isinstance(error, Insufficient) else (401, b"invalid_token")
    # What a description may hold is narrower than what a claim's name may.
    words = "".join(c if " " <= c <= "~" and c not in '"\\' else "?" for c in reason)
    value = b'%b, error="%b", error_description="%b"' % (_CHALLENGE, code, words.encode())
    return Refused(status, reason, "forbidden", fields=[(b"WWW-Authenticate", value)])
