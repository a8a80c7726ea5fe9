"""The configuration: what a `gateway.yaml` may say, and what is wrong with one.

::

    text ──composer──▶ nodes ──tree──▶ plain data and places ──schema──▶ Config
                              environment                     section

`load` goes all the way, and puts the findings of each step at a line and column (`loader`). The schema is
one file a concept: `schema` (the top), `upstreams`, `routes`, `matching`, `timeouts`, `keepalive`, `drain`; the
values in it are `address`, `hostnames`, `durations`, `closecodes`, `names`. `section` is what its mappings have in
common, `words` the words of messages, `errors` their form. `jsonschema` describes the same file to editors.

A worker is sent a `Config` and needs neither YAML nor the loader: those names are imported when first used.
"""

from typing import TYPE_CHECKING, Any

from gateway.config.errors import BadValue, ConfigError, Problem
from gateway.config.schema import (
    AccessLog,
    Address,
    Admin,
    Backend,
    Config,
    Drain,
    Keepalive,
    KeepaliveOverrides,
    KeepaliveSide,
    Listener,
    Match,
    OnLoss,
    Route,
    TimeoutOverrides,
    Timeouts,
    Upstream,
)

if TYPE_CHECKING:
    from gateway.config.jsonschema import json_schema
    from gateway.config.loader import load, load_admin, parse

__all__ = [
    "AccessLog",
    "Address",
    "Admin",
    "Backend",
    "BadValue",
    "Config",
    "ConfigError",
    "Drain",
    "Keepalive",
    "KeepaliveOverrides",
    "KeepaliveSide",
    "Listener",
    "Match",
    "OnLoss",
    "Problem",
    "Route",
    "TimeoutOverrides",
    "Timeouts",
    "Upstream",
    "json_schema",
    "load",
    "load_admin",
    "parse",
]


def __getattr__(name: str) -> Any:
    if name in ("load", "load_admin", "parse"):
        from gateway.config import loader

        return getattr(loader, name)
    if name == "json_schema":
        from gateway.config.jsonschema import json_schema

        return json_schema
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
