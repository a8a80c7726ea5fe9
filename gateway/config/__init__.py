"""The configuration: what a `gateway.yaml` may say, and what is wrong with one.

::

    text ──composer──▶ nodes ──tree──▶ plain data and places ──schema──▶ Config
                              environment                     section

`load` goes all the way, and puts the findings of each step at a line and column (`loader`). The schema is
one file a concept: `schema` (the top), `heads`, `upstreams`, `routes`, `matching`, `timeouts`, `keepalive`, `drain`.
The values in it are `address`, `hostnames`, `durations`, `sizes`, `closecodes`, `names`. `section` is what its mappings
have in common, `words` the words of messages, `errors` their form; `doubts` are warnings.
`jsonschema` describes the same file to editors.

A worker is sent `settings`, and needs neither YAML nor pydantic nor the loader: names are imported when first used.
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
