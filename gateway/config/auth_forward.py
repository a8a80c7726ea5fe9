"""Forward auth: a server is asked whether a request may come in."""

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field, PlainValidator, WithJsonSchema

from gateway.config.durations import Duration, DurationOrOff
from gateway.config.errors import BadKey, BadValue
from gateway.config.field_names import FieldName
from gateway.config.pem import PemPath, check_ca
from gateway.config.section import Conflict, Section, items_of, repeated, value_of
from gateway.config.urls import parse_url

_EXAMPLE = "http://auth.internal/check"


def _parse_url(value: object) -> str:
    return parse_url(value, _EXAMPLE)


class ForwardAuth(Section):
    """The server that is asked."""

    url: Annotated[str, PlainValidator(_parse_url), WithJsonSchema({"type": "string", "pattern": "^https?://"})] = (
        Field(description="Where to ask; an answer of 2xx lets the request in, any other is what the client gets")
    )
    timeout: Duration = Field(
        default="2s", validate_default=True, description="How long the answer may take; then the client gets 503"
    )
    copy_fields: tuple[FieldName, ...] = Field(
        default=(),
        alias="copy",
        description="Fields of the answer that the backend gets; a client's own of these names never do",
    )
    cache: DurationOrOff = Field(
        default="off",
        validate_default=True,
        description="How long an answer of 2xx holds for requests with the same method, target and fields",
    )
    ca: PemPath | None = Field(
        default=None, description="File of the CAs that may have issued the server's certificate; default: the system's"
    )

    @classmethod
    def conflicts(cls, written: Mapping[str, object]) -> Iterator[Conflict]:
        """Yield authorities that verify nothing, and fields that are copied twice."""
        url = value_of(written, "url")
        if value_of(written, "ca") is not None and isinstance(url, str) and url.lower().startswith("http:"):
            yield Conflict(("ca",), BadKey("`url` is not https", "`url: https://…`, or no `ca`"))
        names = [(("copy", at), name.lower()) for at, name in items_of(written.get("copy")) if isinstance(name, str)]
        yield from repeated(names, _copied_twice)

    def mistakes_in_files(self) -> Iterator[Conflict]:
        """Yield what is wrong with the files. Reads them."""
        if self.ca is not None:
            try:
                check_ca(self.ca)
            except BadValue as error:
                yield Conflict(("ca",), error)


def _copied_twice(name: str) -> BadValue:
    return BadValue(f"{name} is copied already", "each field once")
