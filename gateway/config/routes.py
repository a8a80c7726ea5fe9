"""Routes: which requests go to which upstream."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gateway.config.access import Network, Origin
from gateway.config.auth import Auth
from gateway.config.keepalive import KeepaliveOverrides
from gateway.config.limits import Limits
from gateway.config.matching import Match
from gateway.config.names import Name, Upgrade
from gateway.config.section import Section
from gateway.config.timeouts import TimeoutOverrides


def _nothing_matches_all(value: object) -> object:
    # `match:` with all its lines commented out is null in YAML.
    return {} if value is None else value


class Route(Section):
    """Where matching requests go, and which upgrades are allowed."""

    name: Name = Field(description="Unique name, the `route` label of every metric")
    match: Annotated[Match, BeforeValidator(_nothing_matches_all, json_schema_input_type=Match | None)] = Field(
        default_factory=Match,
        description="Conditions that a request has to meet, all of them; absent: every request does",
    )
    upstream: str = Field(description="Name of the upstream that requests go to")
    upgrades: tuple[Upgrade, ...] = Field(
        default=("websocket",),
        description="Protocols that may be upgraded to; an upgrade to another one is ignored",
    )
    http: Literal["proxy", "reject"] = Field(
        default="proxy",
        description="What a request without an upgrade gets: the upstream's answer, or 426",
    )
    origins: tuple[Origin, ...] = Field(
        default=(),
        min_length=1,
        description="Origins whose pages may send requests: https://app.example.com, https://*.example.com, null, or"
        " none (no Origin); others get 403; absent: any",
    )
    allow: tuple[Network, ...] = Field(
        default=(),
        min_length=1,
        description="Networks and addresses of clients that may come in; others get 403. The longest prefix in `allow`"
        " and `deny` decides",
    )
    deny: tuple[Network, ...] = Field(
        default=(),
        description="Networks and addresses of clients that get 403",
    )
    auth: Auth | None = Field(
        default=None,
        description="How clients prove who they are: jwt, basic or forward; without valid credentials they get 401",
    )
    limits: Limits | None = Field(default=None, description="How much a client may do; all limits are off by default")
    timeouts: TimeoutOverrides = Field(
        default_factory=TimeoutOverrides,
        description="Timeouts that differ on this route from the gateway's",
    )
    keepalive: KeepaliveOverrides = Field(
        default_factory=KeepaliveOverrides,
        description="Keys of the keepalive that differ on this route from the gateway's",
    )
