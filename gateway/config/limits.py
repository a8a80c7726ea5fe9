"""How much a client may do on a route."""

import math
from functools import partial
from typing import Annotated

from pydantic import Field, PlainValidator, Strict, WithJsonSchema

from gateway.config.errors import BadValue
from gateway.config.section import Section
from gateway.config.sizes import SIZE_JSON_SCHEMA, parse_size
from gateway.config.words import found, number

_SLOWEST, _FASTEST = 0.001, 1_000_000
_MOST_BURST = 10_000_000
_LEAST_FRAME_BYTES = 125  # control frames always pass: RFC 6455 section 5.5 bounds them by that
_MOST_FRAME_BYTES = 1 << 50


def parse_rate(value: object) -> float:
    """Parse a number of events a second. :raises BadValue: it is not a number, or out of range"""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadValue(f"expected a number for each second, found {found(value)}", "digits without quotes, such as 5")
    if not math.isfinite(value):
        raise BadValue(f"{number(value)} is not a number of events", "digits without quotes, such as 5")
    if value < _SLOWEST:
        raise BadValue(f"{number(value)} is too small", f"at least {_SLOWEST}; without this key there is no limit")
    if value > _FASTEST:
        raise BadValue(f"{number(value)} is too large", f"at most {_FASTEST}; without this key there is no limit")
    return float(value)


Rate = Annotated[
    float,
    PlainValidator(parse_rate),
    WithJsonSchema({"type": "number", "minimum": _SLOWEST, "maximum": _FASTEST}),
]
Burst = Annotated[int, Strict(), Field(ge=1, le=_MOST_BURST)]


class HandshakeRate(Section):
    """How often a client may ask for an upgrade."""

    per_client: Rate = Field(description="Upgrades a second for each client address, IPv6 by /64; more get 429")
    burst: Burst | None = Field(
        default=None, description="How many may come at once after a pause; one second's worth by default"
    )


class MessageRate(Section):
    """How often a client may send a message."""

    per_tunnel: Rate = Field(description="Messages a second from the client of a tunnel; it is read no faster")
    burst: Burst | None = Field(
        default=None, description="How many may come at once after a pause; one second's worth by default"
    )


class Limits(Section):
    """Limits of a route; all are off by default."""

    handshakes_per_second: HandshakeRate | None = Field(
        default=None, description="Upgrades a second for each client address, over all workers; more get 429"
    )
    tunnels_per_client: Annotated[int, Strict(), Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="Tunnels at once for each client address, over all workers; more get 429"
    )
    frame_size: (
        Annotated[
            int,
            PlainValidator(partial(parse_size, least_bytes=_LEAST_FRAME_BYTES, most_bytes=_MOST_FRAME_BYTES)),
            WithJsonSchema(SIZE_JSON_SCHEMA),
        ]
        | None
    ) = Field(default=None, description="Largest payload of a WebSocket frame, from either side; then Close 1009")
    messages_per_second: MessageRate | None = Field(
        default=None, description="Messages a second from the client of each tunnel; it is read no faster"
    )
