"""The method ``jwt`` of a route, and requests for it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gateway.config.settings_access import Jwt as Settings
from gateway.edge.access.credentials import Credentials
from gateway.edge.access.granted import Granted
from gateway.edge.access.jwt import Jwt
from gateway.edge.refused import Refused
from gateway.protocol.heads import RequestHead
from tests.support.tokens import SECRET

KEYS = "/etc/jwks.json"
URL = "https://auth.test/jwks.json"
HEADER = ("header", "authorization")
DEFAULTS = Settings(
    keys=None,
    secret=SECRET,
    algorithms=("HS256",),
    issuer=(),
    audience=(),
    leeway=30.0,
    sources=(HEADER,),
    require=(),
    forward=(),
    remove_token=False,
    expiry_code=4401,
    expiry_spread=10.0,
)


def jwt(credentials=None, clock=None, **settings) -> Jwt:
    """:param credentials: or the text of a key set"""
    if isinstance(credentials, str):
        text, credentials = credentials, Credentials(lambda source: None)
        settings.setdefault("keys", KEYS)
        credentials.use({settings["keys"]: text})
    made = DEFAULTS._replace(**settings)
    return Jwt(made, credentials or Credentials(lambda source: None), **({} if clock is None else {"clock": clock}))


def at(now: float):
    """A clock that stands."""
    return lambda: now


def request(*fields, target=b"/") -> SimpleNamespace:
    return SimpleNamespace(head=RequestHead(fields), target=target)


def bearing(token) -> SimpleNamespace:
    data = token if isinstance(token, bytes) else token.encode("latin-1")
    return request((b"Authorization", b"Bearer " + data))


def let_in(method: Jwt, token) -> Granted:
    granted = method.check(bearing(token))
    assert isinstance(granted, Granted)
    return granted


def refusal(method: Jwt, token) -> Refused:
    """Why a token is not accepted."""
    with pytest.raises(Refused) as caught:
        method.check(bearing(token))
    refused = caught.value
    assert refused.status in (401, 403, 503)
    if len(token) > 8:
        text = token if isinstance(token, str) else token.decode("latin-1")
        assert text not in refused.reason
    return refused
