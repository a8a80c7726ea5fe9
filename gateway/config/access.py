"""Who may come in: origins and addresses."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from typing import Annotated

from pydantic import PlainValidator, WithJsonSchema

from gateway.config.errors import BadValue
from gateway.config.section import Conflict, items_of, value_of
from gateway.config.words import found, quoted
from gateway.protocol.origin import NULL, canonical_origin

NONE = "none"
"""In a list of origins: requests without ``Origin``, which browsers send for pages, images and scripts of a site."""

_ANY_SUBDOMAIN = "://*."
_EXAMPLE = "such as https://app.example.com or https://*.example.com; none for requests without Origin, or null"


def parse_network(value: object) -> IPv4Network | IPv6Network:
    """Parse a network or an address. :raises BadValue: it is neither"""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str):
        raise BadValue(f"expected a network, found {found(value)}", "such as 10.0.0.0/8 or 192.0.2.7")
    try:
        if "%" not in value:  # a zone belongs to the route to a peer, not to its address
            return ip_network(value)
    except ValueError:
        pass
    raise BadValue(f"{quoted(value)} is not a network", _likely_network(value))


def _likely_network(text: str) -> str:
    try:
        return f"{ip_interface(text.partition('%')[0]).network} is the network around it"
    except ValueError:
        return "such as 10.0.0.0/8 or 192.0.2.7"


def parse_origin(value: object) -> str:
    """Parse a rule for origins; return it in the form that requests are compared with. :raises BadValue: it is none"""
    if value is None:
        return NULL  # a bare `null` in YAML
    if not isinstance(value, str):
        raise BadValue(f"expected an origin, found {found(value)}", _EXAMPLE)
    if value.lower() in (NONE, NULL):
        return value.lower()
    if value == "*":
        raise BadValue("`*` is not an origin", "leave `origins` out to allow every origin")
    origin = canonical_origin(value.replace(_ANY_SUBDOMAIN, "://", 1))
    if origin is None:
        bare = value.partition("://")[0] + "://" + value.partition("://")[2].partition("/")[0]
        hint = f"{bare}: an origin has no path" if "://" in value and canonical_origin(bare) else _EXAMPLE
        raise BadValue(f"{quoted(value)} is not an origin", hint)
    return origin.replace("://", _ANY_SUBDOMAIN, 1) if _ANY_SUBDOMAIN in value else origin


def contradictions(written: object) -> Iterator[Conflict]:
    """Yield each network that a route both allows and denies. :param written: the routes as in the file"""
    for index, route in items_of(written):
        allowed = set(_networks(value_of(route, "allow")))
        for at, network in _numbered_networks(value_of(route, "deny")):
            if network in allowed:
                error = BadValue(f"{network} is allowed, too", "in `allow` or in `deny`; the longest prefix wins")
                yield Conflict(("routes", index, "deny", at), error)


def _networks(written: object) -> Iterator[IPv4Network | IPv6Network]:
    for _, network in _numbered_networks(written):
        yield network


def _numbered_networks(written: object) -> Iterator[tuple[int, IPv4Network | IPv6Network]]:
    for at, item in items_of(written):
        try:
            yield at, parse_network(item)
        except BadValue:
            continue  # reported by its validator


Network = Annotated[
    IPv4Network | IPv6Network,
    PlainValidator(parse_network),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9A-Fa-f.:]+(/[0-9.]+)?$"}),
]
Origin = Annotated[
    str,
    PlainValidator(parse_origin),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, {"type": "null"}]}),
]
