"""What a route answers itself, in place of an upstream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, PlainValidator, Strict, WithJsonSchema

from gateway.config.errors import BadKey, BadValue
from gateway.config.section import Conflict, Section, value_of
from gateway.config.words import found, quoted
from gateway.protocol.location import Location, MalformedLocation

LONGEST_BODY = 16384
_WITHOUT_BODY = (204, 205, 304)
"""RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5."""

_EXAMPLE = 'such as "https://{host}{uri}" or "/new{path}"'


def _check_location(value: object) -> str:
    if not isinstance(value, str):
        raise BadValue(f"expected a URL, found {found(value)}", _EXAMPLE)
    try:
        Location(value)
    except MalformedLocation as error:
        raise BadValue(f"{quoted(value)} is not where a request can be redirected to: {error}", _EXAMPLE) from None
    return value


def _check_body(value: object) -> str:
    if not isinstance(value, str):
        raise BadValue(f"expected text, found {found(value)}", 'in quotes, "…", anything is text')
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise BadValue("the text has half a character (a surrogate)", "text in Unicode") from None
    if size > LONGEST_BODY:
        raise BadValue(f"the text is longer than {LONGEST_BODY} bytes", "a server for longer answers")
    return value


class Redirect(Section):
    """Send clients elsewhere."""

    to: Annotated[str, PlainValidator(_check_location), WithJsonSchema({"type": "string", "minLength": 1})] = Field(
        description="URL or path; {host} is the request's host, {uri} its path and query, {path} its path alone"
    )
    status: Literal[301, 302, 303, 307, 308] = Field(
        default=302, description="301 and 308 are for good, 307 and 308 keep method and body"
    )


class Respond(Section):
    """Answer with a text of one's own."""

    status: Annotated[int, Strict()] = Field(default=200, ge=200, le=599, description="Status of the answer")
    body: Annotated[str, PlainValidator(_check_body), WithJsonSchema({"type": "string"})] = Field(
        default="", description="The answer's text, in UTF-8; `answer_headers` can set its Content-Type"
    )

    @classmethod
    def conflicts(cls, written: Mapping[str, object]) -> Iterator[Conflict]:
        """Yield a body where the status allows none."""
        status = value_of(written, "status")
        if status in _WITHOUT_BODY and value_of(written, "body"):
            yield Conflict(("body",), BadKey(f"an answer with status {status} has no body", "no `body`"))
