"""Limits of request heads, and the handling of fields that backends may interpret in two ways."""

from functools import partial
from typing import Annotated, Literal

from pydantic import Field, PlainValidator, Strict, WithJsonSchema

from gateway.config.section import Section
from gateway.config.sizes import SIZE_JSON_SCHEMA, parse_size

_LEAST_BYTES = 1 << 10
_MOST_BYTES = 1 << 20

HeadSize = Annotated[
    int,
    PlainValidator(partial(parse_size, least_bytes=_LEAST_BYTES, most_bytes=_MOST_BYTES)),
    WithJsonSchema(SIZE_JSON_SCHEMA),
]
"""Bytes."""

Underscores = Literal["drop", "pass", "reject"]
"""How request fields with `_` in their name are handled.

CGI and WSGI servers pass `X_Forwarded_For` and `X-Forwarded-For` to an application under the same name, so a client
could pretend to be a proxy.
"""


class Heads(Section):
    """Limits of a request's head. Those of an answer's head are twice as large."""

    max_size: HeadSize = Field(
        default="32KiB",
        validate_default=True,
        description="Bytes of a request's head, with its request line; beyond it 431",
    )
    max_fields: Annotated[int, Strict()] = Field(
        default=200,
        ge=10,
        le=10000,
        description="Header fields of a request; beyond it 431",
    )
