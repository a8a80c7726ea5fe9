"""The base of every mapping in the configuration: strict, frozen, and reporting all mistakes at once.

Pydantic validates each value. This module adds two things: it rewords pydantic's findings for operators, at the level
that knows the neighbouring keys; and it runs the rules about several values (`conflicts`) even if single values are
wrong, so that one run shows every mistake.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import NoneType
from typing import Any, NamedTuple, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails

from gateway.config import words
from gateway.config.errors import BadKey, BadValue, KeyPath

_SectionT = TypeVar("_SectionT", bound="Section")

_AT_KEY = "[key]"  # pydantic appends this to the location of a mapping's bad key


class Conflict(NamedTuple):
    """A value that is fine by itself but not with its neighbours; `key` is relative to the section."""

    key: KeyPath
    error: BadValue


class Section(BaseModel):
    """A mapping with known keys. Frozen, so that it can be shared."""

    # Build the validator on first use, so processes that read no file never do.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    @classmethod
    def conflicts(cls, written: Mapping[str, object]) -> Iterator[Conflict]:
        """Yield the values that conflict with each other.

        :param written: as it is in the file: any key may be missing, and any value may have any type. Such mistakes
            are reported elsewhere and must be ignored here.
        """
        yield from ()

    def merged_into(self, base: _SectionT) -> _SectionT:
        """Return `base`, overridden by the keys that were set here explicitly."""
        return base.model_copy(update={name: getattr(self, name) for name in self.model_fields_set})

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The JSON Schema of a mapping, in which nothing stands for no value."""
        described = handler(schema)
        for key, value in handler.resolve_ref_schema(described).get("properties", {}).items():
            if key in _optional_keys(cls):
                value["anyOf"].remove({"type": "null"})
        return described

    @model_validator(mode="wrap")
    @classmethod
    def _report_all(cls, written: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        conflicts = [*cls.conflicts(written), *_unfinished(written, cls)] if isinstance(written, Mapping) else []
        try:
            section = validate(written)
        except ValidationError as error:
            findings = error.errors(include_url=False)
            conflicts += (_reworded(details, cls) for details in findings if not _is_consequence(details))
        if not conflicts:
            return section
        raise ValidationError.from_exception_data(
            cls.__name__,
            [
                InitErrorDetails(type="value_error", loc=conflict.key, input=None, ctx={"error": conflict.error})
                for conflict in conflicts
            ],
        )


def bad_values(error: ValidationError) -> Iterator[tuple[KeyPath, BadValue]]:
    """Yield each finding of a section's validation, with its key path relative to that section."""
    for details in error.errors(include_url=False, include_input=False):
        yield details["loc"], details["ctx"]["error"]


def without_defaults(schema: dict[str, Any]) -> None:
    """Remove the defaults from a section's JSON Schema: its missing keys are taken from another section."""
    for value in schema["properties"].values():
        value.pop("default", None)


def value_of(written: object, key: str) -> object:
    """Return the value at `key` if `written` is a mapping or a section and has one; otherwise None."""
    if isinstance(written, Mapping):
        return written.get(key)
    return getattr(written, key, None) if isinstance(written, Section) else None


def items_of(written: object) -> Iterator[tuple[int, object]]:
    """Yield the numbered items of `written` if it is a list."""
    return enumerate(written if isinstance(written, list | tuple) else ())


def repeated(values: Iterable[tuple[KeyPath, object]], error_for: Callable[[str], BadValue]) -> Iterator[Conflict]:
    """Yield a conflict for each value that occurred before. :param error_for: makes the error"""
    seen = set()
    for key, value in values:
        text = str(value)
        if text in seen:
            yield Conflict(key, error_for(text))
        seen.add(text)


def _unfinished(written: Mapping[Any, object], section: type[Section]) -> Iterator[Conflict]:
    """Yield each optional key that has nothing behind it.

    To pydantic that is the same as an absent key. To an operator it is a rule whose lines are commented out: without an
    error, a route with a bare ``auth:`` would let everyone in.
    """
    for key in _optional_keys(section):
        if key in written and written[key] is None:
            yield Conflict((key,), BadValue("expected a value, found nothing", f"a value, or no `{key}`"))


def _optional_keys(section: type[Section]) -> list[str]:
    """Keys that may be absent and have no default. Those with a validator of their own decide themselves on nothing."""
    return [
        field.alias or name
        for name, field in section.model_fields.items()
        if NoneType in get_args(field.annotation) and not field.metadata
    ]


def _is_consequence(details: ErrorDetails) -> bool:
    # Pydantic counts only valid items of a list: "too short" may just mean that items were invalid.
    return details["type"] == "too_short" and bool(details["input"])


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _reworded(details: ErrorDetails, section: type[Section]) -> Conflict:
    key: KeyPath = details["loc"]
    error = _in_plain_words(details, section)
    if key and key[-1] == _AT_KEY:
        return Conflict(key[:-1], BadKey(error.message, error.hint))
    return Conflict(key, error)


def _in_plain_words(details: ErrorDetails, section: type[Section]) -> BadValue:
    # Findings from deeper levels are already reworded: the others are about `section` and its own values.
    context = details.get("ctx", {})
    error = context.get("error")
    if isinstance(error, BadValue):
        return error
    value = details["input"]
    match details["type"]:
        case "missing":
            description = section.model_fields[str(details["loc"][-1])].description
            return BadValue("this key is required", f"add it: {description}")
        case "extra_forbidden":
            names = [field.alias or name for name, field in section.model_fields.items()]
            hint = words.known(str(details["loc"][-1]), names, "known here")
            return BadKey("unknown key", hint)
        case "model_type" | "dict_type":
            return BadValue(f"expected a mapping, found {words.found(value)}", "lines such as `key: value`")
        case "tuple_type":
            return BadValue(f"expected a list, found {words.found(value)}", "lines such as `- item`")
        case "string_type":
            return BadValue(f"expected text, found {words.found(value)}", 'in quotes, "…", anything is text')
        case "int_type":
            return BadValue(f"expected a whole number, found {words.found(value)}", "digits without quotes")
        case "bool_type":
            return BadValue(f"expected true or false, found {words.found(value)}", "without quotes")
        case "greater_than_equal":
            return BadValue(f"{words.number(value)} is too small", f"at least {context['ge']}")
        case "less_than_equal":
            return BadValue(f"{words.number(value)} is too large", f"at most {context['le']}")
        case "too_short":
            return BadValue("is empty", "at least one is needed")
        case "literal_error":
            choices = re.findall(r"'([^']*)'", context["expected"])
            hint = words.known(_text(value), choices, "choices")
            if isinstance(value, float) and str(value) in choices:
                hint = f'in quotes: "{value}"'
            return BadValue(f"{words.found(value)} is not a choice", hint)
        case _:
            # No field produces such findings today. Pydantic's own words are better than none.
            return BadValue(details["msg"].lower(), "`gateway schema` shows what may stand here")
