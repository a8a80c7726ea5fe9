"""The configuration: the format of `gateway.yaml`, and all errors in such a file.

::

    text ──composer──▶ nodes ──tree──▶ plain data and places ──schema──▶ Config
                              environment                     section

`load` runs all steps, and gives the errors of each a line and column (`loader`). The schema has one file per concept:
`schema` (the top level), `listener_tls`, `heads`, `upstreams`, `upstream_tls`, `routes`, `matching`, `timeouts`,
`keepalive`, `drain`. `certificates` reads files of certificates. Types of values are in `address`, `hostnames`,
`durations`, `sizes`, `closecodes`, `names`, `pem`. `section` is the base of all mappings, `words` helps to phrase
messages, `errors` has the exceptions, `doubts` the warnings. `jsonschema` makes the schema for editors.

A worker is sent `settings`, and needs neither YAML nor pydantic nor the loader: names are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.config.errors import BadValue, ConfigError, Problem
    from gateway.config.jsonschema import json_schema
    from gateway.config.loader import load, load_admin, load_with_doubts, parse
    from gateway.config.schema import (
        AccessLog,
        Address,
        Admin,
        Backend,
        Config,
        Drain,
        Heads,
        Keepalive,
        KeepaliveOverrides,
        KeepaliveSide,
        Listener,
        Match,
        OnLoss,
        Pool,
        Route,
        TimeoutOverrides,
        Timeouts,
        Upstream,
        UpstreamTls,
    )

__all__ = [
    "AccessLog",
    "Address",
    "Admin",
    "Backend",
    "BadValue",
    "Config",
    "ConfigError",
    "Drain",
    "Heads",
    "Keepalive",
    "KeepaliveOverrides",
    "KeepaliveSide",
    "Listener",
    "Match",
    "OnLoss",
    "Pool",
    "Problem",
    "Route",
    "TimeoutOverrides",
    "Timeouts",
    "Upstream",
    "UpstreamTls",
    "json_schema",
    "load",
    "load_admin",
    "load_with_doubts",
    "parse",
]


_ELSEWHERE = {
    **dict.fromkeys(("BadValue", "ConfigError", "Problem"), "errors"),
    **dict.fromkeys(("load", "load_admin", "load_with_doubts", "parse"), "loader"),
    "json_schema": "jsonschema",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"gateway.config.{_ELSEWHERE.get(name, 'schema')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
