"""Signed tokens, right and wrong, and the keys that they are signed with."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64encode
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import get_default_algorithms

SECRET = "a secret of thirty-two bytes or more"
ALGORITHMS = get_default_algorithms()
_CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}


def b64(data: bytes | str) -> str:
    """base64url without padding."""
    return urlsafe_b64encode(data.encode() if isinstance(data, str) else data).rstrip(b"=").decode()


def compact(header: object, payload: object, sign: Any) -> str:
    """A token. :param header: what is no text becomes JSON; so does the payload. :param sign: makes a signature"""
    parts = [value if isinstance(value, str | bytes) else json.dumps(value) for value in (header, payload)]
    signed = ".".join(map(b64, parts))
    return f"{signed}.{b64(sign(signed.encode()))}"


def hs256(payload: object = None, secret: str | bytes = SECRET, header: object = None, **claims: object) -> str:
    """A token with a shared secret. :param claims: where there is no payload; ``exp`` is in an hour"""
    key = secret.encode() if isinstance(secret, str) else secret
    return compact(
        {"alg": "HS256", "typ": "JWT"} if header is None else header,
        {"sub": "ann", "exp": int(time.time()) + 3600, **claims} if payload is None else payload,
        lambda signed: hmac.new(key, signed, hashlib.sha256).digest(),
    )


@cache
def private_key(algorithm: str, name: str) -> Any:
    """A key for an algorithm; the same for the same name."""
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm])
    if algorithm.startswith("Ed"):
        return ed448.Ed448PrivateKey.generate() if name == "448" else ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, 1024 if name == "short" else 2048)


def kind_of(algorithm: str) -> str:
    """Algorithms that share keys."""
    return "RS" if algorithm[0] in "RP" else algorithm


def signed(algorithm: str, name: str = "one", header: object = None, payload: object = None, **claims: object) -> str:
    """A token with a key of :func:`private_key`. :param header: further members"""
    key = private_key(kind_of(algorithm), name)
    return compact(
        {"alg": algorithm, **(header if isinstance(header, dict) else {})},
        {"sub": "ann", "exp": int(time.time()) + 3600, **claims} if payload is None else payload,
        lambda text: ALGORITHMS[algorithm].sign(text, key),
    )


def jwk(algorithm: str, name: str = "one", **members: object) -> dict[str, Any]:
    """The public key for that, with further members."""
    kind = kind_of(algorithm)
    public = ALGORITHMS["RS256" if kind == "RS" else kind].to_jwk(private_key(kind, name).public_key(), as_dict=True)
    public.pop("key_ops", None)
    return {**public, **members}


def key_set(*keys: dict[str, Any]) -> str:
    """A key set's text."""
    return json.dumps({"keys": keys})
