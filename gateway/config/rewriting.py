"""How a route changes the path for its backends."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field, PlainValidator, WithJsonSchema

from gateway.config.errors import BadKey, BadValue
from gateway.config.matching import check_path, check_regex
from gateway.config.regex_cost import check_cost
from gateway.config.section import Conflict, Section, value_of
from gateway.config.words import found, quoted
from gateway.protocol.substitution import MalformedTemplate, Template

_EXAMPLE = 'such as "/new/\\\\1"'


def _check_prefix(value: object) -> str:
    path = check_path(value)
    if not path.strip("/"):
        raise BadValue(f"{quoted(path)} is no prefix: every path begins with it", "such as /ws")
    return path


def _check_match(value: object) -> str:
    regex = check_regex(value)
    check_cost(regex)
    return regex


def _check_to(value: object) -> str:
    if not isinstance(value, str):
        raise BadValue(f"expected a path, found {found(value)}", _EXAMPLE)
    try:
        Template(value)
    except MalformedTemplate as error:
        raise BadValue(f"{quoted(value)} is not what a path can become: {error}", _EXAMPLE) from None
    return value


_Prefix = Annotated[str | None, PlainValidator(_check_prefix), WithJsonSchema({"type": "string", "pattern": "^/"})]


class RegexRewrite(Section):
    """What becomes of paths that a regular expression matches."""

    match: Annotated[str, PlainValidator(_check_match), WithJsonSchema({"type": "string", "format": "regex"})] = Field(
        description="Regular expression (a subset of Python's syntax) that is looked for in the path; without a match"
        " the path stays"
    )
    to: Annotated[str, PlainValidator(_check_to), WithJsonSchema({"type": "string", "pattern": "^/"})] = Field(
        description="The new path, with \\1 or \\g<name> for what a group has matched; behind a ? parameters to add"
    )

    @classmethod
    def conflicts(cls, written: Mapping[str, object]) -> Iterator[Conflict]:
        """Yield a group in the new path that the expression does not have."""
        match, to = value_of(written, "match"), value_of(written, "to")
        if not isinstance(match, str) or not isinstance(to, str):
            return
        try:
            groups = re.compile(check_regex(match))
            wanted = Template(to).groups
        except (BadValue, MalformedTemplate):
            return  # reported by its validator
        for group in wanted:
            if group not in groups.groupindex and not (isinstance(group, int) and group <= groups.groups):
                name = f"\\{group}" if isinstance(group, int) else f"\\g<{group}>"
                yield Conflict(("to",), BadValue(f"`match` has no group for {name}", f"it has {groups.groups}"))


class Rewrite(Section):
    """How the path changes for the backend: by its prefix, or by a regular expression. The query stays."""

    strip_prefix: _Prefix = Field(default=None, description="Prefix that is taken off paths that have it")
    add_prefix: _Prefix = Field(default=None, description="Prefix that is put in front of all paths")
    regex: RegexRewrite | None = Field(default=None, description="Regular expression and what a path becomes by it")

    @classmethod
    def conflicts(cls, written: Mapping[str, object]) -> Iterator[Conflict]:
        """Yield prefixes beside a regular expression, and a rewrite that changes nothing."""
        given = [key for key in ("strip_prefix", "add_prefix") if key in written]
        if "regex" in written:
            for key in given:
                yield Conflict((key,), BadKey("`regex` says already what the path becomes", f"`regex`, or `{key}`"))
        elif not given and not set(written) - set(cls.model_fields):
            yield Conflict((), BadValue("changes nothing", "`strip_prefix`, `add_prefix`, or `regex`"))
