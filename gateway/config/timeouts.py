"""How long each phase of a request or a tunnel may take, globally and per route."""

from pydantic import ConfigDict, Field

from gateway.config.durations import Duration, DurationOrOff
from gateway.config.section import Section, without_defaults


class Timeouts(Section):
    """Timeouts in seconds; None if a limit is off. Constructed from durations: `Timeouts(connect="500ms")`."""

    request_head: Duration = Field(
        default="10s",
        validate_default=True,
        description="How long a client may take to send a whole request head; then 408",
    )
    connect: Duration = Field(
        default="5s",
        validate_default=True,
        description="How long connecting to a backend may take; then 504",
    )
    handshake: Duration = Field(
        default="10s",
        validate_default=True,
        description="How long a backend may take to answer an upgrade; then 504",
    )
    write_stall: Duration = Field(
        default="60s",
        validate_default=True,
        description="How long one side of a tunnel may take no bytes; then the tunnel ends",
    )
    close: Duration = Field(
        default="10s",
        validate_default=True,
        description="How long a tunnel may last after its first Close frame or FIN",
    )
    request_body: Duration = Field(
        default="60s",
        validate_default=True,
        description="How long a client may pause within a request's body; then 408",
    )
    response: DurationOrOff = Field(
        default="60s",
        validate_default=True,
        description="How long a backend may take to begin an answer to plain HTTP, then 504, and to pause within it",
    )
    http_idle: Duration = Field(
        default="75s",
        validate_default=True,
        description="How long a client's connection is kept between two requests",
    )
    idle: DurationOrOff = Field(
        default="off",
        validate_default=True,
        description="How long a tunnel may go without a data frame either way; then Close 1001",
    )
    max_lifetime: DurationOrOff = Field(
        default="off",
        validate_default=True,
        description="How long a tunnel may live; then Close 1012",
    )


class TimeoutOverrides(Timeouts):
    """The timeouts that a route overrides.

    Keys that a route leaves out have their built-in default here, which does not apply: use `Config.timeouts_of`.
    """

    model_config = ConfigDict(json_schema_extra=without_defaults)

    def over(self, base: Timeouts) -> Timeouts:
        """Return `base`, overridden by the keys set here."""
        return self.merged_into(base)
