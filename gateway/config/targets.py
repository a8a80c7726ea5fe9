"""Files that list backends, in the form of Prometheus's ``file_sd``, and what is in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from gateway.config.address import parse_backend
from gateway.config.errors import BadValue
from gateway.config.files import open_file
from gateway.config.settings_balancing import Backend
from gateway.config.words import found, quoted

MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_WEIGHT = 65535
MAX_TUNNELS = 1048576
MAX_TARGETS = 4096
MAX_LISTED = 4 * MAX_TARGETS
_FORM = "a list of {targets: [host:port], labels: {weight: 2}}"


class Targets(NamedTuple):
    """What a file lists."""

    backends: tuple[Backend, ...]
    mistakes: tuple[BadValue, ...] = ()
    """what is wrong with entries and targets that were left out"""


def read_targets(path: str) -> Targets:
    """Read a file of targets. :raises BadValue: it cannot be read, is not such a file, or lists none"""
    try:
        with open_file(path) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadValue(f"cannot be read: {error.strerror}", "a file that the gateway may read") from None
    if len(data) > MAX_FILE_BYTES:
        raise BadValue(f"has more than {MAX_FILE_BYTES} bytes", _FORM)
    return parse_targets(data)


def parse_targets(data: bytes) -> Targets:
    """Parse the content of such a file, JSON or YAML. An address that is listed twice counts once, where it is first.

    :raises BadValue: it is broken, or lists no targets that can be used
    """
    backends: dict[str, Backend] = {}
    mistakes: list[BadValue] = []
    groups = _load(data)
    if not isinstance(groups, list):
        raise BadValue(f"expected a list, found {found(groups)}", _FORM)
    # Aliases of YAML let a small file list the same targets without end.
    listed = sum(len(targets) for group in groups if isinstance(targets := _targets_of(group), list))
    if max(listed, len(groups)) > MAX_LISTED:
        raise BadValue(f"more than {MAX_LISTED} targets", f"at most {MAX_TARGETS}, each once")
    for at, group in enumerate(groups):
        for each in _backends_of(group):
            if isinstance(each, BadValue):
                mistakes.append(BadValue(f"entry {at + 1}: {each.message}", each.hint))
            else:
                backends.setdefault(str(each.address), each)
    if len(backends) > MAX_TARGETS:
        raise BadValue(f"more than {MAX_TARGETS} targets", f"at most {MAX_TARGETS}")
    if not backends and mistakes:
        raise mistakes[0]
    if not backends:
        raise BadValue("lists no targets", "at least one; `drain` takes a backend out of service")
    return Targets(tuple(backends.values()), tuple(mistakes))


def _load(data: bytes) -> object:
    import json

    import yaml

    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        pass
    try:
        # An alias may stand for so much that no memory holds it once it is written out; it is the same object here.
        return yaml.load(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" in line {mark.line + 1}"
        raise BadValue(f"is neither JSON nor YAML: {problem}{place}", _FORM) from None


def _targets_of(group: object) -> object:
    return group.get("targets") if isinstance(group, Mapping) else None


def _backends_of(group: object) -> Iterator[Backend | BadValue]:
    """Yield the backends of a group, and what is wrong with it or with one of its targets."""
    try:
        targets, labels = _parts_of(group)
        weight = _whole(labels, "weight", MAX_WEIGHT)
        max_tunnels = _whole(labels, "max_tunnels", MAX_TUNNELS)
        backup, drain = _flag(labels, "backup"), _flag(labels, "drain")
    except BadValue as error:
        yield error
        return
    for target in targets:
        try:
            yield Backend(parse_backend(target), weight or 1, max_tunnels, backup, drain)
        except BadValue as error:
            yield error


def _parts_of(group: object) -> tuple[list[object], Mapping[object, object]]:
    """:raises BadValue: it is no group of targets"""
    if not isinstance(group, Mapping):
        raise BadValue(f"expected a mapping, found {found(group)}", _FORM)
    targets = group.get("targets")
    labels = group.get("labels") or {}
    if not isinstance(targets, list):
        raise BadValue(f"expected a list of `targets`, found {found(targets)}", _FORM)
    if not isinstance(labels, Mapping):
        raise BadValue(f"expected a mapping of `labels`, found {found(labels)}", _FORM)
    return targets, labels


def _label(labels: Mapping[object, object], name: str) -> object:
    """A label; ``__name__`` is how Prometheus hides one from metrics."""
    hidden = labels.get(f"__{name}__")
    return labels.get(name) if hidden is None else hidden


def _whole(labels: Mapping[object, object], name: str, most: int) -> int | None:
    value = _label(labels, name)
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 9:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        shown = quoted(value) if isinstance(value, str) else found(value)
        raise BadValue(f"the label {name} is {shown}", f"a whole number from 1 to {most}")
    return value


def _flag(labels: Mapping[object, object], name: str) -> bool:
    value = _label(labels, name)
    if value in (None, False, "false", ""):
        return False
    if value in (True, "true"):
        return True
    raise BadValue(f"the label {name} is {found(value)}", "true or false")
