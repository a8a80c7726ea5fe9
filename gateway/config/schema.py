"""The configuration as the gateway uses it.

`gateway.config.load` builds a `Config`, which only the supervisor uses. This module and its imports are independent of
YAML. `settings` has the part that workers are sent.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainValidator, Strict, WithJsonSchema

from gateway.config.access import Network, contradictions
from gateway.config.address import ADDRESS_JSON_SCHEMA, Address, parse_listen
from gateway.config.admin_token import Token, without_token
from gateway.config.auth import Auth
from gateway.config.auth_basic import Basic
from gateway.config.auth_forward import ForwardAuth
from gateway.config.auth_jwt import Jwt
from gateway.config.balancing import Sticky
from gateway.config.discovery import Discover
from gateway.config.drain import Drain
from gateway.config.durations import is_off
from gateway.config.errors import BadValue, KeyPath
from gateway.config.field_changes import AnswerFields, RequestFields
from gateway.config.heads import Heads, Underscores
from gateway.config.keepalive import Keepalive, KeepaliveOverrides, KeepaliveSide, misfits_on_routes
from gateway.config.limits import Limits
from gateway.config.listener_tls import CertificatePair, ListenerTls
from gateway.config.matching import HostPattern, Match
from gateway.config.names import Name
from gateway.config.own_answers import Redirect, Respond
from gateway.config.rewriting import RegexRewrite, Rewrite
from gateway.config.routes import Route, Share, unknown_upstreams
from gateway.config.section import Conflict, Section, items_of, repeated, value_of
from gateway.config.timeouts import TimeoutOverrides, Timeouts
from gateway.config.upstream_tls import UpstreamTls
from gateway.config.upstreams import Backend, BackendAddress, OnLoss, Pool, Upstream
from gateway.config.urls import address_of
from gateway.config.words import found, number, quoted

__all__ = [
    "AccessLog",
    "Address",
    "Admin",
    "AnswerFields",
    "Auth",
    "Backend",
    "BackendAddress",
    "Basic",
    "CertificatePair",
    "Config",
    "Discover",
    "Drain",
    "ForwardAuth",
    "Heads",
    "Jwt",
    "Keepalive",
    "KeepaliveOverrides",
    "KeepaliveSide",
    "Limits",
    "ListenAddress",
    "Listener",
    "ListenerTls",
    "Match",
    "OnLoss",
    "Pool",
    "Redirect",
    "RegexRewrite",
    "RequestFields",
    "Respond",
    "Rewrite",
    "Route",
    "Share",
    "Sticky",
    "TimeoutOverrides",
    "Timeouts",
    "Upstream",
    "UpstreamTls",
]

_MOST_WORKERS = 64
_MOST_TUNNELS = 1048576


def available_cpus() -> int:
    """Return how many CPUs this process may run on, up to the largest number of workers."""
    return min(len(os.sched_getaffinity(0)), _MOST_WORKERS)


def _resolve_auto(value: object) -> object:
    if isinstance(value, str):
        if value != "auto":
            raise BadValue(f"expected auto or a whole number, found {found(value)}", "auto, or digits without quotes")
        return available_cpus()
    return value


def _parse_max_tunnels(value: object) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadValue(f"expected auto or a whole number, found {found(value)}", "auto, or digits without quotes")
    if value < 1:
        raise BadValue(f"{number(value)} is too small", "at least 1")
    if value > _MOST_TUNNELS:
        raise BadValue(f"{number(value)} is too large", f"at most {_MOST_TUNNELS}")
    return value


def _log_path(value: object) -> str | None:
    if is_off(value):
        return None
    if not isinstance(value, str) or not value:
        raise BadValue(f"expected a path, found {found(value)}", "a file, - for stdout, or off")
    if not value.isprintable():
        raise BadValue(f"the path {quoted(value)} holds a control character", "a file, - for stdout, or off")
    return value


def _tls_is_given(value: object) -> object:
    if value is None:  # nobody who has begun to write it means a plain listener
        raise BadValue("expected a mapping, found nothing", "`certificates` with at least one `cert` and `key`")
    return value


def _log_may_be_off(value: object) -> object:
    return {"path": "off"} if is_off(value) else value


ListenAddress = Annotated[Address, PlainValidator(parse_listen), WithJsonSchema(ADDRESS_JSON_SCHEMA)]


class Listener(Section):
    """A socket that clients connect to."""

    address: ListenAddress = Field(description="host:port, [::]:port or unix:/path to accept clients on")
    tls: Annotated[ListenerTls | None, BeforeValidator(_tls_is_given, json_schema_input_type=ListenerTls)] = Field(
        default=None, description="TLS with clients (https and wss); without it the listener is plain"
    )
    proxy_protocol: Annotated[bool, Strict()] = Field(
        default=False,
        description="Whether connections from trusted proxies begin with a PROXY header (v1 or v2)",
    )


class Admin(Section):
    """The admin address: metrics, health checks, API and status page."""

    address: ListenAddress = Field(
        default="127.0.0.1:9100",
        validate_default=True,
        description="Where metrics, health checks, the admin API and the status page are served",
    )
    hosts: tuple[HostPattern, ...] = Field(
        default=(),
        description="Names by which it may be asked for beside IP addresses, localhost and the machine's host name",
    )
    token: Token = Field(
        default=None,
        repr=False,
        description="Bearer token for everything but /healthz and /readyz; required where other machines can connect",
    )

    @classmethod
    def conflicts(cls, written: Mapping[str, object]) -> Iterator[Conflict]:
        """Yield an address that needs a token and has none."""
        yield from without_token(written.get("address"), written.get("token"))


class AccessLog(Section):
    """The access log. `path` is None for no log, `-` for stdout."""

    path: Annotated[
        str | None,
        PlainValidator(_log_path),
        WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, {"const": False}]}),
    ] = Field(default="-", description="File to append to, - for stdout, or off")
    format: Literal["json", "text"] = Field(default="json", description="Form of a line")


class Config(Section):
    """The contents of a `gateway.yaml`, with defaults filled in."""

    workers: Annotated[
        int,
        Strict(),
        BeforeValidator(_resolve_auto, json_schema_input_type=Literal["auto"] | Annotated[int, Field(ge=1, le=64)]),
    ] = Field(
        default="auto",
        validate_default=True,
        ge=1,
        le=_MOST_WORKERS,
        description="Processes that relay; auto is one for each CPU that the gateway may use",
    )
    max_tunnels: Annotated[
        int | Literal["auto"],
        PlainValidator(
            _parse_max_tunnels,
            json_schema_input_type=Literal["auto"] | Annotated[int, Field(ge=1, le=_MOST_TUNNELS)],
        ),
    ] = Field(
        default="auto",
        description="How many tunnels may be open at once; beyond it handshakes get 503. auto is what the limit of open"
        " descriptors carries, at most 65536",
    )
    listen: tuple[Listener, ...] = Field(min_length=1, description="Addresses to accept clients on")
    trusted_proxies: tuple[Network, ...] = Field(
        default=(),
        description="Networks and addresses of proxies in front, whose X-Forwarded-* and PROXY headers are believed",
    )
    admin: Admin = Field(default_factory=Admin, description="Metrics, health checks, admin API and status page")
    heads: Heads = Field(default_factory=Heads, description="Limits of a request's head; an answer's may be twice that")
    underscores: Underscores = Field(
        default="drop",
        description="What becomes of a request's fields with `_` in their name: drop, pass or reject (400)",
    )
    access_log: Annotated[
        AccessLog,
        BeforeValidator(_log_may_be_off, json_schema_input_type=AccessLog | Literal["off", False]),
    ] = Field(
        default_factory=AccessLog,
        description="One line for each handshake and one for each tunnel's end; or off",
    )
    timeouts: Timeouts = Field(default_factory=Timeouts, description="Timeouts; a route may override each")
    keepalive: Keepalive = Field(
        default_factory=Keepalive,
        description="Pings to sides of tunnels that are silent; a route may override each key",
    )
    drain: Drain = Field(default_factory=Drain, description="How tunnels are closed before the gateway exits")
    upstreams: dict[Name, Upstream] = Field(min_length=1, description="Groups of backends, by name")
    routes: tuple[Route, ...] = Field(
        min_length=1,
        description="Which requests go to which upstream; the first route that matches takes a request",
    )

    def timeouts_of(self, route: Route) -> Timeouts:
        """Return the timeouts of `route`: the gateway's, overridden by its own."""
        return route.timeouts.over(self.timeouts)

    def backend_addresses(self) -> list[Address]:
        """Return the addresses that workers connect to: those of auth servers and of all backends that are listed."""
        backends = [backend.address for upstream in self.upstreams.values() for backend in upstream.backends]
        asked = [route.auth.forward for route in self.routes if route.auth is not None]
        return backends + [address_of(server.url) for server in asked if server is not None]

    def mistakes_in_files(self) -> Iterator[Conflict]:
        """Yield what is wrong with the files that this configuration names. Reads them."""
        for index, listener in enumerate(self.listen):
            if listener.tls is not None:
                for key, error in listener.tls.mistakes_in_files():
                    yield Conflict(("listen", index, "tls", *key), error)
        for name, upstream in self.upstreams.items():
            if upstream.tls is not None:
                for key, error in upstream.tls.mistakes_in_files():
                    yield Conflict(("upstreams", name, "tls", *key), error)

        for index, route in enumerate(self.routes):
            if route.auth is not None:
                for key, error in route.auth.mistakes_in_files():
                    yield Conflict(("routes", index, "auth", *key), error)

    def keepalive_of(self, route: Route) -> Keepalive:
        """Return the keepalive of `route`: the gateway's, overridden by its own keys."""
        return route.keepalive.over(self.keepalive)

    @classmethod
    def conflicts(cls, written: Mapping[str, object]) -> Iterator[Conflict]:
        """Yield unknown upstreams, conflicts in keepalives, and duplicate names and addresses."""
        upstreams = written.get("upstreams")
        if isinstance(upstreams, Mapping):  # otherwise report that mistake, not each route that refers to an upstream
            yield from unknown_upstreams(written.get("routes"), upstreams)
        yield from misfits_on_routes(written)
        yield from _headers_from_nobody(written)
        yield from contradictions(written.get("routes"))
        names = [
            (("routes", index, "name"), value_of(route, "name")) for index, route in items_of(written.get("routes"))
        ]
        yield from repeated(((key, name) for key, name in names if isinstance(name, str)), _named_twice)
        yield from repeated(_listen_addresses(written), _listened_twice)


