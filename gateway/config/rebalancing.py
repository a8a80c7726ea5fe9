"""Whether tunnels move by themselves once a backend has come into service."""

from collections.abc import Mapping

from pydantic import Field

from gateway.config.durations import Duration, is_off
from gateway.config.errors import BadValue
from gateway.config.section import Section
from gateway.config.words import found


class Rebalance(Section):
    """When tunnels begin to move to a backend that has come into service, and how fast."""

    settle: Duration = Field(
        default="30s",
        validate_default=True,
        description="How long the backends in service must stay the same before it begins",
    )
    period: Duration = Field(
        default="2m",
        validate_default=True,
        description="Time over which the tunnels are closed, evenly spread",
    )


def parse_rebalance(value: object) -> object:
    """Read `rebalance` of an upstream: a mapping, or `off`. :raises BadValue: it is something else"""
    if is_off(value):
        return None
    if not isinstance(value, Mapping | Section):
        raise BadValue(f"expected a mapping or off, found {found(value)}", "such as {settle: 30s, period: 2m}, or off")
    return value
