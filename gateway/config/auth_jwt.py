"""Signed tokens (RFC 7515, RFC 7519): how they are verified, where they are found, what the backend gets of them."""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from ipaddress import ip_address
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, PlainValidator, Strict, ValidationInfo, WithJsonSchema

from gateway.config.closecodes import CloseCode
from gateway.config.durations import DURATION_JSON_SCHEMA, is_off, parse_duration
from gateway.config.errors import BadKey, BadValue
from gateway.config.field_names import FieldName
from gateway.config.paths import path_of
from gateway.config.pem import PemPath, check_ca
from gateway.config.section import Conflict, Section, items_of, repeated, value_of
from gateway.config.urls import parse_url
from gateway.config.words import found, known, quoted

Algorithm = Literal[
    "HS256",
    "HS384",
    "HS512",
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
]
Source = tuple[Literal["header", "cookie", "query", "subprotocol"], str]
"""Where a token may be, and the name it has there; for ``header`` the scheme is Bearer (RFC 6750)."""

_PLACES = ("header", "cookie", "query", "subprotocol")
_SECRET = "32 characters or more, such as ${JWT_SECRET} made by `openssl rand -hex 32`"
_SOURCE_HINT = "header, cookie:NAME, query:NAME or subprotocol:NAME"
_TOKEN_CHARACTERS = frozenset("!#$%&'*+-.^_`|~abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


def parse_source(value: object) -> Source:
    """Parse where a token may be. :raises BadValue: it is no such place"""
    if not isinstance(value, str):
        raise BadValue(f"expected where tokens are, found {found(value)}", _SOURCE_HINT)
    place, colon, name = value.partition(":")
    if place == "header" and not colon:
        return ("header", "authorization")
    if place not in _PLACES or place == "header":
        raise BadValue(f"{quoted(value)} is no place for a token", known(place, _PLACES, _SOURCE_HINT))
    if not name or not _TOKEN_CHARACTERS.issuperset(name):
        raise BadValue(f"{quoted(value)} lacks a name", f"{place}:NAME, such as {place}:token; letters and digits")
    return (place, name)  # type: ignore[return-value]  # one of _PLACES


def _parse_keys(value: object, info: ValidationInfo) -> str:
    example = "jwks.json or https://auth.example.com/jwks.json"
    if isinstance(value, str) and "://" in value:
        return parse_url(value, example)
    if not isinstance(value, str) or not value:
        raise BadValue(f"expected a path or a URL, found {found(value)}", f"such as {example}")
    return path_of("a file")(value, info)


def _parse_secret(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise BadValue("expected text" if isinstance(value, str) else f"expected text, found {found(value)}", _SECRET)
    # Never quoted in messages.
    if "-----BEGIN " in value:
        # Who has a public key could sign tokens with it.
        raise BadValue("this is a key of RS256 and its like, and no secret", "a key set in `keys`; " + _SECRET)
    try:
        value.encode("utf-8", "surrogateescape")  # which is how Python reads variables that are not UTF-8
    except UnicodeEncodeError:
        raise BadValue("holds characters that are none", _SECRET) from None
    return value


def _one_or_more(value: object) -> tuple[str, ...]:
    items = value if isinstance(value, list | tuple) else [value]
    if not items or not all(isinstance(item, str) and item for item in items):
        raise BadValue(f"expected text or a list of texts, found {found(value)}", "as tokens have it")
    return tuple(items)


def _signs(value: object) -> object:
    if isinstance(value, str) and value.lower() == "none":
        raise BadValue("tokens without a signature are never accepted", "RS256, ES256 or EdDSA")
    return value


def _parse_leeway(value: object) -> float:
    return 0.0 if value in ("0s", "0ms") else parse_duration(value, hint="such as 30s, or 0s")


def _parse_requirement(value: object) -> object:
    choices = value if isinstance(value, list | tuple) else [value]
    if not choices or not all(isinstance(choice, str | int) or _is_number(choice) for choice in choices):
        raise BadValue(f"expected what a claim must be, found {found(value)}", "text, a number, or a list of choices")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)  # JSON has no others


def _expiry(value: object) -> object:
    return None if is_off(value) else {} if value is None else value


_Texts = Annotated[
    tuple[str, ...],
    PlainValidator(_one_or_more),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class AtExpiry(Section):
    """What becomes of a tunnel when its token expires."""

    close_code: CloseCode = Field(default=4401, description="Close code that the client is sent")
    spread: Annotated[float, PlainValidator(_parse_leeway), WithJsonSchema({"type": "string"})] = Field(
        default="10s",
        validate_default=True,
        description="Time over which many tunnels whose tokens expire at once are closed; few are closed at once",
    )


class Jwt(Section):
    """How tokens are verified."""

    keys: Annotated[str, PlainValidator(_parse_keys), WithJsonSchema({"type": "string", "minLength": 1})] | None = (
        Field(default=None, description="Key set (JWKS): a file, or a URL that is asked again when keys are unknown")
    )
    ca: PemPath | None = Field(
        default=None,
        description="File of the CAs that may have issued the key server's certificate; default: the system's",
    )
    refresh: Annotated[
        float,
        PlainValidator(partial(parse_duration, shortest_seconds=1)),
        WithJsonSchema(DURATION_JSON_SCHEMA),
    ] = Field(default="5m", validate_default=True, description="How often `keys` is asked again, where it is a URL")
    secret: Annotated[str, PlainValidator(_parse_secret), WithJsonSchema({"type": "string"})] | None = Field(
        default=None, repr=False, description="Shared secret of HS256, HS384 and HS512"
    )
    algorithms: tuple[Annotated[Algorithm, BeforeValidator(_signs)], ...] = Field(
        min_length=1, description="Algorithms that are accepted; what a token says of its own never adds one"
    )
    issuer: _Texts = Field(default=(), description="Issuers (`iss`) that are accepted; absent: any")
    audience: _Texts = Field(default=(), description="Audiences (`aud`), of which a token must have one; absent: any")
    leeway: Annotated[float, PlainValidator(_parse_leeway), WithJsonSchema({"type": "string"})] = Field(
        default="30s", validate_default=True, description="By how much clocks may differ, for `exp` and `nbf`"
    )
    sources: tuple[
        Annotated[Source, PlainValidator(parse_source), WithJsonSchema({"type": "string", "minLength": 1})], ...
    ] = Field(
        default=("header",),
        validate_default=True,
        min_length=1,
        alias="from",
        description=f"Where tokens are looked for, in order: {_SOURCE_HINT}",
    )
    require: dict[
        str,
        Annotated[
            object,
            PlainValidator(_parse_requirement),
            WithJsonSchema({"type": ["string", "number", "boolean", "array"]}),
        ],
    ] = Field(
        default_factory=dict,
        description="Claims that a token must have, by name; of a list of choices one. A claim that is a list, or text"
        " of words as `scope` is, must contain it",
    )
    forward: dict[str, FieldName] = Field(
        default_factory=dict,
        description="Fields that the backend gets claims in, by claim; a client's own of these names never get there",
    )
    remove_token: Annotated[bool, Strict()] = Field(
        default=False, description="Whether the token is taken out of what the backend gets"
    )
    at_expiry: Annotated[
        AtExpiry | None,
        BeforeValidator(_expiry, json_schema_input_type=AtExpiry | Literal["off", False]),
    ] = Field(
        default_factory=AtExpiry,
        description="What becomes of a tunnel when its token expires; off lets it live on",
    )

    @classmethod
    def conflicts(cls, written: Mapping[str, object]) -> Iterator[Conflict]:
        """Yield algorithms without a key for them, keys without an algorithm, and fields that are set twice."""
        given = [name for _, name in items_of(value_of(written, "algorithms")) if isinstance(name, str)]
        for at, name in items_of(value_of(written, "algorithms")):
            needed = "secret" if str(name).startswith("HS") else "keys"
            if isinstance(name, str) and value_of(written, needed) is None and name in _NAMES:
                yield Conflict(
                    ("algorithms", at), BadValue(f"{name} needs `{needed}`, which is missing", f"`{needed}`")
                )
        for key, symmetric in (("secret", True), ("keys", False)):
            uses = any(name.startswith("HS") == symmetric for name in given)
            if value_of(written, key) is not None and given and not uses:
                yield Conflict((key,), BadKey("no algorithm uses this", f"one in `algorithms`, or no `{key}`"))
        for key in ("ca", "refresh"):
            keys = value_of(written, "keys")
            if value_of(written, key) is not None and not (isinstance(keys, str) and "://" in keys):
                yield Conflict((key,), BadKey("`keys` is not a URL", f"`keys: https://…`, or no `{key}`"))
        forward = value_of(written, "forward")
        if isinstance(forward, Mapping):
            names = [
                (("forward", str(claim)), name.lower()) for claim, name in forward.items() if isinstance(name, str)
            ]
            yield from repeated(names, _set_twice)

    def doubts(self) -> Iterator[Conflict]:
        """Yield a warning for a short secret, for keys that anyone on the way can replace, and for tokens in URLs."""
        if self.secret is not None:
            size = len(self.secret.encode("utf-8", "surrogateescape"))
            needed = max(int(name[2:]) // 8 for name in self.algorithms if name.startswith("HS"))
            if size < needed:
                # RFC 7518 section 3.2. One token is enough to guess a short secret from.
                message = f"warning: {size} bytes are fewer than HS{needed * 8} needs; short secrets can be guessed"
                yield Conflict(
                    ("secret",), BadValue(message, f"{needed} bytes or more, by `openssl rand -hex {needed}`")
                )
        if self.keys is not None and self.keys.startswith("http://") and not _is_loopback(self.keys):
            message = "warning: without TLS, anyone on the way to this server can let himself in"
            yield Conflict(("keys",), BadValue(message, "https://…"))
        for at, (place, name) in enumerate(self.sources):
            if place == "query":
                message = f"warning: a token in a URL ({name}=…) ends up in histories and in logs of others"
                yield Conflict(("from", at), BadValue(message, "header, or subprotocol:NAME for browsers"))

    def mistakes_in_files(self) -> Iterator[Conflict]:
        """Yield what is wrong with the files. Reads them."""
        from gateway.config.credentials import check_key_set, is_url

        if self.keys is not None and not is_url(self.keys):
            try:
                check_key_set(self.keys)
            except BadValue as error:
                yield Conflict(("keys",), error)
        if self.ca is not None:
            try:
                check_ca(self.ca)
            except BadValue as error:
                yield Conflict(("ca",), error)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _set_twice(name: str) -> BadValue:
    return BadValue(f"another claim is sent as {name} already", "a field of its own for each claim")


_NAMES = get_args(Algorithm)
