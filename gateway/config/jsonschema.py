"""The JSON Schema (2020-12) of `gateway.yaml`, for completion and checks in editors."""

from typing import Any

from gateway.config.schema import Config

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NOTES = {"title", "description", "default"}
_VARIABLE = {
    "type": "string",
    "pattern": r"\$\{",
    "description": "Read from the environment: ${VAR} or ${VAR:-default}",
}


def json_schema() -> dict[str, Any]:
    """Return the schema, ready for `json.dumps`. It accepts everything that the loader accepts."""
    schema = Config.model_json_schema()
    definitions = schema.pop("$defs")
    for definition in definitions.values():
        # Docstrings are for developers; users get the descriptions of keys.
        _tidy(definition)
        del definition["description"]
    _tidy(schema)
    schema |= {"title": "gateway.yaml", "description": "Configuration of upgrade-gateway"}
    return {"$schema": _DIALECT, **schema, "$defs": {"Variable": _VARIABLE, **definitions}}


def _tidy(section: dict[str, Any]) -> None:
    section.pop("title", None)
    for key, value in section["properties"].items():
        value.pop("title", None)
        # If the meaning of an absent key cannot be written as a value (any path, any host), there is no default.
        if value.get("default", True) in (None, "", [], {}, ()):
            del value["default"]
        if "patternProperties" in value:
            value["additionalProperties"] = False
        section["properties"][key] = _or_variable(value)


def _or_variable(schema: dict[str, Any]) -> dict[str, Any]:
    """Return `schema` with `${VAR}` allowed for each scalar in it."""
    if "items" in schema:
        return schema | {"items": _or_variable(schema["items"])}
    notes = {key: value for key, value in schema.items() if key in _NOTES}
    rest = {key: value for key, value in schema.items() if key not in _NOTES}
    if "$ref" in rest or rest.get("type") == "object" or rest == {"type": "string"}:
        return schema
    return notes | {"anyOf": [*rest.get("anyOf", [rest]), {"$ref": "#/$defs/Variable"}]}
