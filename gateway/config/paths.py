"""Paths of files that a configuration names; relative ones start at the directory of the configuration."""

import os
from collections.abc import Callable
from typing import Annotated

from pydantic import PlainValidator, ValidationInfo, WithJsonSchema

from gateway.config.errors import BadValue
from gateway.config.words import found, quoted


def path_of(kind: str) -> Callable[[object, ValidationInfo], str]:
    """A validator of paths, which makes them absolute. :param kind: of file, for error messages"""
    hint = f"the path of {kind}"

    def parse_path(value: object, info: ValidationInfo) -> str:
        if not isinstance(value, str) or not value:
            raise BadValue(f"expected a path, found {found(value)}", hint)
        if not value.isprintable():
            raise BadValue(f"the path {quoted(value)} holds a control character", hint)
        return os.path.join((info.context or {}).get("directory", ""), value)

    return parse_path


FilePath = Annotated[str, PlainValidator(path_of("a file")), WithJsonSchema({"type": "string", "minLength": 1})]
