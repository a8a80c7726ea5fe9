"""Where an upstream's backends are found while the gateway runs: DNS, or a file."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from gateway.config.address import ADDRESS_JSON_SCHEMA, Address, parse_backend
from gateway.config.durations import DURATION_JSON_SCHEMA, parse_duration
from gateway.config.errors import BadKey, BadValue
from gateway.config.hostnames import check_hostname
from gateway.config.paths import FilePath
from gateway.config.section import Conflict, Section, value_of
from gateway.config.words import found, quoted

SOURCES = ("dns", "srv", "file")
_SOURCES_TEXT = "one of `dns`, `srv` and `file`"
_DNS_HINT = "a name and the backends' port, such as chat.internal:9001"
_SRV_HINT = "such as _chat._tcp.internal"
_SERVER_HINT = "the IP address of a name server, such as 10.0.0.2 or 10.0.0.2:53"
_DNS_PORT = 53


def _parse_dns(value: object) -> Address:
    address = parse_backend(value)
    if address.name is None:
        raise BadValue(f"{address} is not a name", f"{_DNS_HINT}; addresses are listed in `backends`")
    return address


def _parse_srv(value: object) -> str:
    if not isinstance(value, str):
        raise BadValue(f"expected the name of SRV records, found {found(value)}", _SRV_HINT)
    if ":" in value:
        raise BadValue(f"{quoted(value)} has a port", f"none, since SRV records have it: {_SRV_HINT}")
    name = check_hostname(value)
    if name.rpartition(".")[2].isdigit():
        raise BadValue(f"{quoted(value)} is an address", _SRV_HINT)
    return name


def _parse_server(value: object) -> Address:
    if isinstance(value, str) and value.count(":") != 1 and not value.endswith("]") and "]:" not in value:
        value = f"[{value}]:{_DNS_PORT}" if ":" in value else f"{value}:{_DNS_PORT}"
    elif isinstance(value, str) and value.endswith("]"):
        value = f"{value}:{_DNS_PORT}"
    address = parse_backend(value)
    if address.host is None or address.name is not None:
        raise BadValue(f"{address} is not an IP address", _SERVER_HINT)
    return address


class Discover(Section):
    """Where backends are found. Exactly one source."""

    dns: Annotated[Address, PlainValidator(_parse_dns), WithJsonSchema(ADDRESS_JSON_SCHEMA)] | None = Field(
        default=None, description="name:port: each IPv4 or IPv6 address of the name is a backend (A and AAAA records)"
    )
    srv: Annotated[str, PlainValidator(_parse_srv), WithJsonSchema({"type": "string", "minLength": 1})] | None = Field(
        default=None,
        description="Name of SRV records: their targets and ports are backends, with their weights; those with another"
        " than the lowest priority number are `backup`",
    )
    file: FilePath | None = Field(
        default=None,
        description="YAML or JSON file, watched: a list of {targets: [host:port, …], labels: {…}}, as Prometheus reads",
    )
    every: Annotated[
        float,
        PlainValidator(partial(parse_duration, shortest_seconds=1.0)),
        WithJsonSchema(DURATION_JSON_SCHEMA),
    ] = Field(
        default="10s",
        validate_default=True,
        description="How often name servers are asked, at least; more often where the records' TTL is shorter",
    )
    server: Annotated[Address, PlainValidator(_parse_server), WithJsonSchema({"type": "string"})] | None = Field(
        default=None, description="Name server to ask; without it those of the system (/etc/resolv.conf)"
    )
    on_gone: Literal["drain", "keep"] = Field(
        default="drain",
        description="What becomes of the tunnels of a backend that is no longer found: closed over the drain period,"
        " or kept",
    )

    @classmethod
    def conflicts(cls, written: Mapping[str, object]) -> Iterator[Conflict]:
        """Yield the absence of a source, every source but the first, and keys that have no effect."""
        given = [name for name in written if name in SOURCES]
        if not given:
            yield Conflict((), BadValue("no source is given", _SOURCES_TEXT))
        for name in given[1:]:
            yield Conflict((str(name),), BadValue(f"there is `{given[0]}` already", _SOURCES_TEXT))
        if given[:1] == ["file"]:
            for key in ("every", "server"):
                if key in written:
                    yield Conflict(
                        (key,), BadKey("has no effect on a file, which is looked at each second", f"no `{key}`")
                    )

    @property
    def name(self) -> str | None:
        """The name that is in the certificates of its backends, if it has one."""
        return None if self.dns is None else self.dns.host


def misfits(written: Mapping[str, object]) -> Iterator[Conflict]:
    """Yield an upstream that has no backends and finds none, and one whose backends have no name to verify."""
    if "backends" not in written and "discover" not in written:
        message = "this key is required"
        hint = "add it: Servers, each an address or a mapping with an address and a weight; or add `discover`"
        yield Conflict(("backends",), BadValue(message, hint))
    tls = value_of(written, "tls")
    if tls is not True and not isinstance(tls, Mapping | Section):
        return
    if value_of(tls, "server_name") is not None or value_of(tls, "verify") is False:
        return
    if value_of(value_of(written, "discover"), "srv") is not None:
        hint = "`server_name` in `tls`: the name in the backends' certificates"
        yield Conflict(("discover", "srv"), BadValue("backends have no host name for their certificates", hint))
