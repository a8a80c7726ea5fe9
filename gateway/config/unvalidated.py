"""Stand-ins for pydantic in a process that only gets configurations which another process has read.

The supervisor needs the sections of a configuration, with their values and methods, but validates none. Pydantic and
what it builds for validation would take a quarter of its memory. Sections of both kinds have the same classes here and
there, and are sent by pickle.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NoReturn, Self

_FIELDS_SET = "_fields_set"


class _BaseModel:
    """A section as it was unpickled: frozen, equal to others with the same values."""

    def __init__(self, **values: Any) -> None:
        """Make a section with valid values, and the defaults in ``defaults`` for others."""
        copy = defaults[type(self)].model_copy(values)
        self.__dict__.update(copy.__dict__, **{_FIELDS_SET: frozenset(values)})

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state["__dict__"])
        self.__dict__[_FIELDS_SET] = frozenset(state["__pydantic_fields_set__"])

    @property
    def model_fields_set(self) -> frozenset[str]:
        fields: frozenset[str] = self.__dict__[_FIELDS_SET]
        return fields

    def model_copy(self, update: Mapping[str, Any]) -> Self:
        copy = object.__new__(type(self))
        fields = self.model_fields_set | update.keys()
        copy.__dict__.update(self.__dict__, **update, **{_FIELDS_SET: fields})
        return copy

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), *self._values().values()))

    def _values(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != _FIELDS_SET}


defaults: dict[type, _BaseModel] = {}
"""Sections that methods make new ones of, by class; they come with each configuration."""


def import_sections() -> None:
    """Import the classes of all sections with these stand-ins. Does nothing if pydantic has been imported.

    Nothing else sees them: what imports pydantic later gets pydantic.
    """
    if "pydantic" in sys.modules:
        return
    for name in _MODULES:
        module = sys.modules[name] = ModuleType(name)
        module.__dict__.update(_NAMES)
    try:
        import gateway.config.schema  # noqa: F401  # it imports all of them
    finally:
        for name in _MODULES:
            del sys.modules[name]


class _Anything:
    """What is put into annotations, and called there."""

    def __init__(self, *arguments: object, **options: object) -> None:
        pass

    def __class_getitem__(cls, of: object) -> type[_Anything]:
        return cls


def _field(*arguments: object, **options: object) -> None:
    """No default: every section has all its values."""


def _decorator(*arguments: object, **options: object) -> Callable[[Any], Any]:
    return lambda method: method


class _NeverRaised(Exception):
    pass


_MODULES = ("pydantic", "pydantic.json_schema", "pydantic_core")
_NAMES: dict[str, Any] = {
    "BaseModel": _BaseModel,
    "ConfigDict": dict,
    "Field": _field,
    "ValidationError": _NeverRaised,
    "model_validator": _decorator,
    "__getattr__": lambda name: _Anything,
}
