"""How one of an upstream's backends is chosen."""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, get_args

from pydantic import Field, PlainValidator, WithJsonSchema

from gateway.config.durations import DurationOrOff, is_off
from gateway.config.errors import BadKey, BadValue
from gateway.config.names import Token
from gateway.config.section import Conflict, Section, items_of, value_of
from gateway.config.words import found, known, number, quoted

Balance = Literal["round_robin", "least_tunnels", "random_two", "consistent_hash", "sticky"]

_TOKEN = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PLAIN = ("client_ip", "path")
_NAMED = ("header", "cookie", "query")
_HASH_HINT = "client_ip, path, header:NAME, cookie:NAME or query:NAME"
_LEAST_BOUND, _MOST_BOUND = 1.05, 100.0
_BOUND_HINT = "such as 2 for twice its share, or off"
_LEAST_SECRET = 16
_SECRET_HINT = "16 characters or more, such as ${STICKY_SECRET} made by `openssl rand -hex 32`"


def parse_hash_on(value: object) -> str:
    """Check what of a request is hashed. :raises BadValue: it is nothing that a request has"""
    if not isinstance(value, str):
        raise BadValue(f"expected what of a request is hashed, found {found(value)}", _HASH_HINT)
    kind, colon, name = value.partition(":")
    if value in _PLAIN:
        return value
    if kind not in _NAMED:
        raise BadValue(f"{quoted(value)} is nothing that can be hashed", known(kind, (*_PLAIN, *_NAMED), _HASH_HINT))
    unusable = (
        not colon or not name or not name.isascii() or not name.isprintable() or any(c in name for c in " =;,&?#")
    )
    if unusable:
        raise BadValue(f"{quoted(value)} lacks a name", f"{kind}:NAME, such as {kind}:room")
    return value


def _parse_bound(value: object) -> float | None:
    if is_off(value):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadValue(f"expected a number, found {found(value)}", _BOUND_HINT)
    if value < _LEAST_BOUND:
        raise BadValue(f"{number(value)} is too small", f"at least {_LEAST_BOUND}, {_BOUND_HINT}")
    if value > _MOST_BOUND:
        raise BadValue(f"{number(value)} is too large", f"at most {_MOST_BOUND:.0f}, {_BOUND_HINT}")
    return float(value)


def _parse_secret(value: object) -> str:
    if not isinstance(value, str):
        raise BadValue(f"expected text, found {found(value)}", _SECRET_HINT)
    if len(value) < _LEAST_SECRET:
        raise BadValue("is too short to be secret", _SECRET_HINT)  # never quoted in messages
    return value


HashOn = Annotated[
    str,
    PlainValidator(parse_hash_on),
    WithJsonSchema({"type": "string", "pattern": f"^({'|'.join(_PLAIN)}|({'|'.join(_NAMED)}):.+)$"}),
]
HashBound = Annotated[
    float | None,
    PlainValidator(_parse_bound),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "minimum": _LEAST_BOUND, "maximum": _MOST_BOUND}, {"enum": ["off", False]}]}
    ),
]


class Sticky(Section):
    """The cookie that names a client's backend."""

    cookie: Token = Field(default="gateway_backend", description="Name of the cookie")
    secret: (
        Annotated[str, PlainValidator(_parse_secret), WithJsonSchema({"type": "string", "minLength": 16})] | None
    ) = Field(
        default=None,
        repr=False,
        description="Signs the cookie; the same on all machines that share clients. By default a random one, which"
        " lives as long as the gateway runs, over reloads and upgrades",
    )
    ttl: DurationOrOff = Field(
        default="off",
        validate_default=True,
        description="How long a cookie holds, renewed while its client comes back; off: as long as the browser runs",
    )


def misfits(written: Mapping[str, object]) -> Iterator[Conflict]:
    """Yield keys of an upstream that its `balance` has no use for, and backends that are all for emergencies."""
    balance = written.get("balance", "least_tunnels")
    is_known = isinstance(balance, str) and balance in get_args(Balance)
    for key, needed in (("hash_on", "consistent_hash"), ("hash_bound", "consistent_hash"), ("sticky", "sticky")):
        if key in written and is_known and balance != needed:
            yield Conflict(
                (key,), BadKey(f"has no effect with `balance: {balance}`", f"`balance: {needed}`, or no `{key}`")
            )
    backends = [backend for _, backend in items_of(value_of(written, "backends"))]
    if backends and "discover" not in written and all(value_of(backend, "backup") is True for backend in backends):
        yield Conflict(("backends",), BadValue("all backends are `backup`", "at least one that is not"))
