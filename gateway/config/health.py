"""Which backends are in service: health checks, and ejection of those that fail requests."""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainValidator, Strict, WithJsonSchema

from gateway.config.durations import DURATION_JSON_SCHEMA, Duration, is_off, parse_duration
from gateway.config.errors import BadKey, BadValue
from gateway.config.section import Conflict, Section
from gateway.config.words import found, known, quoted

KINDS = ("path", "tcp", "websocket")
_PATH_HINT = "a path with its query, such as /healthz"
_STATUS_HINT = "such as 200, 200-399 or [200, 204]"
_HOST_HINT = "such as chat.internal or chat.internal:9001"
_STATUS = re.compile(r"([1-9][0-9]{2})(?:-([1-9][0-9]{2}))?")
_TARGET = re.compile(r"/[\x21-\x7e]*")
_HOST = re.compile(r"[A-Za-z0-9._\-:\[\]]{1,255}")
_SHORTEST_SECONDS = 0.1

CheckDuration = Annotated[
    float,
    PlainValidator(partial(parse_duration, shortest_seconds=_SHORTEST_SECONDS)),
    WithJsonSchema(DURATION_JSON_SCHEMA),
]
"""Seconds; a tenth at least."""

Statuses = tuple[tuple[int, int], ...]
"""Ranges with both ends."""


def parse_target(value: object) -> str:
    """Check the target of a check. :raises BadValue: a request cannot ask for it"""
    if not isinstance(value, str):
        raise BadValue(f"expected a path, found {found(value)}", _PATH_HINT)
    if not _TARGET.fullmatch(value) or "#" in value:
        raise BadValue(f"{quoted(value)} is not a path", f"{_PATH_HINT}; spaces and the like percent-encoded")
    return value


def _target_or_true(value: object) -> str:
    return "/" if value is True else parse_target(value)


def parse_statuses(value: object) -> Statuses:
    """Parse which statuses are good. :raises BadValue: they are no statuses"""
    ranges = []
    for each in value if isinstance(value, list | tuple) else [value]:
        text = str(each) if isinstance(each, int | str) and not isinstance(each, bool) else ""
        match = _STATUS.fullmatch(text)
        if match is None:
            raise BadValue(f"expected statuses, found {found(each)}", _STATUS_HINT)
        low, high = int(match[1]), int(match[2] or match[1])
        if low > high or low < 200 or high > 599:
            raise BadValue(f"{quoted(text)} is no range of final statuses", f"from 200 to 599, {_STATUS_HINT}")
        ranges.append((low, high))
    if not ranges:
        raise BadValue("is empty", _STATUS_HINT)
    return tuple(ranges)


