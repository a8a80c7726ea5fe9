"""When a silent side of a tunnel is sent a Ping, and how long it may take to answer; globally and per route."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema

from gateway.config.durations import DURATION_JSON_SCHEMA, format_duration, is_off, parse_duration
from gateway.config.errors import BadKey, BadValue
from gateway.config.section import Conflict, Section, items_of, value_of, without_defaults
from gateway.config.words import found

_SIDES = ("client", "backend")
_DEFAULTS = {"ping_after": "25s", "min": "5s", "max": "4m"}
_SHORTEST_SECONDS = 1.0  # the sweep that sends Pings runs once a second
_WRONG = object()  # stands for a value whose error is reported by its validator


def parse_interval(value: object) -> float:
    """Parse a duration of at least a second; return seconds.

    :raises BadValue: it is not a duration between a second and a year
    """
    return parse_duration(value, shortest_seconds=_SHORTEST_SECONDS, hint="such as 5s, 20s or 4m")


def parse_ping_after(value: object) -> float | Literal["adaptive"] | None:
    """Parse `ping_after`: return seconds, "adaptive", or None for `off`, which YAML reads as false.

    :raises BadValue: it is none of these, or a duration below a second
    """
    if value == "adaptive":
        return "adaptive"
    if is_off(value):
        return None
    return parse_duration(value, shortest_seconds=_SHORTEST_SECONDS, hint="such as 25s or 4m, or adaptive, or off")


_Interval = Annotated[float, PlainValidator(parse_interval), WithJsonSchema(DURATION_JSON_SCHEMA)]
_PingAfter = Annotated[
    float | Literal["adaptive"] | None,
    PlainValidator(parse_ping_after),
    WithJsonSchema({"anyOf": [DURATION_JSON_SCHEMA, {"enum": ["adaptive", "off", False]}]}),
]


class KeepaliveSide(Section):
    """How one side is kept alive, in seconds; `ping_after` is None for no Pings.

    `min` and `max` bound the learned interval, and only apply if `ping_after` is "adaptive".
    """

    ping_after: _PingAfter = Field(
        default=_DEFAULTS["ping_after"],
        validate_default=True,
        description="Silence of the side after which it is sent a Ping; adaptive learns how much the path tolerates",
    )
    min: _Interval = Field(
        default=_DEFAULTS["min"],
        validate_default=True,
        description="Shortest silence that adaptive may come to",
    )
    max: _Interval = Field(
        default=_DEFAULTS["max"],
        validate_default=True,
        description="Longest silence that adaptive may come to",
    )
    pong_timeout: _Interval = Field(
        default="20s",
        validate_default=True,
        description="How long the side may send nothing after a Ping; then the tunnel ends",
    )

    @classmethod
    def conflicts(cls, written: Mapping[str, object]) -> Iterator[Conflict]:
        """Yield bounds that do not apply, and a `max` below `min`."""
        yield from _misfits(_keys(written), {})


class SideOverrides(KeepaliveSide):
    """The keys of a side that a route overrides. Conflicts are only known after merging."""

    model_config = ConfigDict(json_schema_extra=without_defaults)

    @classmethod
    def conflicts(cls, written: Mapping[str, object]) -> Iterator[Conflict]:
        """Yield nothing: see `misfits_on_routes`."""
        yield from ()

    def over(self, base: KeepaliveSide | None) -> KeepaliveSide:
        """Return `base`, or the defaults if that is off, overridden by the keys set here."""
        return self.merged_into(base or KeepaliveSide())


def _off_is_none(value: object) -> object:
    if is_off(value):
        return None
    if not isinstance(value, Mapping | KeepaliveSide):
        hint = "such as {ping_after: 25s} or {ping_after: adaptive}, or off"
        raise BadValue(f"expected a mapping or off, found {found(value)}", hint)
    return value


_SideOrOff = Annotated[
    KeepaliveSide | None,
    BeforeValidator(_off_is_none, json_schema_input_type=KeepaliveSide | Literal["off", False]),
]
_OverridesOrOff = Annotated[
    SideOverrides | None,
    BeforeValidator(_off_is_none, json_schema_input_type=SideOverrides | Literal["off", False]),
]
_CLIENT = "Pings to clients that are silent; or off"
_BACKEND = "Pings to backends that are silent; or off"


class Keepalive(Section):
    """How both sides of a tunnel are kept alive; None for a side that is sent no Pings."""

    client: _SideOrOff = Field(default_factory=KeepaliveSide, description=_CLIENT)
    backend: _SideOrOff = Field(default_factory=KeepaliveSide, description=_BACKEND)


class KeepaliveOverrides(Section):
    """A route's overrides: use `Config.keepalive_of` to read the result."""

    client: _OverridesOrOff = Field(default_factory=SideOverrides, description=_CLIENT)
    backend: _OverridesOrOff = Field(default_factory=SideOverrides, description=_BACKEND)

    def over(self, base: Keepalive) -> Keepalive:
        """Return `base` overridden by the keys set here."""
        sides: dict[str, SideOverrides | None] = {side: getattr(self, side) for side in self.model_fields_set}
        return base.model_copy(update={side: own and own.over(getattr(base, side)) for side, own in sides.items()})


