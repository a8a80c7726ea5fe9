"""Upstreams: named groups of backends, and how a backend is chosen."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, Strict, WithJsonSchema

from gateway.config import discovery
from gateway.config.address import ADDRESS_JSON_SCHEMA, Address, parse_backend
from gateway.config.balancing import Balance, HashBound, HashOn, Sticky, misfits
from gateway.config.closecodes import CloseCode
from gateway.config.discovery import Discover
from gateway.config.durations import Duration, DurationOrOff, is_off
from gateway.config.errors import BadValue, KeyPath
from gateway.config.health import EjectOrOff, HealthCheckOrOff
from gateway.config.rebalancing import Rebalance, parse_rebalance
from gateway.config.section import Conflict, Section, items_of, repeated, value_of
from gateway.config.upstream_tls import UpstreamTls
from gateway.config.words import found

BackendAddress = Annotated[Address, PlainValidator(parse_backend), WithJsonSchema(ADDRESS_JSON_SCHEMA)]


class Backend(Section):
    """One server of an upstream."""

    address: BackendAddress = Field(description="host:port, [::1]:port or unix:/path to connect to")
    weight: Annotated[int, Strict()] = Field(
        default=1,
        ge=1,
        le=65535,
        description="Share of the upstream's tunnels, relative to the other backends",
    )
    max_tunnels: Annotated[int, Strict(), Field(ge=1, le=1048576)] | None = Field(
        default=None,
        description="How many tunnels it may have, over all workers; without it any number",
    )
    backup: Annotated[bool, Strict()] = Field(
        default=False,
        description="Whether it is used only while no other backend is in service and has room",
    )
    drain: Annotated[bool, Strict()] = Field(
        default=False,
        description="Whether it gets nothing new; its tunnels live on",
    )


def _from_address(value: object) -> object:
    if isinstance(value, str):
        return Backend(address=parse_backend(value))
    if not isinstance(value, Mapping | Backend):
        hint = "127.0.0.1:9001, or {address: 127.0.0.1:9001, weight: 2}"
        raise BadValue(f"expected an address or a mapping, found {found(value)}", hint)
    return value


class OnLoss(Section):
    """What a client is sent when its backend vanishes."""

    close_code: CloseCode = Field(default=1012, description="Close code sent to the client")


class Pool(Section):
    """Connections to a backend that are kept for later requests."""

    idle: Duration = Field(
        default="15s",
        validate_default=True,
        description="How long a connection is kept without a request",
    )
    size: Annotated[int, Strict()] = Field(
        default=64,
        ge=1,
        le=4096,
        description="How many connections without a request each worker keeps to each backend",
    )


def _off_is_none(value: object, *, example: str) -> object:
    if is_off(value):
        return None
    if not isinstance(value, Mapping | Section):
        raise BadValue(f"expected a mapping or off, found {found(value)}", f"such as {example}, or off")
    return value


def _version_or_off(value: object) -> object:
    return None if is_off(value) else value


def _parse_tls(value: object) -> object:
    if is_off(value):
        return None
    if value is True:
        return UpstreamTls()
    if not isinstance(value, Mapping | Section):
        hint = "such as {ca: ca.pem}, true for the system's CAs and the backend's name, or off"
        raise BadValue(f"expected a mapping, true or off, found {found(value)}", hint)
    return value


class Upstream(Section):
    """Interchangeable backends."""

    model_config = ConfigDict(
        json_schema_extra={"if": {"not": {"required": ["discover"]}}, "then": {"required": ["backends"]}}
    )

    backends: tuple[
        Annotated[Backend, BeforeValidator(_from_address, json_schema_input_type=BackendAddress | Backend)],
        ...,
    ] = Field(
        default_factory=tuple,
        min_length=1,
        description="Servers, each an address or a mapping with an address and a weight",
    )
    discover: Discover | None = Field(
        default=None, description="Where more backends are found while the gateway runs: DNS or a file"
    )
    balance: Balance = Field(
        default="least_tunnels",
        description="How a backend is chosen: each in turn; the one with the fewest tunnels and requests; the less"
        " loaded of two at random; by a hash of the request; by a cookie of the gateway's own",
    )
    hash_on: HashOn | None = Field(
        default=None,
        description="What consistent_hash goes by: client_ip (the default), path, header:NAME, cookie:NAME, query:NAME",
    )
    hash_bound: HashBound = Field(
        default=2.0,
        description="Most load of a backend under consistent_hash, as a multiple of its share; beyond it keys go to"
        " their next choices; off: no bound",
    )
    sticky: Sticky | None = Field(default=None, description="The cookie of `balance: sticky`")
    slow_start: DurationOrOff = Field(
        default="30s",
        validate_default=True,
        description="How long the weight of a backend grows that has come (back) into service; off: not at all",
    )
    rebalance: Annotated[
        Rebalance | None,
        BeforeValidator(parse_rebalance, json_schema_input_type=Rebalance | Literal["off", False]),
    ] = Field(
        default="off",
        validate_default=True,
        description="Whether tunnels move to a backend that has come into service; off: `gateway rebalance` moves them",
    )
    health_check: HealthCheckOrOff = Field(
        default="off",
        validate_default=True,
        description="How backends are checked: `{path: /healthz}`, tcp, websocket, or off",
    )
    eject: EjectOrOff = Field(
        default="off",
        validate_default=True,
        description="After which failures a backend gets nothing for a while; true: 3 within 10s, for 30s; or off",
    )
    connect_retries: Annotated[int, Strict()] = Field(
        default=2,
        ge=0,
        le=16,
        description="How many other backends are tried when connecting fails",
    )
    on_loss: Annotated[
        OnLoss | None,
        BeforeValidator(
            partial(_off_is_none, example="{close_code: 1012}"),
            json_schema_input_type=OnLoss | Literal["off", False],
        ),
    ] = Field(
        default_factory=OnLoss,
        description="What a client is sent when its backend vanishes; off: its connection just ends",
    )
    pool: Annotated[
        Pool | None,
        BeforeValidator(
            partial(_off_is_none, example="{idle: 15s, size: 64}"),
            json_schema_input_type=Pool | Literal["off", False],
        ),
    ] = Field(
        default_factory=Pool,
        description="Connections kept for plain HTTP; off: a new one for each request",
    )
    proxy_protocol: Annotated[
        Literal["v1", "v2"] | None,
        BeforeValidator(_version_or_off, json_schema_input_type=Literal["v1", "v2", "off", False]),
    ] = Field(
        default="off",
        validate_default=True,
        description="Version of the PROXY header that names the client at the beginning of each connection; or off",
    )
    tls: Annotated[
        UpstreamTls | None, BeforeValidator(_parse_tls, json_schema_input_type=UpstreamTls | bool | Literal["off"])
    ] = Field(
        default="off",
        validate_default=True,
        description="TLS to the backends; true: with the system's CAs, for the backend's name",
    )

    @classmethod
    def conflicts(cls, written: Mapping[str, object]) -> Iterator[Conflict]:
        """Yield the absence of backends, backends with the same address as an earlier one, those without a name to
        verify, and keys that have no effect."""
        yield from discovery.misfits(written)
        yield from misfits(written)
        yield from _without_name(written)
        yield from repeated(_addresses(written), _listed_twice)

    def resolved_hash_on(self) -> str | None:
        """What is hashed; None if nothing is."""
        return (self.hash_on or "client_ip") if self.balance == "consistent_hash" else None

    def resolved_sticky(self) -> Sticky | None:
        """The cookie; None if there is none."""
        return (self.sticky or Sticky()) if self.balance == "sticky" else None


def _addresses(written: Mapping[str, object]) -> Iterator[tuple[KeyPath, Address]]:
    for index, entry in items_of(value_of(written, "backends")):
        plain = isinstance(entry, str)
        try:
            address = parse_backend(entry if plain else value_of(entry, "address"))
        except BadValue:
            continue  # reported by its validator
        yield ("backends", index) if plain else ("backends", index, "address"), address


def _without_name(written: Mapping[str, object]) -> Iterator[Conflict]:
    tls = value_of(written, "tls")
    if tls is not True and not isinstance(tls, Mapping | Section):
        return
    if value_of(tls, "server_name") is not None or value_of(tls, "verify") is False:
        return
    for key, address in _addresses(written):
        if address.path is not None:
            hint = "`server_name` in `tls`: the name in the backend's certificate"
            yield Conflict(key, BadValue(f"{address} has no host name for its certificate", hint))


def _listed_twice(address: str) -> BadValue:
    return BadValue(f"the backend {address} is listed twice", "once, with a `weight` for a larger share")
