"""Names of header fields that a configuration gives (RFC 9110 section 5.1)."""

import re
from typing import Annotated

from pydantic import PlainValidator, WithJsonSchema

from gateway.config.errors import BadValue
from gateway.config.words import found, quoted

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


def parse_field_name(value: object) -> str:
    """Check the name of a field that the gateway is to set. :raises BadValue: it is none, or has another meaning"""
    if not isinstance(value, str) or not value:
        raise BadValue(f"expected the name of a header field, found {found(value)}", "such as X-User")
    if not _NAME.fullmatch(value):
        raise BadValue(f"{quoted(value)} is not the name of a header field", "letters, digits and -, such as X-User")
    lower = value.lower()
    if lower in _RESERVED or lower.startswith("sec-websocket-"):
        raise BadValue(f"the field {value} has a meaning of its own", "another name, such as X-User")
    return value


FieldName = Annotated[
    str, PlainValidator(parse_field_name), WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"})
]