def _headers_from_nobody(written: Mapping[str, object]) -> Iterator[Conflict]:
    if written.get("trusted_proxies", ()) not in ([], ()):
        return
    for index, listener in items_of(written.get("listen")):
        if value_of(listener, "proxy_protocol") is not True:
            continue
        try:
            if parse_listen(value_of(listener, "address")).path is not None:
                continue  # peers on a unix socket are trusted
        except BadValue:
            pass  # reported by its validator
        error = BadValue(
            "a PROXY header is believed from trusted proxies only, and there are none",
            "list the load balancers in `trusted_proxies`",
        )
        yield Conflict(("listen", index, "proxy_protocol"), error)


def _listen_addresses(written: Mapping[str, object]) -> Iterator[tuple[KeyPath, Address]]:
    # The admin address comes first: if a listener clashes with its default, the listener's position is reported.
    admin = written.get("admin", {})
    if isinstance(admin, Mapping):
        admin = {"address": Admin().address, **admin}
    entries: list[tuple[KeyPath, object]] = [(("admin", "address"), value_of(admin, "address"))]
    for index, listener in items_of(written.get("listen")):
        entries.append((("listen", index, "address"), value_of(listener, "address")))
    for key, entry in entries:
        try:
            yield key, parse_listen(entry)
        except BadValue:
            continue  # reported by its validator


def _named_twice(name: str) -> BadValue:
    return BadValue(f"an earlier route is named {quoted(name)} too", "a unique name, since it labels metrics")


def _listened_twice(address: str) -> BadValue:
    return BadValue(f"{address} is listened on already", "an address that no other listener nor `admin` has")
