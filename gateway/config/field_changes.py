"""Header fields that a route sets and removes: toward its backends, and toward clients."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field, PlainValidator, WithJsonSchema

from gateway.config.errors import BadKey, BadValue
from gateway.config.field_names import FIELD_NAME_SCHEMA, FieldValue, parse_field_name, spelled_twice
from gateway.config.section import Conflict, Section, items_of, value_of
from gateway.config.words import quoted

_FRAMING = frozenset(
    (
        *("connection", "upgrade", "content-length", "transfer-encoding", "te", "trailer", "keep-alive"),
        *("proxy-connection", "proxy-authenticate", "proxy-authorization"),
    )
)
"""Fields that frame a message, or belong to one connection."""

_OURS = frozenset(
    (
        *("expect", "cdn-loop", "x-request-id", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"),
        *("x-client-cert-subject", "x-client-cert-san", "x-client-cert-fingerprint"),
    )
)
"""Fields of requests that the gateway writes itself, or relies on."""

_EXTENSIONS = frozenset(("sec-websocket-extensions",))
"""Without it a backend agrees on no extension, such as compression."""

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(:[0-9]{1,5})?")


def _set_in_request(value: object) -> str:
    return parse_field_name(value, _FRAMING | _OURS, "X-Env")


def _removed_from_request(value: object) -> str:
    return parse_field_name(value, _FRAMING | _OURS | {"host"}, "Cookie", _EXTENSIONS)


def _of_answer(value: object) -> str:
    return parse_field_name(value, _FRAMING, "X-Env")


SetInRequest = Annotated[str, PlainValidator(_set_in_request), WithJsonSchema(FIELD_NAME_SCHEMA)]
RemovedFromRequest = Annotated[str, PlainValidator(_removed_from_request), WithJsonSchema(FIELD_NAME_SCHEMA)]
OfAnswer = Annotated[str, PlainValidator(_of_answer), WithJsonSchema(FIELD_NAME_SCHEMA)]


class RequestFields(Section):
    """What backends get of a route's requests."""

    set: dict[SetInRequest, FieldValue] = Field(
        default_factory=dict, description="Fields with these values, in place of the client's own; Host, too"
    )
    remove: tuple[RemovedFromRequest, ...] = Field(default=(), description="Fields that do not get there")

    @classmethod
    def conflicts(cls, written: Mapping[str, object]) -> Iterator[Conflict]:
        """Yield fields that are named twice, and a host that is none."""
        yield from _named_twice(written)
        fields = value_of(written, "set")
        for name, value in fields.items() if isinstance(fields, Mapping) else ():
            if str(name).lower() == "host" and isinstance(value, str) and not _AUTHORITY.fullmatch(value):
                error = BadValue(f"{quoted(value)} is not a host", "such as app.internal or app.internal:8080")
                yield Conflict(("set", str(name)), error)


class AnswerFields(Section):
    """What clients get of answers on a route."""

    set: dict[OfAnswer, FieldValue] = Field(
        default_factory=dict, description="Fields with these values, in place of the backend's own"
    )
    remove: tuple[OfAnswer, ...] = Field(default=(), description="Fields that clients do not get")

    @classmethod
    def conflicts(cls, written: Mapping[str, object]) -> Iterator[Conflict]:
        """Yield fields that are named twice."""
        yield from _named_twice(written)


def names_changed(written: object) -> Iterator[tuple[tuple[str, str | int], str]]:
    """Yield key and name, in lower case, of each field that is set or removed. :param written: as in the file"""
    fields = value_of(written, "set")
    for name in fields if isinstance(fields, Mapping) else ():
        yield ("set", str(name)), str(name).lower()
    for at, name in items_of(value_of(written, "remove")):
        yield ("remove", at), str(name).lower()


def _named_twice(written: Mapping[str, object]) -> Iterator[Conflict]:
    fields = value_of(written, "set")
    fields = fields if isinstance(fields, Mapping) else {}
    yield from spelled_twice(fields, ("set",))
    removed = [str(name) for _, name in items_of(value_of(written, "remove"))]
    yield from spelled_twice(removed, ("remove",))
    names = {str(name).lower() for name in fields}
    for at, name in enumerate(removed):
        if name.lower() in names:
            hint = "in `set` alone, which replaces what the other side has sent"
            yield Conflict(("remove", at), BadKey(f"the field {name} is set, too", hint))
