"""Converts values of annotated types to plain JSON data, and back: named tuples, dataclasses, containers, networks.

The annotations of fields are the whole description, so a new field needs no change here. A type that is not supported
raises ``TypeError`` when its class is first used. Nothing is ever pickled.

========================  ==========================================================================================
annotation                on the wire
========================  ==========================================================================================
scalar, ``Literal``       unchanged
``bytes``                 text, one character per byte (latin-1)
network, IP address       text
named tuple, dataclass    a list of its fields, in order
``tuple``, ``list``       a list; ``frozenset`` a sorted one
``dict``                  an object if its keys are text, else a list of pairs
``X | None``              null, or as X
a union of scalars        unchanged
any other union           a pair of the type's name and the value
========================  ==========================================================================================
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

_Kinds = frozenset[type]
_SCALARS: dict[object, _Kinds] = {
    bool: frozenset((bool,)),
    int: frozenset((int,)),
    float: frozenset((float, int)),  # a value annotated as float may be a whole number
    str: frozenset((str,)),
    NoneType: frozenset((NoneType,)),
}
_AS_TEXT = (IPv4Network, IPv6Network, IPv4Address, IPv6Address)


class Misfit(ValueError):
    """Plain data does not fit the type; ``str()`` says where and how."""


class Form(NamedTuple):
    """How values of one type are encoded. Decoding modifies the lists in place, so they must not be shared."""

    encode: Callable[[Any], Any] | None
    """None if values are plain data already"""
    decode: Callable[[Any], Any] | None
    """None if checking :attr:`kinds` is enough. :raises Misfit: it does not fit"""
    kinds: _Kinds = frozenset()
    """types of plain data that are accepted unchanged"""

    def encoded(self, value: Any) -> Any:
        """:param value: of the type"""
        return value if self.encode is None else self.encode(value)

    def decoded(self, data: Any) -> Any:
        """:raises Misfit: ``data`` does not fit"""
        if self.decode is not None:
            return self.decode(data)
        if type(data) not in self.kinds:
            raise Misfit(f"{_shown(data)} is not {_named(self.kinds)}")
        return data


@cache
def form_of(annotation: Any) -> Form:
    """Return how values of a type are encoded. :raises TypeError: the type is not supported"""
    if annotation in _SCALARS:
        return Form(None, None, _SCALARS[annotation])
    if annotation is bytes:
        return Form(lambda value: value.decode("latin-1"), _from_text(lambda text: text.encode("latin-1"), "bytes"))
    if annotation in _AS_TEXT:
        return Form(str, _from_text(annotation, annotation.__name__))
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return form_of(arguments[0])
    if origin is Literal:
        return _literal(arguments)
    if origin in (Union, UnionType):
        return _union(arguments)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return _record(tuple, "a tuple", [(str(at), argument) for at, argument in enumerate(arguments)], lambda it: it)
    if origin in (tuple, list, frozenset):
        return _series(origin, form_of(arguments[0]))
    if origin is dict:
        return _mapping(*arguments)
    if isinstance(annotation, type) and issubclass(annotation, tuple) and hasattr(annotation, "_fields"):
        hints = get_type_hints(annotation)
        names = annotation._fields
        return _record(
            partial(tuple.__new__, annotation),
            annotation.__name__,
            [(name, hints[name]) for name in names],
            lambda value: value,
        )
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        hints = get_type_hints(annotation)
        names = tuple(field.name for field in dataclasses.fields(annotation))
        return _record(
            lambda values: annotation(*values),
            annotation.__name__,
            [(name, hints[name]) for name in names],
            lambda value: [getattr(value, name) for name in names],
        )
    raise TypeError(f"{annotation} has no form on the control channel: add one to {__name__}")


def _record(
    make: Callable[[list[Any]], Any],
    name: str,
    fields: list[tuple[str, Any]],
    values_of: Callable[[Any], Any],
) -> Form:
    """Return the form of a type with fields, each with its own type.

    :param make: makes a value from the fields' values
    :param values_of: returns the fields' values
    """
    forms = [form_of(annotation) for _, annotation in fields]
    names = [each for each, _ in fields]
    encoders = [(at, form.encode) for at, form in enumerate(forms) if form.encode is not None]
    decoders = [(at, form.decode) for at, form in enumerate(forms) if form.decode is not None]
    scalars = [(at, form.kinds) for at, form in enumerate(forms) if form.decode is None]

    def encode(value: Any) -> list[Any]:
        data = list(values_of(value))
        for at, of_field in encoders:
            data[at] = of_field(data[at])
        return data

    fitting: set[tuple[type, ...]] = set()
    """combinations of field types that passed the check before; thousands of messages share a few"""

    def decode(data: Any) -> Any:
        if type(data) is not list or tuple(map(type, data)) not in fitting:
            check(data)
            fitting.add(tuple(map(type, data)))
        if decoders:
            at = 0
            try:
                for at, of_field in decoders:
                    data[at] = of_field(data[at])
            except Misfit as error:
                raise Misfit(f"{name}.{names[at]}: {error}") from None
        return make(data)

    def check(data: Any) -> None:
        if type(data) is not list or len(data) != len(names):
            raise Misfit(f"{name}: {_shown(data)} in place of {', '.join(names)}")
        for at, kinds in scalars:
            if type(data[at]) not in kinds:
                raise Misfit(f"{name}.{names[at]}: {_shown(data[at])} is not {_named(kinds)}")

    return Form(encode, decode)


def _series(make: Callable[[Any], Any], form: Form) -> Form:
    arrange = sorted if make is frozenset else list
    kinds, of_item = form.kinds, form.decode

    def encode(values: Any) -> list[Any]:
        return arrange(values if form.encode is None else map(form.encode, values))

    def decode(data: Any) -> Any:
        if type(data) is not list:
            raise Misfit(f"{_shown(data)} is not a list")
        if of_item is not None:
            return make([of_item(each) for each in data])
        for each in data:
            if type(each) not in kinds:
                raise Misfit(f"{_shown(each)} is not {_named(kinds)}")
        return make(data)

    return Form(encode, decode)


def _mapping(key: Any, value: Any) -> Form:
    form = form_of(value)
    if key is not str:
        pairs = _series(dict, form_of(tuple[key, value]))
        assert pairs.encode is not None
        encode_pairs = pairs.encode
        return Form(lambda values: encode_pairs(values.items()), pairs.decode)

    def encode(values: dict[str, Any]) -> dict[str, Any]:
        return {name: form.encoded(each) for name, each in values.items()}

    def decode(data: Any) -> dict[str, Any]:
        if type(data) is not dict:
            raise Misfit(f"{_shown(data)} is not an object")
        return {name: form.decoded(each) for name, each in data.items()}

    return Form(encode, decode)


def _literal(values: tuple[Any, ...]) -> Form:
    def decode(data: Any) -> Any:
        if data not in values:
            raise Misfit(f"{_shown(data)} is not one of {', '.join(map(repr, values))}")
        return data

    return Form(None, decode)


def _union(alternatives: tuple[Any, ...]) -> Form:
    some = [each for each in alternatives if each is not NoneType]
    if all(each in _SCALARS or get_origin(each) is Literal for each in some):
        kinds = [_SCALARS[each] if each in _SCALARS else {type(value) for value in get_args(each)} for each in some]
        return Form(None, None, frozenset().union(*kinds, {NoneType} if len(some) < len(alternatives) else ()))
    return _optional(form_of(some[0]) if len(some) == 1 else _tagged(some), len(some) < len(alternatives))


def _optional(form: Form, optional: bool) -> Form:
    if not optional:
        return form
    return Form(
        lambda value: None if value is None else form.encoded(value),
        lambda data: None if data is None else form.decoded(data),
    )


def _tagged(alternatives: list[Any]) -> Form:
    forms = {}
    for each in alternatives:
        if not isinstance(each, type) or get_origin(each) is not None:
            raise TypeError(f"a union with {each} has no form on the control channel: name it, as a NamedTuple")
        forms[each.__name__] = form_of(each)

    def encode(value: Any) -> list[Any]:
        name = type(value).__name__
        return [name, forms[name].encoded(value)]

    def decode(data: Any) -> Any:
        if type(data) is not list or len(data) != 2 or type(data[0]) is not str or data[0] not in forms:
            raise Misfit(f"{_shown(data)} is none of {', '.join(forms)}")
        return forms[data[0]].decoded(data[1])

    return Form(encode, decode)


def _from_text(make: Callable[[str], Any], name: str) -> Callable[[Any], Any]:
    def decode(data: Any) -> Any:
        if type(data) is str:
            try:
                return make(data)
            except ValueError:
                pass
        raise Misfit(f"{_shown(data)} is not {name}")

    return decode


def _named(kinds: _Kinds) -> str:
    return " or ".join(sorted("null" if kind is NoneType else kind.__name__ for kind in kinds))


def _shown(data: object) -> str:
    """Describe wrong data without its contents: configurations hold secrets."""
    return f"{type(data).__name__}[{len(data)}]" if isinstance(data, list | dict | str) else type(data).__name__
