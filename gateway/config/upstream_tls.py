"""TLS to the backends of an upstream."""

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field, PlainValidator, Strict, WithJsonSchema

from gateway.config.errors import BadValue
from gateway.config.hostnames import check_hostname, check_ipv6
from gateway.config.pem import PemPath, check_ca, mistakes_in_pair
from gateway.config.section import Conflict, Section, value_of
from gateway.config.words import found


def _parse_server_name(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise BadValue(f"expected a host name, found {found(value)}", "the name in the backend's certificate")
    if ":" in value:
        return check_ipv6(value.removeprefix("[").removesuffix("]"))
    return check_hostname(value)


_ServerName = Annotated[str, PlainValidator(_parse_server_name), WithJsonSchema({"type": "string", "minLength": 1})]


class UpstreamTls(Section):
    """How backends are connected to with TLS. Paths are absolute."""

    ca: PemPath | None = Field(
        default=None,
        description="File of the CAs that may have issued a backend's certificate; without it those of the system",
    )
    server_name: _ServerName | None = Field(
        default=None,
        description="Name that is asked for (SNI) and must be in the certificate; without it the backend's host",
    )
    cert: PemPath | None = Field(default=None, description="File of this gateway's certificate, for mutual TLS")
    key: PemPath | None = Field(
        default=None, description="File of the certificate's key; without it the key is in the certificate's file"
    )
    verify: Annotated[bool, Strict()] = Field(
        default=True, description="Whether a backend must show a valid certificate with the right name"
    )

    @classmethod
    def conflicts(cls, written: Mapping[str, object]) -> Iterator[Conflict]:
        """Yield a key without its certificate."""
        if value_of(written, "key") is not None and value_of(written, "cert") is None:
            yield Conflict(("key",), BadValue("there is no `cert` for this key", "`cert` with the certificate's path"))

    def mistakes_in_files(self) -> Iterator[Conflict]:
        """Yield what is wrong with the files. Reads them."""
        if self.ca is not None:
            try:
                check_ca(self.ca)
            except BadValue as error:
                yield Conflict(("ca",), error)
        if self.cert is not None:
            for name, mistake in mistakes_in_pair(self.cert, self.key):
                yield Conflict((name,), mistake)
