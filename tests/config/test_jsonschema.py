"""The JSON Schema says of a file what the loader says, as far as a schema can."""

import json
import re
from typing import Any

import pytest
import yaml

from gateway.config import json_schema

from .files import CONTRACT, MINIMAL, complaints, route, with_top

SCHEMA = json_schema()
TYPES = {
    "object": dict,
    "array": list,
    "boolean": bool,
    "string": str,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Return whether `value` is valid by `schema`, of which this knows what `json_schema` uses."""
    if "$ref" in schema and not fits(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")]):
        return False
    if "anyOf" in schema and not any(fits(value, option) for option in schema["anyOf"]):
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    expected = schema.get("type")
    if expected and (
        not isinstance(value, TYPES[expected]) or (expected in ("integer", "number") and isinstance(value, bool))
    ):
        return False
    if isinstance(value, str):
        return len(value) >= schema.get("minLength", 0) and bool(re.search(schema.get("pattern", ""), value))
    if isinstance(value, list):
        return len(value) >= schema.get("minItems", 0) and all(fits(item, schema.get("items", {})) for item in value)
    if isinstance(value, dict):
        return (
            len(value) >= schema.get("minProperties", 0)
            and set(schema.get("required", ())) <= set(value)
            and all(fits(item, schema_of(key, schema)) for key, item in value.items())
        )
    if isinstance(value, int) and not isinstance(value, bool):
        return schema.get("minimum", value) <= value <= schema.get("maximum", value)
    return True


def schema_of(key: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of `key` in an object of `schema`."""
    for pattern, found in schema.get("patternProperties", {}).items():
        if re.search(pattern, key):
            return found
    unknown = {} if schema.get("additionalProperties", True) else {"enum": []}
    return schema.get("properties", {}).get(key, unknown)


def properties(schema: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return every key that `schema` describes, however deep."""
    if isinstance(schema, list):
        return [found for item in schema for found in properties(item)]
    if not isinstance(schema, dict):
        return []
    return [*schema.get("properties", {}).items(), *properties(list(schema.values()))]


def test_it_is_a_document_of_its_dialect():
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["title"] == "gateway.yaml"


def test_every_key_has_a_description():
    described = properties(SCHEMA)
    assert {"workers", "weight", "path_regex", "max_lifetime"} <= {key for key, _ in described}
    assert [key for key, schema in described if not schema.get("description")] == []


def test_defaults_are_as_a_user_writes_them():
    timeouts = SCHEMA["$defs"]["Timeouts"]["properties"]
    assert timeouts["connect"]["default"] == "5s"
    assert timeouts["idle"]["default"] == "off"
    assert SCHEMA["$defs"]["Heads"]["properties"]["max_size"]["default"] == "32KiB"
    assert SCHEMA["properties"]["workers"]["default"] == "auto"
    assert SCHEMA["$defs"]["Admin"]["properties"]["address"]["default"] == "127.0.0.1:9100"
    assert "default" not in SCHEMA["$defs"]["Match"]["properties"]["hosts"]


def test_a_route_has_no_timeouts_of_its_own_by_default():
    overrides = SCHEMA["$defs"]["TimeoutOverrides"]["properties"]
    assert overrides.keys() == SCHEMA["$defs"]["Timeouts"]["properties"].keys()
    assert not any("default" in timeout for timeout in overrides.values())


def test_a_route_keeps_nothing_alive_by_itself():
    definitions = SCHEMA["$defs"]
    for side in ("client", "backend"):
        (reference, *_) = definitions["KeepaliveOverrides"]["properties"][side]["anyOf"]
        assert reference == {"$ref": "#/$defs/SideOverrides"}
    overrides = definitions["SideOverrides"]["properties"]
    assert overrides.keys() == definitions["KeepaliveSide"]["properties"].keys()
    assert not any("default" in value for value in overrides.values())
    assert definitions["KeepaliveSide"]["properties"]["ping_after"]["default"] == "25s"


def test_every_default_fits():
    assert all(fits(schema["default"], schema) for _, schema in properties(SCHEMA) if "default" in schema)


@pytest.mark.parametrize(
    "text",
    [
        MINIMAL,
        CONTRACT,
        with_top("workers: 4\naccess_log: off"),
        with_top("max_tunnels: auto"),
        with_top('max_tunnels: "auto"'),
        with_top('workers: ${N:-2}\nmax_tunnels: ${M:-5}\ntimeouts: {connect: "${T:-5s}"}'),
        with_top('admin: {hosts: [gw.example.com, "*.internal"]}'),
        with_top("access_log: {path: off}\ntimeouts: {idle: 1.5h, max_lifetime: 'off'}"),
        with_top("keepalive: {client: off, backend: {ping_after: off}}"),
        with_top("keepalive: {client: 'off', backend: {ping_after: adaptive, min: 1s, max: 1h}}"),
        with_top('keepalive: {client: "${C:-off}", backend: {ping_after: "${B:-25s}"}}'),
        with_top("heads: {max_size: 1MiB, max_fields: 64}\nunderscores: reject"),
        with_top("timeouts: {response: off, request_body: 5s, http_idle: 1m}"),
        MINIMAL.replace('9001"]', '9001"], pool: off'),
        MINIMAL.replace('9001"]', '9001"], pool: {idle: 1m, size: 1}'),
        route("timeouts: {response: off, request_body: 5s}"),
        route("keepalive: {}"),
        route("keepalive: {client: off, backend: {ping_after: adaptive, max: 1m}}"),
        route("match:"),
        route("limits: {}"),
        route("match: {path_regex: ^/a}, http: reject, upgrades: []"),
    ],
)
def test_what_loads_fits(text):
    assert complaints(text) == []
    assert fits(yaml.safe_load(text), SCHEMA)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        with_top("tls: {}"),
        with_top("workers: 0"),
        with_top("workers: '4'"),
        with_top("max_tunnels: true"),
        with_top("timeouts: {connect: 5}"),
        with_top("timeouts: {connect: off}"),
        with_top("access_log: {format: xml}"),
        with_top("heads: {max_size: 32k}"),
        with_top("heads: {max_size: 32768}"),
        with_top("heads: {max_fields: 0}"),
        with_top("underscores: keep"),
        with_top("timeouts: {http_idle: off}"),
        MINIMAL.replace('9001"]', '9001"], pool: {size: 0}'),
        MINIMAL.replace('9001"]', '9001"], pool: 64'),
        with_top("keepalive: off"),
        with_top("keepalive: {client: }"),
        with_top("keepalive: {client: 25s}"),
        with_top("keepalive: {server: off}"),
        with_top("keepalive: {client: {ping_after: auto}}"),
        with_top("keepalive: {client: {ping_after: adaptive, min: off}}"),
        with_top("keepalive: {client: {pong_timeout: off}}"),
        with_top("keepalive: {client: {ping: 25s}}"),
        MINIMAL.replace("0.0.0.0:8080", "0.0.0.0"),
        MINIMAL.replace("chat:", "ch@t:"),
        MINIMAL.replace('["127.0.0.1:9001"]', "[]"),
        MINIMAL.replace('["127.0.0.1:9001"]', "[{weight: 1}]"),
        route("match: {path: ws}"),
        route("match: {hosts: []}"),
        route("http: no"),
        route("keepalive: {client: {pong_timeout: 20}}"),
        route("keepalive: {backend: adaptive}"),
        route("timeouts: {idle: 5d}"),
        route("auth:"),
        route("auth: {forward: {url: 'http://a.test/', ca: }}"),
        route("limits: {frame_size: }"),
    ],
)
def test_what_a_schema_can_tell_does_not_fit(text):
    assert complaints(text)
    assert not fits(yaml.safe_load(text), SCHEMA)