def misfits_on_routes(written: Mapping[str, object]) -> Iterator[Conflict]:
    """Yield every key of a route's keepalive that conflicts with what it is merged with.

    :param written: the whole configuration, as it is in the file
    """
    general = written.get("keepalive", {})
    for index, route in items_of(written.get("routes")):
        own = value_of(route, "keepalive")
        for side in _SIDES:
            for key, error in _misfits(_keys(_side(own, side)), _keys(_side(general, side))):
                yield Conflict(("routes", index, "keepalive", side, *key), error)


def _side(keepalive: object, side: str) -> object:
    if isinstance(keepalive, Mapping):
        return keepalive.get(side, {})
    return (value_of(keepalive, side) or "off") if isinstance(keepalive, Section) else None


def _keys(side: object) -> dict[str, Any]:
    """Return the values of `ping_after`, `min` and `max` given in `side`: seconds, "adaptive", or None for off."""
    if is_off(side):
        return {}  # overrides of it start from the defaults
    if isinstance(side, KeepaliveSide):
        return {key: getattr(side, key) for key in _DEFAULTS if key in side.model_fields_set}
    if not isinstance(side, Mapping):
        return dict.fromkeys(_DEFAULTS, _WRONG)
    return {key: _parsed(key, side[key]) for key in _DEFAULTS if key in side}


def _parsed(key: str, value: object) -> object:
    try:
        return parse_ping_after(value) if key == "ping_after" else parse_interval(value)
    except BadValue:
        return _WRONG


def _misfits(own: dict[str, Any], base: dict[str, Any]) -> Iterator[Conflict]:
    """Yield the conflicts among the keys `own`, completed by `base` and the defaults."""
    merged = _keys(_DEFAULTS) | base | own
    bounds = [key for key in ("min", "max") if key in own]
    ping_after, shortest, longest = (merged[key] for key in _DEFAULTS)
    if ping_after not in ("adaptive", _WRONG):
        here = "off" if ping_after is None else format_duration(ping_after)
        for key in bounds:
            message = f"allowed only where ping_after is adaptive; it is {here} here"
            yield Conflict((key,), BadKey(message, "leave it out, or write `ping_after: adaptive`"))
    elif bounds and _WRONG not in (shortest, longest) and shortest > longest:
        yield Conflict((bounds[-1],), _out_of_order(bounds[-1], format_duration(shortest), format_duration(longest)))


def _out_of_order(key: str, shortest: str, longest: str) -> BadValue:
    if key == "max":
        return BadValue(f"{longest} is shorter than min, which is {shortest}", f"at least {shortest}, or a shorter min")
    return BadValue(f"{shortest} is longer than max, which is {longest}", f"at most {longest}, or a longer max")
