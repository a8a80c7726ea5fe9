"""Names of header fields that a configuration gives (RFC 9110 section 5.1)."""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Annotated

from pydantic import PlainValidator, WithJsonSchema

from gateway.config.errors import BadKey, BadValue, KeyPath
from gateway.config.section import Conflict, repeated
from gateway.config.words import found, quoted

LONGEST_VALUE = 4096

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^`|~-]+")
"""A token, without ``_``: such fields are dropped by many servers, this gateway included."""

_RESERVED = frozenset(
    (
        *("connection", "upgrade", "host", "content-length", "transfer-encoding", "te", "trailer", "keep-alive"),
        *("proxy-connection", "expect", "cdn-loop", "x-request-id"),
        *("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"),
        *("x-client-cert-subject", "x-client-cert-san", "x-client-cert-fingerprint"),
    )
)
"""Fields that frame a message, belong to one connection, or are the gateway's own."""


def parse_field_name(
    value: object, reserved: Container[str] = _RESERVED, example: str = "X-User", may: Container[str] = ()
) -> str:
    """Check the name of a header field.

    :param reserved: names in lower case that are not allowed here; nor are those of the WebSocket handshake
    :param may: those of them that are allowed
    :raises BadValue: it is none, or has another meaning
    """
    if not isinstance(value, str) or not value:
        raise BadValue(f"expected the name of a header field, found {found(value)}", f"such as {example}")
    if not _NAME.fullmatch(value):
        raise BadValue(
            f"{quoted(value)} is not the name of a header field", f"letters, digits and -, such as {example}"
        )
    lower = value.lower()
    if (lower in reserved or lower.startswith("sec-websocket-")) and lower not in may:
        raise BadValue(f"the field {value} has a meaning of its own", f"another name, such as {example}")
    return value


def parse_field_value(value: object) -> str:
    """Check the value of a header field (RFC 9110 section 5.5). :raises BadValue: it is none"""
    if not isinstance(value, str):
        raise BadValue(f"expected text, found {found(value)}", 'in quotes, "…", anything is text')
    if not value.isprintable() or value != value.strip():
        raise BadValue(f"{quoted(value)} is not the value of a header field", "one line, without spaces around it")
    if len(value) > LONGEST_VALUE:
        raise BadValue(f"the value is longer than {LONGEST_VALUE} characters", "a shorter one")
    return value


def spelled_twice(names: Mapping[object, object] | Iterable[object], key: KeyPath) -> Iterator[Conflict]:
    """Yield each name that occurs twice, in whatever case. :param key: of the mapping or list with the names"""
    listed = not isinstance(names, Mapping)
    keyed = (((*key, at if listed else name), name) for at, name in enumerate(names) if isinstance(name, str))
    yield from repeated(((place, str(name).lower()) for place, name in keyed), _twice)


def _twice(name: str) -> BadValue:
    return BadKey(f"the field {name} is given twice", "once; case does not matter in names of fields")


FIELD_NAME_SCHEMA = {"type": "string", "pattern": f"^{_NAME.pattern}$"}


def _parse_own_name(value: object) -> str:
    return parse_field_name(value)


FieldName = Annotated[str, PlainValidator(_parse_own_name), WithJsonSchema(FIELD_NAME_SCHEMA)]
FieldValue = Annotated[str, PlainValidator(parse_field_value), WithJsonSchema({"type": "string"})]