def _parse_body(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise BadValue(f"expected text that the answer has, found {found(value)}", 'such as "ready"')
    return value


def _parse_host(value: object) -> str:
    if not isinstance(value, str) or not _HOST.fullmatch(value):
        raise BadValue(f"expected a host, found {found(value)}", _HOST_HINT)
    return value


class HealthCheck(Section):
    """How the backends of an upstream are checked: by one of `path`, `tcp` and `websocket`."""

    path: Annotated[str, PlainValidator(parse_target), WithJsonSchema({"type": "string", "pattern": "^/"})] | None = (
        Field(default=None, description="What a GET asks for; the answer's status has to be among `status`")
    )
    tcp: Literal[True] | None = Field(default=None, description="Whether it is enough that a connection is accepted")
    websocket: (
        Annotated[
            str,
            PlainValidator(_target_or_true),
            WithJsonSchema({"anyOf": [{"type": "string", "pattern": "^/"}, {"enum": [True]}]}),
        ]
        | None
    ) = Field(default=None, description="Where a WebSocket is opened, which is closed with 1000 at once; true: at /")
    every: CheckDuration = Field(default="5s", validate_default=True, description="From one check to the next")
    timeout: CheckDuration = Field(default="2s", validate_default=True, description="How long a check may take")
    healthy_after: Annotated[int, Strict()] = Field(
        default=2, ge=1, le=100, description="After how many good checks in a row a backend is up"
    )
    unhealthy_after: Annotated[int, Strict()] = Field(
        default=3, ge=1, le=100, description="After how many failed checks in a row a backend is down"
    )
    status: Annotated[
        Statuses,
        PlainValidator(parse_statuses),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "array"}]}),
    ] = Field(
        default="200-399", validate_default=True, description="Statuses that are good, with `path`: 200-399, [200, 204]"
    )
    body: Annotated[str, PlainValidator(_parse_body), WithJsonSchema({"type": "string", "minLength": 1})] | None = (
        Field(default=None, description="Text that the first 64 KiB of the answer must have, with `path`")
    )
    host: Annotated[str, PlainValidator(_parse_host), WithJsonSchema({"type": "string"})] | None = Field(
        default=None, description="`Host` of the request, with `path` and `websocket`; default: the backend's address"
    )
    on_down: Literal["keep", "drain"] = Field(
        default="keep",
        description="What becomes of the tunnels of a backend that is down: left alone, or closed over `drain.period`",
    )

    @classmethod
    def conflicts(cls, written: Mapping[str, object]) -> Iterator[Conflict]:
        """Yield all kinds but the first, the lack of any, and keys that have no effect."""
        kinds = [kind for kind in KINDS if written.get(kind) is not None]
        if not kinds:
            yield Conflict((), BadValue("nothing says how to check", "one of `path`, `tcp` and `websocket`"))
            return
        for kind in kinds[1:]:
            yield Conflict((kind,), BadKey(f"`{kinds[0]}` says already how to check", "one of the two"))
        for key, needed in (("status", ("path",)), ("body", ("path",)), ("host", ("path", "websocket"))):
            if key in written and kinds[0] not in needed:
                hint = f"`{'` or `'.join(needed)}`, or no `{key}`"
                yield Conflict((key,), BadKey(f"has no effect with `{kinds[0]}`", hint))

    @property
    def kind(self) -> Literal["path", "tcp", "websocket"]:
        """Which check it is."""
        return "path" if self.path is not None else "tcp" if self.tcp else "websocket"

    @property
    def target(self) -> str:
        """What is asked for; empty with ``tcp``."""
        return self.path or self.websocket or ""


class Eject(Section):
    """When a backend gets nothing for a while, since requests and handshakes failed there."""

    failures: Annotated[int, Strict()] = Field(default=3, ge=1, le=10_000, description="After how many failures")
    within: Duration = Field(default="10s", validate_default=True, description="In how long a time they must fall")
    for_: Duration = Field(
        default="30s",
        alias="for",
        validate_default=True,
        description="How long the backend gets nothing; doubled, up to 8 times, each time that it fails again soon",
    )


def _check_of(value: object) -> object:
    if is_off(value):
        return None
    if isinstance(value, str) and value in ("tcp", "websocket"):
        return {value: True}
    if not isinstance(value, Mapping | Section):
        text = value if isinstance(value, str) else ""
        raise BadValue(
            f"expected a mapping, tcp, websocket or off, found {found(value)}",
            known(text, ("tcp", "websocket", "off"), "such as {path: /healthz}, or one of"),
        )
    return value


def _eject_of(value: object) -> object:
    if is_off(value):
        return None
    if value is True:
        return {}
    if not isinstance(value, Mapping | Section):
        raise BadValue(
            f"expected a mapping, true or off, found {found(value)}", "such as {failures: 3, within: 10s, for: 30s}"
        )
    return value


HealthCheckOrOff = Annotated[
    HealthCheck | None,
    BeforeValidator(
        _check_of, json_schema_input_type=HealthCheck | Literal["tcp"] | Literal["websocket"] | Literal["off", False]
    ),
]
EjectOrOff = Annotated[Eject | None, BeforeValidator(_eject_of, json_schema_input_type=Eject | bool | Literal["off"])]
